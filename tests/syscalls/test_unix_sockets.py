# SPDX-License-Identifier: MIT
"""Places of UNIX sockets: a dead one's is taken, anybody else's is left alone."""

import contextlib
import errno
import os
import socket

import pytest

from vfioemu.daemon.runtime_dir import StartError, listening
from vfioemu.migration.address import Address, AddressError
from vfioemu.syscalls import unix_sockets

KINDS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A short one: tmp_path may be longer than a socket's path can be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path.joinpath("s").relative_to(tmp_path)


def leave(path, kind=socket.SOCK_STREAM):
    """Bind a socket, and die."""
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(os.fspath(path))
        dead.listen()


@contextlib.contextmanager
def busy(path, kind):
    """Somebody listens, and accepts nobody; his queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        listener.bind(os.fspath(path))
        listener.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            waiting.setblocking(False)
            if waiting.connect_ex(os.fspath(path)) == errno.EAGAIN:
                break
        yield


@contextlib.contextmanager
def bound(path, kind=socket.SOCK_STREAM, mode=0o600):
    with socket.socket(socket.AF_UNIX, kind) as listener, unix_sockets.bound(listener, path, mode):
        yield


def refused(path):
    try:
        with bound(path):
            raise AssertionError("it was bound")
    except OSError as error:
        return error


@pytest.mark.parametrize("mode", [0o600, 0o666])
@pytest.mark.parametrize("kind", KINDS)
def test_place_of_the_dead_is_taken_and_given_back(path, kind, mode):
    leave(path, kind)
    with bound(path, kind, mode):
        assert path.stat().st_mode & 0o777 == mode
    assert not path.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_somebody_whose_queue_is_full_listens(path, kind):
    with busy(path, kind):
        with pytest.raises(OSError, match="somebody listens there") as error, bound(path, kind):
            pass
        assert error.value.errno == errno.EADDRINUSE
        assert path.exists()


def test_so_says_a_daemon_and_so_does_a_destination(path):
    with busy(path, socket.SOCK_STREAM):
        with pytest.raises(StartError, match="somebody listens there"), listening(path, socket.SOCK_STREAM):
            pass
        with pytest.raises(AddressError, match="somebody listens there"), Address(path=str(path)).listen():
            pass


def test_somebody_who_listens_in_another_way_listens(path):
    with bound(path, socket.SOCK_DGRAM):
        assert refused(path).errno == errno.EADDRINUSE


@pytest.mark.parametrize("make", [os.mkdir, lambda path: open(path, "x").close(), os.mkfifo])
def test_what_is_no_socket_stays(path, make):
    make(path)
    assert refused(path).errno == errno.EEXIST
    assert path.exists()


def test_a_link_is_not_followed(path):
    leave("dead")
    path.symlink_to("dead")
    assert refused(path).errno == errno.EEXIST
    assert os.path.exists("dead")


def test_a_dead_socket_of_another_user_stays(path, monkeypatch):
    leave(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    error = refused(path)
    assert (error.errno, "belongs to uid" in error.strerror) == (errno.EPERM, True)
    assert path.exists()


def test_a_place_that_somebody_else_has_taken_meanwhile_is_his(path):
    with bound(path):
        path.rename("aside")
        leave(path)
    assert path.exists()


def test_a_place_that_is_gone_at_the_end_is_no_trouble(path):
    with bound(path):
        path.unlink()
