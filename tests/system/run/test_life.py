# SPDX-License-Identifier: MIT
"""Who outlives whom: programs, `vfioemu run` and daemons that are killed or stopped, and signals that are passed on."""

import contextlib
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.run.helpers import CLIENT, Runner, children, end, gone, read_line, wait_gone
from vfioemu.cli.run import _end
from vfioemu.testing.daemon import daemon_process, machine_of

SOON = 60.0
"""Seconds; the promise is one, the rest is for machines that do other things as well."""
DEVICE = "--device=oracle,variant=basic,bus=mdev"
SHOW = "import os, time; print(os.environ['VFIOEMU_SOCKET'], os.getpid(), flush=True); time.sleep(600)"
SIGNALS = """
import os, signal, sys
awaited = [getattr(signal, "SIG" + name) for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH")]
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)  # they wait until we do: no handler interrupts what we print
print("ready", flush=True)
seen = []
while len(seen) < int(sys.argv[1]):
    seen.append(signal.sigwait(awaited).name)
    print(*seen, flush=True)
sys.exit(5)
"""

LATE = """
import os, signal, sys, time
fork = os.fork
def late():
    print("about to fork", flush=True)
    while signal.SIGINT not in signal.sigpending(): time.sleep(0.01)
    return fork()
os.fork = late
from vfioemu.cli.main import main
main()
"""


def daemon_of(process, program):
    """The private daemon of a started `vfioemu run`."""
    (daemon,) = set(children(process.pid)) - {program}
    return daemon


@contextlib.contextmanager
def sleeping(run):
    """A started program that does nothing: the run, its own pid, the daemon's, the runtime directory."""
    with run.started(sys.executable, "-c", SHOW, options=[DEVICE]) as process:
        path, pid = read_line(process).split()
        daemon = daemon_of(process, int(pid))
        try:
            yield process, int(pid), daemon, Path(path).parent
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)
            process.wait()
            end(daemon)


