# SPDX-License-Identifier: MIT
"""Fds that clients send are looked at without waiting for whoever holds up what is behind them."""

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
import tempfile
import threading

import pytest
import trio

from tests.io.fake import FakeFile, FakeMachine, Raw, serving
from vfioemu.io.base import fds
from vfioemu.io.base.accounts import Accounts
from vfioemu.io.base.fds import Closer, socket_cookie
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.turns import Rounds
from vfioemu.io.memory import sharing
from vfioemu.wire import messages as m

NR_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
PATIENCE = 5


def everybody():
    return Accounts(Limits(), Rounds(), several=False)


@pytest.fixture
def parked():
    """Memory that whoever reads it waits for, until the test ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = NR_USERFAULTFD.get(os.uname().machine)
    fd = -1 if number is None else libc.syscall(number, os.O_CLOEXEC)
    if fd < 0:
        pytest.skip("no userfaultfd that the kernel waits for")
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 0, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("=QQQQ", address, mmap.PAGESIZE, 1, 0))
    yield memory
    os.close(fd)


def test_socket_that_somebody_has_locked(parked):
    """sendmsg() on TCP holds the socket's lock while it copies; getsockname() would wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.connect(listener.getsockname())
        cookie = socket_cookie(sock.fileno())
        sender = threading.Thread(target=sock.send, args=(parked,), daemon=True)
        sender.start()
        sender.join(0.2)
        assert sender.is_alive()
        found = []
        asker = threading.Thread(target=lambda: found.append(socket_cookie(sock.fileno())), daemon=True)
        asker.start()
        asker.join(PATIENCE)
        assert found == [cookie]


def test_what_is_no_socket_has_no_cookie():
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null", "rb") as null:
        assert socket_cookie(ours.fileno()) not in (None, socket_cookie(theirs.fileno()))
        assert socket_cookie(null.fileno()) is None
        assert socket_cookie(-1) is None


# --- files that make whoever looks at them wait ---


@pytest.fixture
def slow(monkeypatch):
    """A file whose fstatfs() and fstat() return when the test ends."""
    release = threading.Event()
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.truncate(mmap.PAGESIZE)
        inode = os.fstat(file.fileno()).st_ino
        real_fstat, real_fstatfs = os.fstat, sharing._fstatfs

        def fstatfs(fd, found):
            if real_fstat(fd).st_ino == inode:
                assert threading.current_thread() is not threading.main_thread(), (
                    "this is where the daemon would stop"
                )
                release.wait(PATIENCE)
            return real_fstatfs(fd, found)

        monkeypatch.setattr(sharing, "_fstatfs", fstatfs)
        yield file.fileno()
        release.set()


def open_fds():
    return len(os.listdir("/proc/self/fd"))


async def test_file_system_that_does_not_answer(slow):
    """The call that brings the file waits for it, and nobody else."""
    async with serving(ask_timeout=0.3) as served:
        async with Raw(served.path) as client, Raw(served.path) as other:
            await client.start(m.MEM_SHARE, 0, 1 << 40, mmap.PAGESIZE, 0, fd=slow)
            for _ in range(10):
                reply, _ = await other.call(m.FORGET, 1)
                assert reply.arg0 == 0
            reply, _ = await client.receive()
            assert m.signed(reply.arg0) == -1
        assert served.dispatcher.counters.bugs == 0


async def test_daemon_that_ends_while_a_file_system_does_not_answer(slow):
    async with serving(ask_timeout=30) as served, Raw(served.path) as client:
        await client.start(m.MEM_SHARE, 0, 1 << 40, mmap.PAGESIZE, 0, fd=slow)
        await trio.sleep(0.05)


