# SPDX-License-Identifier: MIT
"""Exit statuses that are true whatever signal comes at whatever moment, and whoever reads the output, or does not."""

import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.test_migrate import ENDS, argv, finish, json_events, place, wait_for
from tests.sample import sampled


def bombard(process, number, seconds=30):
    """Send a signal again and again, until the process has ended."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < deadline, "it does not end"
        process.send_signal(number)
        time.sleep(0.0005)


@pytest.mark.parametrize("number", sampled(ENDS))
def test_no_signal_after_the_end_changes_the_exit_status(number):
    with place() as it:
        incoming, uri = it.incoming("--run-for", "100ms", "--json")
        source = it.migrate(uri, "--json")
        assert wait_for(source, "end")["code"] == 0
        bombard(source, number)
        code, _, err = finish(source)
        assert (code, err) == (0, "")
        wait_for(incoming, "end")
        bombard(incoming, number)
        code, _, err = finish(incoming)
        assert (code, err) == (0, "")


@pytest.mark.slow
def test_signal_that_ends_a_guest_that_stays_is_no_failure():
    with place() as it:
        incoming, uri = it.incoming("--stay", "--json")
        assert finish(it.migrate(uri))[0] == 0
        wait_for(incoming, "alive")
        incoming.send_signal(signal.SIGINT)
        code, out, err = finish(incoming)
        assert (code, err) == (0, "")
        assert json_events(out)[-1].outcome == "completed"


@pytest.mark.parametrize("number", sampled([signal.SIGINT, signal.SIGHUP]))
def test_guest_that_is_being_built_can_be_interrupted(number):
    with place() as it:
        options = ["--ram", "1GiB", "--runtime-dir", it.base / "a"]
        source = it.start(argv("migrate", f"unix:{it.base}/m", *options))
        while "memfd:guest-low" not in Path(f"/proc/{source.pid}/maps").read_text():
            assert source.poll() is None
        began = time.monotonic()
        source.send_signal(number)
        code, out, err = finish(source)
        assert (code, out) == (128 + number, "")
        assert err.endswith(f"vfioemu: error: {number.name} before the migration began\n")
        assert (
            time.monotonic() - began < 10
        )  # it takes far longer to build it on a machine that is as slow as that


def test_daemon_that_hangs_while_a_guest_is_built_does_not_keep_it_from_being_interrupted():
    with place() as it:
        daemon, _ = it.ready("-q", "serve", "-m", it.base / "a.toml", "--runtime-dir", it.base / "a2")
        daemon.send_signal(signal.SIGSTOP)
        where = ["-g", it.base / "guest.toml", "--runtime-dir", it.base / "a2"]
        sides = [
            it.start(argv("migrate", f"unix:{it.base}/m", *where)),
            it.start(argv("incoming", f"unix:{it.base}/m", *where)),
        ]
        for side, code in zip(sides, (143, 4), strict=True):
            while "socket:" not in links(side.pid):
                assert side.poll() is None
            side.send_signal(signal.SIGTERM)
            got, _, err = finish(side)
            assert got == code, err
            assert "SIGTERM before" in err
        daemon.send_signal(signal.SIGCONT)


def links(pid):
    """What the fds of a process are."""
    found = ""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(fd)
        except FileNotFoundError:
            pass
    return found


@pytest.mark.parametrize("side", sampled(["source", "destination"]))
def test_reader_that_leaves_changes_nothing(side):
    """`migrate --json | head -2`: the guest arrives, and both sides say so in their exit status."""
    with place() as it:
        incoming, uri = it.incoming("--run-for", "200ms", "--json")
        source = it.migrate(uri, "--json", "--bandwidth", "16MiB/s")
        left, stays = (source, incoming) if side == "source" else (incoming, source)
        left.stdout.readline()
        os.dup2(os.open(os.devnull, os.O_RDONLY), left.stdout.fileno())  # the end of the pipe is closed
        out, err = stays.communicate(timeout=60)
        assert stays.returncode == 0, err
        assert json_events(out)[-1].code == 0
        assert (left.wait(60), left.stderr.read()) == (0, "")


@pytest.mark.parametrize("json", sampled([["--json"], []]))
@pytest.mark.parametrize("stream", sampled(["stdout", "stderr"]))
def test_full_disk_under_the_output_changes_nothing(stream, json):
    with place() as it:
        incoming, uri = it.incoming("--run-for", "100ms")
        where = ["-g", it.base / "guest.toml", "--runtime-dir", it.base / "a"]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                argv("migrate", uri, *where, *json),
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full},
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 0, done
        if stream == "stdout":
            assert "vfioemu: error: the output is not complete: No space left on device\n" in done.stderr
        assert finish(incoming)[0] == 0


@pytest.mark.slow
def test_closed_output_changes_nothing():
    with place() as it:
        incoming, uri = it.incoming("--run-for", "100ms")
        where = ["-g", str(it.base / "guest.toml"), "--runtime-dir", str(it.base / "a")]
        command = ["sh", "-c", '"$@" >&- 2>&-', "sh", *argv("migrate", uri, *where)]
        assert subprocess.run(command, timeout=60, check=False).returncode == 0
        assert finish(incoming)[0] == 0


@pytest.mark.slow
def test_reader_that_does_not_read_can_be_left_by_signals():
    """Writes block, so no signal is looked at; from the second that comes a while later on none is waited for."""
    with place() as it:
        _, uri = it.incoming()
        source = it.migrate(uri, "--json", "--bandwidth", "1MiB/s")
        source.stdout.readline()
        fcntl.fcntl(source.stdout, fcntl.F_SETPIPE_SZ, 4096)
        stack = Path(f"/proc/{source.pid}/wchan")
        while "pipe" not in stack.read_text():
            assert source.poll() is None
            time.sleep(0.02)
        bombard(source, signal.SIGINT)
        assert source.returncode == 130


def test_fd_that_is_none_is_told_before_anything_is_done():
    done = subprocess.run(
        argv("incoming", "unix:x", "--ready-fd", "99"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "vfioemu: error: --ready-fd 99: Bad file descriptor\n")


def test_failure_is_told_once_with_a_hint_that_is_true():
    with place() as it:
        code, out, err = finish(it.migrate(f"unix:{it.base}/nobody"))
        assert code == 3
        assert out.splitlines()[-2:] == [out.splitlines()[-2], " the source runs the guest"]
        assert out.splitlines()[-2].startswith(" failed (peer_absent) after ")
        assert err.endswith(
            f"vfioemu: error: the migration to unix:{it.base}/nobody failed: peer_absent: cannot connect to"
            f" unix:{it.base}/nobody: No such file or directory\n"
            "  hint: start `vfioemu incoming` there first, or let the source wait for it: --wait\n"
        )
        assert (out + err).count("No such file") == 1
