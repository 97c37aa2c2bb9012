# SPDX-License-Identifier: MIT
"""The same run as an ordinary user, with all capabilities dropped: daemons, QEMUs, and the tests themselves."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.system.interop.machine import workplace
from tests.system.interop.programs import VERSIONS, cache
from tests.system.interop.report import Entry

ROOT = Path(__file__).parents[3]
DROP = (
    "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all --inh-caps -all --no-new-privs --"
)
TESTS = (
    "test_boot.py::test_boot[{}]",
    "test_migration.py::test_migration[{}-device-DMA-logging]",
    "test_migration.py::test_migration[{}-two-devices-container-dirty-pages]",
)
V1_TESTS = ("test_boot.py::test_boot[{}]", "test_migration.py::test_migration_v1[v1-region]")


def run(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as the other user; the shell in between is where the last privilege is gone."""
    return subprocess.run(
        [*DROP.split(), "sh", "-c", 'exec "$0" "$@"', *command],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def python(place: Path, environment: dict[str, str]) -> str:
    """A Python that the other user can run, and that has all that the tests need.

    It has a folder of its own that says where to look: PYTHONPATH would do for this one, and not for what it starts (tests/surroundings.py).
    """
    why = ""
    for number, candidate in enumerate((sys.executable, "/usr/bin/python3")):
        home = place / f"python{number}"
        subprocess.run([candidate, "-m", "venv", "--without-pip", "--copies", home], check=True)
        (packages,) = home.glob("lib/python*/site-packages")
        (packages / "here.pth").write_text("\n".join([str(ROOT), *filter(None, sys.path)]))
        chosen = str(home / "bin/python")
        found = run([chosen, "-P", "-c", "import pytest_trio, vfioemu.cli.main"], environment)
        if found.returncode == 0:
            return chosen
        why = found.stderr.strip()[-200:]
    pytest.skip(f"uid 65534 has no Python that can import vfioemu: {why}")


@pytest.mark.parametrize("generation", VERSIONS)
def test_unprivileged(entry: Entry, generation: str) -> None:
    """an ordinary user without capabilities"""
    entry.title = f"an ordinary user without capabilities, QEMU {generation}"
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    status = run(["cat", "/proc/self/status"], {}).stdout
    assert re.findall(r"^Cap\w+:\s*(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
    with workplace() as place:
        place.chmod(0o755)
        copy = place / "cache" / "interop"
        copy.mkdir(parents=True)
        for name in (entry.guest.initrd.name, "guest", generation):
            if (cache() / name).exists():  # else it is the system's
                subprocess.run(["cp", "-aL", cache() / name, copy / name], check=True)
        environment = {
            "HOME": str(place),
            "PYTHONDONTWRITEBYTECODE": "1",
            "VFIOEMU_CACHE": str(copy.parent),
        }
        chosen = V1_TESTS if generation == VERSIONS[0] else TESTS
        tests = [f"tests/system/interop/{name.format(generation)}" for name in chosen]
        command = [
            python(place, environment),
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            "-m",
            "interop",
        ]
        ended = run([*command, *tests], environment)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert f"{len(tests)} passed" in ended.stdout
        entry.note(f"uid 65534: {', '.join(re.findall(r'  (.*?) +ok ', ended.stdout))}")
