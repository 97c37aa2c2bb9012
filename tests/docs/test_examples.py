# SPDX-License-Identifier: MIT
"""What the README tells people to type works, and prints what the README says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import vfioemu.daemon
from vfioemu.daemon.config import load_machine

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def promised(command: str) -> str:
    """What the README says that `command` prints."""
    found = re.search(rf"^\$ [^\n]*{re.escape(command)}[^\n]*\n((?:[^$`][^\n]*\n)+)", README, re.MULTILINE)
    assert found, command
    return found[1]


async def test_first_calls_print_what_the_readme_promises(tmp_path_factory: pytest.TempPathFactory) -> None:
    machine = load_machine(ROOT / "docs/examples/machine.toml")
    async with vfioemu.daemon.running(machine, runtime_dir=tmp_path_factory.mktemp("d")) as daemon:
        ended = await trio.run_process(
            [sys.executable, ROOT / "docs/examples/first_calls.py", daemon.socket_path], capture_stdout=True
        )
    assert ended.stdout.decode() == promised("first_calls.py")


def test_conformance_prints_what_the_readme_promises() -> None:
    files = sorted((ROOT / "protocol/golden/linux-6.12").glob("dirty_*.jsonl"))
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "vfioemu.cli.main", "conformance", *files],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == promised("conformance protocol").strip()


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert path.startswith("https://") or (ROOT / path).exists()
