# SPDX-License-Identifier: MIT
"""Nothing in the current directory is executed: a folder may be somebody else's, or have names that are ours, too."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VFIOEMU = Path(sys.executable).parent / "vfioemu"
NAMES = (
    "click",
    "construct",
    "ctypes",
    "json",
    "logging",
    "queue",
    "rich",
    "sitecustomize",
    "socket",
    "tests",
    "trio",
)
COMMANDS: dict[str, list[str | Path]] = {
    "run": ["run", "--device=mtty", "--", "echo", "done"],
    "conformance": ["conformance", ROOT / "protocol/golden/linux-6.12/map.jsonl"],
    "conformance --socket": ["conformance", "--socket", "-j2", ROOT / "protocol/golden/linux-6.12/map.jsonl"],
    "devices": ["devices"],
    "decode": ["decode", "--ioctl=MAP_DMA", "00" * 32],
    "serve": ["serve", "--device=mtty", "--private", "--exit-with-fd=0"],
}
IN_THE_BACKGROUND = (
    ["serve", "--device=mtty", "--runtime-dir=d", "--background"],
    ["stats", "--runtime-dir=d"],
    ["mdev", "start", "--runtime-dir=d", "-t", "oracle", "-o", "variant=basic"],
    ["stop", "--runtime-dir=d"],
)
INSTANCE = """
from vfioemu.testing.instance import Instance
with Instance() as vfioemu:
    vfioemu.device("mtty")
    done = vfioemu.run(["echo", "done"])
    assert done.stdout == "done\\n", done.stderr
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Modules that leave a trace when they are executed."""
    folder = tmp_path_factory.mktemp("f")
    code = f"open({os.fspath(folder / 'executed')!r}, 'a').write(__name__ + '\\n')\nraise SystemExit(99)\n"
    for name in NAMES:
        (folder / f"{name}.py").write_text(code)
    for package in ("vfioemu", "msgspec"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(code)
    return folder


def executed(folder):
    file = folder / "executed"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("name", COMMANDS)
def test_command_takes_no_code_from_there(folder, name):
    done = subprocess.run(
        [VFIOEMU, *COMMANDS[name]], cwd=folder, capture_output=True, text=True, timeout=200, input=""
    )
    assert executed(folder) == ""
    assert done.returncode == (143 if name == "serve" else 0), done.stderr


def test_daemon_in_the_background_takes_no_code_from_there(folder):
    for line in IN_THE_BACKGROUND:
        done = subprocess.run([VFIOEMU, *line], cwd=folder, capture_output=True, text=True, timeout=200)
        assert (executed(folder), done.returncode) == ("", 0), done.stderr


def test_demo_takes_no_code_from_there(folder):
    with subprocess.Popen([VFIOEMU, "demo"], cwd=folder, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert any("on daemon a" in line for line in demo.stdout), (
                "both daemons and `incoming` have been started"
            )
        finally:
            demo.send_signal(signal.SIGTERM)
            demo.communicate()
    assert executed(folder) == ""


def test_fixture_takes_no_code_from_there(folder):
    done = subprocess.run(
        [sys.executable, "-P", "-c", INSTANCE], cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert executed(folder) == ""
