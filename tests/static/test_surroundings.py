# SPDX-License-Identifier: MIT
"""`make test` touches nothing but the checkout: whoever starts it finds home, /tmp and /dev/shm as they were."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOME = {".bash_history": "true\n" * 5000, ".cache/x": "", ".profile": ""}
LITTER = """
import os, pathlib, tempfile

def test_litters():
    pathlib.Path(os.environ["HOME"], ".bash_history").chmod(0o644)
    pathlib.Path(os.environ["HOME"], ".bash_history").write_text("cut")
    pathlib.Path(tempfile.mkdtemp())
    pathlib.Path(os.environ["XDG_RUNTIME_DIR"], "vfioemu", "default").mkdir(parents=True)
"""


@pytest.fixture
def folder():
    """Short enough for sockets three levels below."""
    with tempfile.TemporaryDirectory(prefix="v") as name:
        yield Path(name)


def session(folder, *arguments):
    """A session of pytest with what a login gives; and what is at home and in TMPDIR behind it."""
    home, temporary = folder / "h", folder / "t"
    for name, text in HOME.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    temporary.mkdir()
    home.chmod(0o555)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            ROOT / "pyproject.toml",
            *arguments,
        ],
        cwd=ROOT,
        env={"HOME": os.fspath(home), "TMPDIR": os.fspath(temporary), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=280,
    )
    home.chmod(0o755)
    found = {
        os.fspath(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()
    }
    return done, found, list(temporary.iterdir())


@pytest.mark.slow
def test_interactive_shells_and_daemons_of_tests_leave_nothing(folder):
    chosen = [
        "tests/system/run/test_life.py",
        "tests/daemon/test_background.py",
        "-k",
        "Terminal or Neighbours or directories",
    ]
    done, home, temporary = session(folder, *chosen, "-m", "not slow")
    assert done.returncode == 0, done.stdout
    assert home == HOME
    assert temporary == []


def test_one_that_leaves_something_fails_its_session(folder):
    """By itself it passes: the session does not."""
    (folder / "test_litter.py").write_text(LITTER)
    done, home, temporary = session(folder, "-p", "tests.conftest", folder / "test_litter.py")
    assert "1 passed" in done.stdout
    assert done.returncode == 1
    assert ".bash_history was changed" in done.stdout
    assert done.stdout.count(" was left") == 2
    assert home == HOME
    assert temporary == []