class TestKilled:
    def test_with_the_run_all_of_it_goes(self, run):
        with sleeping(run) as (process, program, daemon, directory):
            process.kill()
            process.wait()
            assert wait_gone(program)
            assert wait_gone(daemon)
            assert not directory.exists()

    def test_with_the_program_all_of_it_goes(self, run):
        with sleeping(run) as (process, program, daemon, directory):
            os.kill(program, signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
            assert gone(daemon)
            assert not directory.exists()

    def test_without_its_daemon_a_program_gets_errors(self, run):
        with run.started(sys.executable, CLIENT, "forever", options=[DEVICE]) as process:
            assert read_line(process) == "ready"
            (program,) = [
                pid
                for pid in children(process.pid)
                if "client.py" in Path(f"/proc/{pid}/cmdline").read_text()
            ]
            daemon = daemon_of(process, program)
            directory = next(
                Path(word.partition("=")[2]).parent
                for word in Path(f"/proc/{program}/environ").read_text().split("\0")
                if word.startswith("VFIOEMU_SOCKET=")
            )
            os.kill(daemon, signal.SIGKILL)
            assert read_line(process) == "EIO"
            assert process.wait(60) == 0
            assert b"the daemon has ended" in process.stderr.read()
            assert not directory.exists()

    def test_daemon_that_is_seen_to_end_after_its_program_is_told_of(self, caplog):
        """Its sockets close first, so the program may be reaped before it."""
        with subprocess.Popen(
            ["sh", "-c", "trap 'kill $!; kill -9 $$' TERM; echo; sleep 60 & wait"], stdout=subprocess.PIPE
        ) as dies:
            dies.stdout.readline()
            _end(dies)
        assert "the daemon has ended (status -9)" in caplog.text
        caplog.clear()
        with subprocess.Popen(
            ["sh", "-c", "trap 'kill $!; exit' TERM; echo; sleep 60 & wait"], stdout=subprocess.PIPE
        ) as ends:
            ends.stdout.readline()
            _end(ends)
        assert not caplog.text

    def test_a_program_that_is_killed_holds_nothing_any_more(self, daemon, connected):
        before = daemon.held()
        with connected.started(sys.executable, CLIENT, "forever") as process:
            assert read_line(process) == "ready"
            assert daemon.held()["files"] == {"container": 1, "device": 1, "group": 1}
            (program,) = children(process.pid)
            os.kill(program, signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
            deadline = time.monotonic() + SOON
            while daemon.held() != before:
                assert time.monotonic() < deadline, daemon.held()
        assert connected.json(sys.executable, CLIENT, "once") == {"ok": True}


class TestStopped:
    def test_a_stopped_daemon_is_waited_for(self, run):
        with run.started(sys.executable, CLIENT, "wait", options=[DEVICE], stdin=subprocess.PIPE) as process:
            assert read_line(process) == "ready"
            (program,) = [
                pid
                for pid in children(process.pid)
                if "client.py" in Path(f"/proc/{pid}/cmdline").read_text()
            ]
            daemon = daemon_of(process, program)
            os.kill(daemon, signal.SIGSTOP)
            process.stdin.close()
            assert not select.select([process.stdout], [], [], 0.5)[0]
            os.kill(daemon, signal.SIGCONT)
            assert read_line(process) == '{"ok": true}'
            assert process.wait(60) == 0

    @pytest.mark.slow
    def test_a_run_ends_its_daemon_although_it_is_stopped(self, run):
        with sleeping(run) as (process, program, daemon, directory):
            os.kill(daemon, signal.SIGSTOP)
            os.kill(program, signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
            assert gone(daemon)
            assert not directory.exists()


class TestSignals:
    def test_each_is_passed_on_once(self, connected):
        names = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"]
        with connected.started(sys.executable, "-c", SIGNALS, str(len(names))) as process:
            assert read_line(process) == "ready"
            seen = []
            for name in names:
                process.send_signal(getattr(signal, f"SIG{name}"))
                seen.append(f"SIG{name}")
                assert read_line(process) == " ".join(seen)
            assert process.wait(60) == 5

    def test_one_for_the_whole_group_that_the_program_sends_is_not_passed_back(self, connected):
        code = SIGNALS.replace('print("ready", flush=True)', "os.kill(0, signal.SIGUSR1)")
        assert code != SIGNALS
        with connected.started(sys.executable, "-c", code, "2", start_new_session=True) as process:
            assert read_line(process) == "SIGUSR1"
            process.send_signal(signal.SIGTERM)
            assert read_line(process) == "SIGUSR1 SIGTERM"
            assert process.wait(60) == 5

    def test_a_program_that_is_stopped_alone_does_not_stop_us_for_good(self, connected):
        with connected.started(sys.executable, "-c", SIGNALS, "1") as process:
            assert read_line(process) == "ready"
            (program,) = children(process.pid)
            for stop in (signal.SIGSTOP, signal.SIGTSTP):
                os.kill(program, stop)
                os.kill(program, signal.SIGCONT)
                os.kill(process.pid, signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            assert read_line(process) == "SIGTERM"
            assert process.wait(60) == 5


class Terminal:
    """A program on a terminal of its own, which is its session's: by default an interactive shell."""

    def __init__(self, environment, line=("bash", "--norc", "--noprofile", "-i")):
        self.output = ""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            for number in (signal.SIGHUP, signal.SIGINT):  # whatever whoever tests had them do
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(line[0], line, environment)  # pragma: no cover

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern, timeout=120.0):
        """Wait for output that matches; what came before it is forgotten."""
        while not (match := re.search(pattern, self.output)):
            ready, _, _ = select.select([self.fd], [], [], timeout)
            assert ready, f"no {pattern!r} in {self.output!r}"
            self.output += os.read(self.fd, 65536).decode()
        self.output = self.output[match.end() :]
        return match

    def hang_up(self):
        """Take the terminal away."""
        os.close(self.fd)
        self.fd = -1

    def status(self):
        """Wait for the end: as subprocess tells it."""
        ended = os.pidfd_open(self.pid)
        try:
            assert select.select([ended], [], [], SOON)[0], "it does not end"
        finally:
            os.close(ended)
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self):
        if self.pid:
            end(self.pid)
            os.waitpid(self.pid, 0)
        if self.fd >= 0:
            os.close(self.fd)


@contextlib.contextmanager
def on_a_terminal(line):
    """A program as leader of a session with a terminal, as terminal emulators start it."""
    shown = Terminal(dict(os.environ), line)
    try:
        yield shown
    finally:
        shown.close()


@pytest.fixture
def terminal(tmp_path):
    """Its shell writes a history, as all interactive ones do: into a home of its own."""
    shell = Terminal({**os.environ, "HOME": os.fspath(tmp_path), "PS1": "$ ", "TERM": "dumb"})
    yield shell
    shell.close()


class TestTerminal:
    def test_interrupts_come_once_and_jobs_stop_and_go_on(self, terminal, connected):
        program = f"{sys.executable} -c {shlex.quote(SIGNALS)} 3"
        terminal.type(" ".join(connected.line()[:-1]) + f" -- {program}\n")
        terminal.expect("ready\r\n")
        terminal.type("\x03")  # ^C
        terminal.expect("SIGINT\r\n")
        terminal.type("\x1a")  # ^Z
        terminal.expect("Stopped")
        terminal.expect(r"\$ ")
        terminal.type("jobs\n")
        terminal.expect("Stopped")
        terminal.expect(r"\$ ")
        terminal.type("fg\n")
        while b"vfioemu" not in _foreground(terminal.fd):
            pass
        terminal.type("\x1c")  # ^\
        terminal.expect("SIGINT SIGQUIT\r\n")
        terminal.type("\x03")
        terminal.expect("SIGINT SIGQUIT SIGINT\r\n")
        terminal.type("echo status $?\n")
        terminal.expect("status 5")

    @pytest.mark.slow
    def test_the_terminal_is_the_programs(self, terminal, connected):
        terminal.type(" ".join(connected.line()[:-1]) + " -- bash --norc --noprofile -i\n")
        terminal.type("PS1='inn''er> '; stty -a | grep -c isig\n")
        terminal.expect("inner> ")
        terminal.type("sleep 600\n")
        terminal.expect("sleep 600\r\n")
        while b"sleep" not in _foreground(terminal.fd):
            pass
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.type("kill -9 %1\n")
        terminal.expect("inner> ")
        # "wait" does not wait for a job that the shell has not yet seen killed: it is stopped.
        terminal.type("until [ -z \"$(jobs -s)\" ]; do :; done; echo no''more\n")
        terminal.expect("nomore")
        terminal.type("exit 6\n")
        terminal.expect("exit\r\n")
        terminal.type("echo status $?\n")
        terminal.expect("status 6")

    def test_one_that_goes_is_told_to_the_program_where_there_is_no_shell(self, connected):
        """As where a terminal emulator or ssh runs us: the kernel tells the leader of the session alone."""
        with on_a_terminal(connected.line(sys.executable, "-c", SHOW)) as shown:
            program = os.pidfd_open(int(shown.expect(r"vfio.sock (\d+)")[1]))
            shown.hang_up()
            assert shown.status() == -signal.SIGHUP
            assert select.select([program], [], [], 0)[0]
            os.close(program)

    def test_an_interrupt_before_the_program_is_there_is_for_it(self, connected):
        line = connected.line("sleep", "600")
        with on_a_terminal([sys.executable, "-c", LATE, *line[line.index("run") :]]) as shown:
            shown.expect("about to fork")
            shown.type("\x03")
            assert shown.status() == -signal.SIGINT


def _foreground(fd):
    """The command line of the process group that has the terminal."""
    try:
        return Path(f"/proc/{os.tcgetpgrp(fd)}/cmdline").read_bytes()
    except OSError:
        return b""


class TestNeighbours:
    def test_two_runs_know_nothing_of_each_other(self, run):
        with sleeping(run) as (_, _, first, here), sleeping(run) as (_, _, second, there):
            assert first != second
            assert here != there
            assert run.json(sys.executable, CLIENT, "once", options=[DEVICE]) == {"ok": True}
        assert not here.exists()
        assert not there.exists()

    @pytest.mark.slow
    def test_what_a_killed_pair_has_left_is_removed_by_a_later_run(self, run):
        with sleeping(run) as (process, program, daemon, directory):
            os.kill(daemon, signal.SIGKILL)
            process.kill()
            process.wait()
            assert wait_gone(daemon)
            assert wait_gone(program)
            assert directory.exists()
            os.utime(directory, (0, 0))
            assert run("true", options=[DEVICE]).returncode == 0
            assert not directory.exists()

    def test_a_program_without_vfio_costs_the_daemon_nothing(self, daemon, connected):
        before = daemon.ask("stats")["sessions"]
        connected.output("ls", "-lR", "/sys/kernel/iommu_groups", "/dev/vfio")
        assert daemon.ask("stats")["sessions"] == before

    def test_devices_are_found_in_the_order_in_which_they_were_named(self):
        with daemon_process(machine_of([5, 3])) as running:
            done = Runner("--connect", str(running.directory))("echo", "{group} {group1}")
            assert done.stdout == "5 3\n"
