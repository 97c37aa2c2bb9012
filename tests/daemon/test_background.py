# SPDX-License-Identifier: MIT
"""`vfioemu serve` as a newcomer types it, on a machine where it never ran; in the background; and `vfioemu stop`."""

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.sample import sampled

VFIOEMU = [sys.executable, "-P", "-m", "vfioemu.cli.main"]
INSTANCE = f"test-{os.getpid()}"


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="vfb-") as name:
        yield Path(name)


@pytest.fixture(params=sampled(["a runtime directory", "none", "one that is gone", "HOME"], 2))
def environment(request, folder):
    """What a login may give; nothing of ours has been in any of these places."""
    found = {"PATH": "/usr/bin:/bin"}
    if request.param == "HOME":
        found["HOME"] = os.fspath(folder)
    elif request.param != "none":
        found["XDG_RUNTIME_DIR"] = os.fspath(folder / "run")
    if request.param == "a runtime directory":
        (folder / "run").mkdir(0o700)
    yield found
    last = Path(f"/tmp/vfioemu-{os.getuid()}")
    shutil.rmtree(last / INSTANCE, ignore_errors=True)
    with contextlib.suppress(OSError):
        last.rmdir()  # if nothing else is in it


def vfioemu(environment, *words, status=0):
    done = subprocess.run(
        [*VFIOEMU, *map(str, words)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_first_start_without_a_word_about_directories(environment):
    said = vfioemu(environment, "serve", "--instance", INSTANCE, "--device=mtty", "--background")
    assert "vfioemu run --instance" in said
    found = re.search(r"\(pid (\d+),", said)
    assert found
    pid = int(found[1])
    ended = os.pidfd_open(pid)
    try:
        out = vfioemu(environment, "run", "--instance", INSTANCE, "--", "ls", "/dev/vfio")
        assert re.fullmatch(r"\d+\nvfio\n", out), out
        again = vfioemu(environment, "serve", "--instance", INSTANCE, "--device=mtty", status=1)
        assert f"(pid {pid})" in again
        assert f"vfioemu stop --instance {INSTANCE}`" in again
    finally:
        vfioemu(environment, "stop", "--instance", INSTANCE)
    assert select.select([ended], [], [], 0)[0], "it ends before `stop` does"
    os.close(ended)
    assert "no daemon runs in" in vfioemu(environment, "stop", "--instance", INSTANCE, status=1)


def test_what_goes_wrong_is_said_before_the_command_returns(folder):
    where = ["--runtime-dir", folder / "run", "--background"]
    environment = {"PATH": "/usr/bin:/bin"}
    (folder / "run").mkdir(0o755)
    said = vfioemu(environment, "serve", "--device=mtty", *where, status=1)
    assert "is open to others" in said
    assert said.count("error:") == 1
    assert "--trace=FILE" in vfioemu(environment, "serve", "--device=mtty", "--trace", *where, status=2)
    assert "goes without" in vfioemu(
        environment, "serve", "--device=mtty", "--exit-with-parent", *where, status=2
    )


def test_nobody_waits_for_a_pipe_that_the_daemon_holds(folder):
    """$(vfioemu serve --background) returns, and so does a script whose output is piped."""
    environment = {"PATH": "/usr/bin:/bin"}
    said = vfioemu(environment, "serve", "--device=mtty", "--runtime-dir", folder / "r", "--background")
    assert f"vfioemu stop --runtime-dir {folder}/r" in said
    vfioemu(environment, "stop", "--runtime-dir", folder / "r")
    assert {path.name for path in (folder / "r").iterdir()} == {"lock", "log"}


def test_private_one_is_named_and_goes(folder):
    environment = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": os.fspath(folder)}
    said = vfioemu(environment, "serve", "--device=mtty", "--private", "--background")
    found = re.search(r"--connect (\S+)", said)
    assert found
    place = Path(found[1])
    assert place.parent.parent == folder
    vfioemu(environment, "stop", "--runtime-dir", place)
    assert not place.exists()