@pytest.fixture
def local_file():
    """A file on a disk of this machine."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        if not sharing.is_local(file.fileno()):
            pytest.skip("no local file system there")
        yield file


async def test_local_file_is_shared(local_file):
    local_file.truncate(mmap.PAGESIZE)
    async with serving() as served, Raw(served.path) as client:
        reply, _ = await client.call(m.MEM_SHARE, 0, 1 << 40, mmap.PAGESIZE, 0, fd=local_file.fileno())
        assert reply.arg0 == 0


@pytest.fixture
def stuck(monkeypatch):
    """No foreign fd is closed before the event is set."""
    release = threading.Event()
    monkeypatch.setattr(fds, "_nothing", lambda _: release.wait(PATIENCE))
    yield release
    release.set()


async def test_user_whose_fds_cannot_be_closed_is_in_nobodys_way(stuck):
    """All threads that he can have wait for him."""
    accounts = everybody()
    mine, theirs = (accounts.of(1, uid) for uid in (1, 2))
    async with trio.open_nursery() as nursery:
        closer = Closer(nursery)
        for _ in range(40):
            closer.close_later(os.open("/dev/null", os.O_RDONLY), theirs)
        await trio.sleep(0.05)
        assert (theirs.closing, closer.pending(2)) == (40, 40)
        with trio.fail_after(1):
            assert await closer.ask(lambda fd: fd >= 0, 0, mine, 1)
            while mine.closing:
                await trio.lowlevel.checkpoint()
        stuck.set()
    assert (theirs.closing, closer.pending(2)) == (0, 0)


async def test_fds_that_cannot_be_closed_are_counted_for_the_user(stuck):
    """A process that hangs up, or dies, does not begin again with none."""
    async with serving(max_user_closing=5, max_closing=3, ask_timeout=0.1) as served:
        for _ in range(5):
            async with Raw(served.path, greet=False) as client:
                await client.send(bytes(48), fd=0)
                await client.ended()
        async with Raw(served.path, greet=False) as client:
            await client.ended()
        stuck.set()
        with trio.fail_after(PATIENCE):
            while served.server._closer.pending(os.getuid()):
                await trio.lowlevel.checkpoint()
        async with Raw(served.path):
            pass


async def test_fds_of_a_daemon_that_ends_are_closed():
    """Its tasks are cancelled before any thread has begun."""
    before = open_fds()
    accounts = everybody()
    account = accounts.of(1, 1)
    async with trio.open_nursery() as nursery:
        closer = Closer(nursery)
        for _ in range(30):
            closer.close_later(os.open("/dev/null", os.O_RDONLY), account)
        nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):
        while open_fds() > before:
            await trio.lowlevel.checkpoint()
    assert account.closing == 0


async def test_proof_that_is_repeated_at_the_limit():
    machine = FakeMachine()
    machine.nodes["/f"] = FakeFile
    async with serving(machine, max_tokens=1) as served, Raw(served.path) as client:
        token = await client.open("/f")
        reply, _ = await client.call(m.IOCTL, token, 1, fd=client.fds[0])
        assert m.signed(reply.arg0) == -25


async def test_close_that_fails(monkeypatch):
    """What FUSE answers to a flush is what close() returns: the fd is closed all the same, and it is nobody's error here."""
    real = os.close
    failed = []

    def close(fd):
        foreign = os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
        real(fd)
        if foreign:
            failed.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with serving() as served:
        with open("/dev/null", "rb") as null:
            monkeypatch.setattr(os, "close", close)
            async with Raw(served.path) as client:
                reply, _ = await client.call(m.IOCTL, 1, 1, fd=null.fileno())
                assert m.signed(reply.arg0) == -errno.EBADF
            with trio.fail_after(PATIENCE):
                while served.server._closer.pending(os.getuid()) or not failed:
                    await trio.lowlevel.checkpoint()
            async with Raw(served.path):
                pass
            monkeypatch.undo()
        assert served.dispatcher.counters.bugs == 0


async def test_user_who_may_have_no_more_threads(monkeypatch, caplog):
    """RLIMIT_NPROC counts what all programs of the user have: the fd waits, and nothing ends."""
    real = trio.to_thread.run_sync
    failures = [RuntimeError("can't start new thread")] * 2

    async def run_sync(*args, **options):
        if failures:
            raise failures.pop()
        return await real(*args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    monkeypatch.setattr(fds, "_PAUSE", 0.01)
    before = open_fds()
    accounts = everybody()
    account = accounts.of(1, 1)
    async with trio.open_nursery() as nursery:
        closer = Closer(nursery)
        closer.close_later(os.open("/dev/null", os.O_RDONLY), account)
        with trio.fail_after(PATIENCE):
            while account.closing:
                await trio.lowlevel.checkpoint()
    assert not failures
    assert open_fds() == before
    assert "can't start new thread" in caplog.text
