# SPDX-License-Identifier: MIT
"""Whoever starts a daemon may die at any moment, of any signal: no process and no folder stays."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sample import sampled
from vfioemu.starting import command, python

ROOT = Path(__file__).parents[3]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
STAY = ("pytest-of-", "vfioemu")
"""What stays: the last sessions of pytest, as everybody knows; the user's own directory, empty, so that its name is his."""
SOON = 120.0
"""Seconds; it is one, the rest is for machines that do other things as well."""
INSTANCE = """
import signal
from vfioemu.testing.instance import Instance
with Instance() as vfioemu:
    vfioemu.device("mtty")
    vfioemu.run(["sleep", "600"])
"""
FIXTURE = """
def test_it(vfioemu):
    vfioemu.device("mtty")
    vfioemu.run(["sleep", "600"])
"""
STARTERS = {
    "run": (lambda _: command("run", "--device=mtty", "--", "sleep", "600"), 1.5),
    "demo": (lambda _: command("demo"), 6.0),
    "conformance": (
        lambda _: command("conformance", "--socket", "-j2", ROOT / "protocol/golden/linux-6.12"),
        4.0,
    ),
    "instance": (lambda _: [sys.executable, "-P", "-c", INSTANCE], 2.0),
    "fixture": (
        lambda folder: [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            folder / "test_it.py",
        ],
        4.0,
    ),
    "fuzz": (
        lambda folder: [
            "env",
            f"PYTHONPATH={ROOT}",
            *python("tests.fuzzing", "--engine=walk", "-j2", "--work", folder / "w"),
        ],
        2.0,
    ),
}
"""How each is started, and how long it takes until nothing new happens."""


def marked(mark):
    """The processes that have inherited a variable: all that was started."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if mark in (place / "environ").read_bytes():
                    found.append(int(place.name))
            except OSError:
                pass  # it is gone, or another user's
    return found


def told(left):
    """What is left, in words: a process by its state and its command line."""
    words = []
    for one in left:
        if isinstance(one, int):
            try:
                state, parent = Path(f"/proc/{one}/stat").read_text().rpartition(") ")[2].split()[:2]
                line = Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                words.append(f"{one} ({state}, child of {parent}): {line}")
            except OSError:
                words.append(f"{one}, which has gone just now")
        else:
            words.append(str(one))
    return words


def check(name, number, moment):
    make, _ = STARTERS[name]
    with tempfile.TemporaryDirectory(prefix="vfl-") as base:
        folder, work = Path(base) / "t", Path(base) / "w"
        folder.mkdir()
        work.mkdir()
        (work / "test_it.py").write_text(FIXTURE)
        mark = f"VFIOEMU_TEST_MARK={uuid.uuid4()}"
        variable, _, value = mark.partition("=")
        places = {"TMPDIR": os.fspath(folder), "XDG_RUNTIME_DIR": os.fspath(folder)}
        process = subprocess.Popen(
            make(work),
            cwd=work,
            env={**os.environ, **places, variable: value},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moment)
        process.send_signal(number)
        process.wait(SOON)
        deadline = time.monotonic() + SOON
        clean = 0
        try:
            while (
                clean < 3
            ):  # a process that begins to execute another program has no environment for a moment
                left = marked(mark.encode())
                left += [path for path in folder.glob("*") if not path.name.startswith(STAY)]
                left += list(folder.glob("vfioemu*/*"))
                clean = 0 if left else clean + 1
                assert time.monotonic() < deadline, (number, moment, told(left))
                time.sleep(0.03)
        finally:
            for pid in marked(mark.encode()):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("name", sampled(STARTERS))
def test_nothing_is_left_of_one_that_is_killed(name):
    """As soon as its daemon may be there, and a moment that is another for each."""
    dice = random.Random(name)
    for number in SIGNALS:
        check(name, number, dice.uniform(0.1, STARTERS[name][1]))


@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", STARTERS)
def test_nothing_is_left_at_fifty_moments(name):
    """Of each signal in turn; four at a time, for most of it is waiting."""
    dice = random.Random(f"fifty of {name}")
    moments = [dice.uniform(0, STARTERS[name][1]) for _ in range(50)]
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda nth: check(name, SIGNALS[nth % len(SIGNALS)], moments[nth]), range(50))
        assert len(list(done)) == 50
