# SPDX-License-Identifier: MIT
"""The program or the daemon dies, or stands still, at any moment."""

import errno
import os
import random
import signal
import subprocess

import pytest

from tests.system.preload.conftest import PATIENCE, environment
from vfioemu import preload
from vfioemu.testing.daemon import daemon_process, device_name, machine_of

GROUP = 12
GONE = {"ioctl": errno.EIO, "pread": errno.EIO, "pwrite": errno.EIO, "mmap": errno.EIO, "map": errno.EIO}


@pytest.fixture(params=["ask", "process_vm"])
def process(request):
    """A daemon that can be killed."""
    with daemon_process(machine_of([GROUP]), "--memory", request.param) as running:
        yield running


class Patient:
    """A running program that does what it is told."""

    def __init__(self, process, programs):
        self.program = subprocess.Popen(
            [programs("patient"), str(GROUP), device_name(GROUP)], env=environment(process),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.line() == "ready 0 0"

    def tell(self, order):
        self.program.stdin.write(f"{order}\n")
        self.program.stdin.flush()

    def line(self):
        return self.program.stdout.readline().strip()

    def answers(self):
        """Results by call, up to "done"."""
        answers = {}
        while (line := self.line()) != "done 0 0":
            what, result, error = line.split()
            answers[what] = int(error) if int(result) < 0 else int(result)
        return answers

    def end(self):
        out, err = self.program.communicate(timeout=PATIENCE)
        return self.program.returncode, out, err


@pytest.fixture
def patient(process, programs):
    started = Patient(process, programs)
    yield started
    if started.program.poll() is None:
        started.program.kill()
    started.program.communicate(timeout=PATIENCE)


def killed(process):
    """kill -9 of the daemon; its own bookkeeping need not see a clean end."""
    os.kill(process.pid, signal.SIGKILL)
    process._process.wait(PATIENCE)
    process.stop = lambda: 128 + signal.SIGTERM


def test_calls_fail_at_once_when_the_daemon_is_dead(process, patient):
    patient.tell("call")
    assert patient.answers() == {
        "ioctl": 1, "pread": 4, "pwrite": 4, "mmap": errno.EINVAL, "map": 0, "open": 0, "poll": 0
    }  # fmt: skip

    killed(process)

    for _ in range(2):
        patient.tell("call")
        assert patient.answers() == {**GONE, "open": errno.ENODEV, "poll": 1}
    status, _, said = patient.end()
    assert status == 0
    # Said once, and nothing else is.
    assert said.count("\n") == 1
    assert said.startswith("vfioemu-preload: cannot use VFIOEMU_SOCKET=")


def test_a_call_in_progress_fails_when_the_daemon_dies(process, patient):
    patient.tell("loop")
    assert patient.line() == "looping 0 0"
    killed(process)
    assert patient.answers() == {"pread": errno.EIO}


def test_a_stopped_daemon_is_waited_for(process, patient):
    patient.tell("call")
    patient.answers()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        patient.tell("call")
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert patient.answers()["pread"] == 4
    patient.tell("loop")
    assert patient.line() == "looping 0 0"
    for _ in range(20):
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGCONT)
    # And a program that is stopped goes on where it was.
    for _ in range(20):
        patient.program.send_signal(signal.SIGSTOP)
        patient.program.send_signal(signal.SIGCONT)
    assert patient.program.poll() is None


def test_a_killed_program_leaves_nothing_behind(process, programs):
    clean = process.held()
    rng = random.Random(1)
    for _ in range(12):
        patient = Patient(process, programs)
        patient.tell("loop")
        patient.line()
        for _ in range(rng.randrange(400)):  # some time, measured in calls of others
            process.ask("stats")
        patient.program.kill()
        patient.program.communicate(timeout=PATIENCE)
        while process.ask("stats")["sessions"] != clean["sessions"]:
            pass
        # The group can be opened by the next one at once.
    assert {**process.held(), "fds": 0} == {**clean, "fds": 0}


class TestSettings:
    """What is wrong with them is said once, on stderr."""

    def run(self, *program, **env):
        result = subprocess.run(
            program, env={**os.environ, "LD_PRELOAD": str(preload.library()), **env},
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        return result.returncode, result.stdout, result.stderr

    def test_without_a_socket_it_does_nothing(self, programs):
        assert self.run("/bin/echo", "hello", VFIOEMU_DEBUG="nonsense") == (0, "hello\n", "")

    def test_unknown_debug_words_are_fatal(self):
        status, _, said = self.run("/bin/echo", VFIOEMU_SOCKET="/nowhere", VFIOEMU_DEBUG="shim,nonsense")
        assert status == 2
        assert said == (
            "vfioemu-preload: VFIOEMU_DEBUG=nonsense: there are shim, path, fd and rpc, separated by commas\n"
        )

    @pytest.mark.parametrize("word", ["shim", "path", "fd", "rpc", "shim,path,fd,rpc", ""])
    def test_known_debug_words(self, word):
        status, _, said = self.run("/bin/true", VFIOEMU_SOCKET="/nowhere", VFIOEMU_DEBUG=word)
        assert status == 0
        assert ("loaded" in said) == ("shim" in word)

    def test_a_socket_that_is_not_there(self, programs, tmp_path):
        where = str(tmp_path / "none")
        status, _, said = self.run(programs("opens"), VFIOEMU_SOCKET=where)
        assert (status, said) == (
            errno.ENODEV, f"vfioemu-preload: cannot use VFIOEMU_SOCKET={where}: there is no such socket (-2)\n"
        )  # fmt: skip

    def test_a_name_that_is_too_long(self, programs):
        status, _, said = self.run(programs("opens"), VFIOEMU_SOCKET="/" + "x" * 200)
        assert status == errno.ENOENT
        assert said.startswith("vfioemu-preload: VFIOEMU_SOCKET has 201 bytes")
