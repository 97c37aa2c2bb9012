# SPDX-License-Identifier: MIT
"""Which number a peer has in /proc: not always that which it has for us."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vfioemu.io.base import process

ROOT = Path(__file__).parents[3]
PATIENCE = 120


@contextlib.contextmanager
def a_peer():
    """A connection of a child that lives until it is told to end: our end, and its pid."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")
        listener.listen()
        child = os.fork()
        if not child:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                    sock.connect(listener.getsockname())
                    sock.recv(1)
            finally:
                os._exit(0)
        sock, _ = listener.accept()
        try:
            yield sock, child
        finally:
            sock.close()
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


@pytest.fixture
def peer():
    with a_peer() as made:
        yield made


def without_peerpidfd(monkeypatch):
    monkeypatch.setattr(process, "_SO_PEERPIDFD", 9999)


def without_pidfd(monkeypatch):
    without_peerpidfd(monkeypatch)

    def refuse(pid):
        raise OSError(1, "refused")

    monkeypatch.setattr(os, "pidfd_open", refuse)


WAYS = [lambda _: None, without_peerpidfd, without_pidfd]


@pytest.mark.parametrize("way", WAYS, ids=["SO_PEERPIDFD", "pidfd_open", "NSpid"])
class TestNumber:
    def test_here_it_is_the_pid(self, peer, monkeypatch, way):
        way(monkeypatch)
        sock, pid = peer
        before = os.listdir("/proc/self/fd")
        with process.peer_of(sock, pid) as found:
            assert found.number() == pid
        assert os.listdir("/proc/self/fd") == before
        assert process.name_of(sock, pid) == Path("/proc/self/comm").read_text().strip()

    def test_where_proc_is_of_another_namespace_it_is_another_number_or_none(self, way):
        """The child is number 2 in its namespace; in /proc, which is the one outside, 2 is somebody else."""
        code = f"""
import os, socket
from pathlib import Path
from tests.io.base import test_process as t
from vfioemu.io.base import process
import pytest
m = pytest.MonkeyPatch()
t.WAYS[{WAYS.index(way)}](m)
with t.a_peer() as (sock, pid):
    with process.peer_of(sock, pid) as found:
        try:
            number = found.number()
        except OSError as error:
            print(pid, error.strerror)
        else:
            print(pid, Path(f"/proc/{{number}}/status").read_text().split("NSpid:")[1].split()[:2] == [str(number), str(pid)])
"""
        line = ["unshare", "-Urpf", sys.executable, "-c", code]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)
        if "unshare failed" in done.stderr:
            pytest.skip(f"no PID namespace can be made here: {done.stderr.strip()}")
        pid, answer = done.stdout.strip().split(" ", 1)
        assert pid == "2", done.stderr
        assert answer == ("True" if way is not without_pidfd else "/proc does not show the process")


@pytest.mark.parametrize("way", WAYS[:2], ids=["SO_PEERPIDFD", "pidfd_open"])
def test_one_that_has_ended_has_none_though_its_number_may_be_given_away(peer, monkeypatch, way):
    way(monkeypatch)
    sock, pid = peer
    with process.peer_of(sock, pid) as found:
        assert found.number() == pid
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(OSError, match="does not show"):
            found.number()


def test_one_that_is_not_seen_in_our_namespace_has_none(peer, monkeypatch):
    without_peerpidfd(monkeypatch)
    with process.peer_of(peer[0], 0) as found, pytest.raises(OSError, match="does not show"):
        found.number()
