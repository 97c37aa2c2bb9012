# SPDX-License-Identifier: MIT
"""Exit statuses say what happened, whatever becomes of standard output and error, and whatever signal comes late."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sample import sampled
from vfioemu.starting import command

ROOT = Path(__file__).parents[2]
MAP = ROOT / "protocol/golden/linux-6.12/map.jsonl"
SEVEN: list[str | Path] = ["run", "--device=mtty", "--", "sh", "-c", "exit 7"]
CALLS: list[str | Path] = ["run", "--device=mtty", "--trace", "--", "sh", "-c", "cat /dev/vfio/vfio; exit 7"]
ENDS: dict[str, tuple[list[str | Path], int]] = {
    "run": (SEVEN, 7),
    "run --trace": (CALLS, 7),
    "run -v": (["-v", *SEVEN], 7),
    "conformance": (["conformance", "-j1", MAP], 0),
    "usage": (["run"], 2),
    "no such option": (["serve", "--nothing"], 2),
    "failure": (["stats", "--runtime-dir=/nonexistent"], 1),
}
PRINTERS: dict[str, list[str]] = {
    "help": ["--help"],
    "help of a command": ["migrate", "--help"],
    "version": ["--version"],
    "devices": ["devices"],
    "decode": ["decode", "--ioctl=MAP_DMA", "00" * 32],
}


def pipe_that_nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


PLACES = {
    "closed": lambda: None,
    "full": lambda: os.open("/dev/full", os.O_WRONLY),
    "a pipe that nobody reads": pipe_that_nobody_reads,
}


def run(line, out=None, err=None):
    """The exit status, and what was said on stderr if that is not `err`; `out` and `err` as in PLACES."""
    fds = {}
    script = []
    for number, place in ((1, out), (2, err)):
        if place is not None:
            fds[number] = PLACES[place]()
            script.append(f"{number}>&-" if fds[number] is None else f"{number}>&{fds[number]}")
    given = [fd for fd in fds.values() if fd is not None]
    try:
        done = subprocess.run(
            ["bash", "-c", f'"$@" {" ".join(script)}', "bash", *map(str, line)],
            capture_output=True,
            text=True,
            pass_fds=given,
            timeout=200,
        )
    finally:
        for fd in given:
            os.close(fd)
    return done.returncode, done.stderr


@pytest.mark.parametrize("place", sampled(PLACES, 2))
@pytest.mark.parametrize("name", ENDS)
def test_status_is_what_happened_wherever_stderr_goes(name, place):
    line, status = ENDS[name]
    assert run(command(*line), err=place) == (status, "")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["run", "conformance"])
def test_who_does_more_than_to_print_goes_on_without(name, place):
    line, status = ENDS[name]
    lost = {"closed": "Bad file descriptor", "full": "No space left on device"}
    said = f"vfioemu: error: the output is not complete: {lost[place]}\n" if place in lost else ""
    assert run(command(*line), out=place) == (status, "" if name == "run" else said)


@pytest.mark.parametrize("name", PRINTERS)
def test_who_only_prints_has_failed(name):
    line = command(*PRINTERS[name])
    said = "vfioemu: error: cannot write to standard output: "
    assert run(line, out="full") == (1, f"{said}No space left on device\n")
    assert run(line, out="closed") == (1, f"{said}Bad file descriptor\n")
    assert run(line, out="a pipe that nobody reads") == (128 + signal.SIGPIPE, "")


OURS = """
import os, sys
sys.argv[0] = "vfioemu"
import vfioemu.cli  # takes back what Python does at SIGINT
os.close(int(sys.argv.pop(1)))
from vfioemu.cli.main import main
main()
"""
"""`vfioemu`, which tells by closing an fd that the interpreter has come to our code."""


@pytest.mark.parametrize("moments", sampled([[0, 0.5], [0.05, 0.2, 1.5]]))
def test_interrupt_ends_a_command_with_one_line(tmp_path, moments):
    """The terminal's: for the whole process group. At moments from the first line of ours to deep in the work."""
    line = ["conformance", "--socket", "-j2", ROOT / "protocol/golden/linux-6.12"]
    for moment in moments:
        begun, theirs = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", OURS, str(theirs), *map(str, line)],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            pass_fds=[theirs],
        )
        os.close(theirs)
        with open(begun, "rb") as pipe:
            pipe.read()
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=100)
        assert process.returncode in (130, -signal.SIGINT, 0), errors
        assert errors in ("vfioemu: interrupted\n", ""), moment


def test_signal_that_comes_when_the_program_has_ended_changes_nothing(tmp_path):
    """`run` has its daemon and a directory to clear away then."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = f"import os; os.open({os.fspath(fifo)!r}, os.O_WRONLY); os._exit(7)"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = subprocess.Popen(
            command("run", "--device=mtty", "--", sys.executable, "-c", code), stderr=subprocess.PIPE
        )
        with fifo.open("rb") as program:
            assert program.read() == b""  # the only writer has ended
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
        assert (process.returncode, errors) == (7, b"")


BROKEN = """
import sys
from importlib.metadata import EntryPoint
import vfioemu.devices.registry as registry
registry.entry_points = lambda group: [EntryPoint("theirs", "nothing.of_the_kind:Device", group)]
from vfioemu.cli.main import main
sys.argv[1:] = sys.argv[2:]
main()
"""


def test_broken_model_of_somebody_else_is_no_internal_error():
    for words, status in ((["devices"], 0), (["serve", "--private", "--device=theirs"], 1)):
        done = subprocess.run(
            [sys.executable, "-c", BROKEN, "vfioemu", *words], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == status, done.stderr
        assert "nothing.of_the_kind" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "report" not in done.stderr


def test_what_stands_before_the_command_is_said_to():
    done = subprocess.run(
        command("serve", "-v", "--device=mtty"), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert "`vfioemu -v serve ...`" in done.stderr
    done = subprocess.run(command("migrat"), capture_output=True, text=True, timeout=100)
    assert "did you mean 'migrate'?" in done.stderr
    done = subprocess.run(command(), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.partition(" ")[0]) == (2, "Usage:")
