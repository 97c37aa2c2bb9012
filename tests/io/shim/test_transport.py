# SPDX-License-Identifier: MIT
"""Handlers of every shape through the transport: memory in both directions and all sizes, fds, locks, releases."""

import errno
import os
import select

import pytest
import trio

from tests.io.fake import ECHO, FakeFile, FakeMachine, Raw, serving
from vfioemu import client
from vfioemu.core.base.effects import (
    DmaRead,
    DmaWrite,
    ForeignFd,
    GiveFd,
    PinUser,
    RevokeFd,
    Signal,
    TakeFd,
    read_user,
    write_user,
)
from vfioemu.core.base.effects import locked as take
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import POLLIN, POLLOUT
from vfioemu.core.base.locks import Lock
from vfioemu.syscalls.procmem import address_of
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m

MODES = list(m.MemoryMode)


@pytest.fixture(params=MODES, ids=[mode.name.lower() for mode in MODES])
def mode(request):
    return request.param


@pytest.fixture
async def served(mode):
    machine = FakeMachine()
    async with serving(machine, mode) as running:
        yield running


@pytest.fixture
async def session(served):
    async with client.connect(served.path) as connected:
        yield connected


async def open_fake(served, session, file=None):
    file = file or FakeFile()
    served.machine.nodes["/f"] = file
    return file, client.File(session, await session.open("/f"))


# --- memory ---


@pytest.mark.parametrize("size", [1, 32, 65536, 65537, 200_000])
async def test_echo_of_every_size(served, session, size):
    def echo(caller, arg):
        data = yield from read_user(arg, size)
        yield from write_user(arg + size, data[::-1])
        return size

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = echo
    buffer = bytearray(os.urandom(size) + bytes(size))
    expected = bytes(buffer[:size][::-1])
    if 2 * size <= m.MAX_DATA:
        assert await handle.ioctl_buffer(ECHO, buffer) == size
        assert bytes(buffer[size:]) == expected
    buffer[size:] = bytes(size)
    address, keep = address_of(buffer)
    assert await handle.ioctl(ECHO, address) == size
    assert bytes(buffer[size:]) == expected
    del keep


async def test_offer_is_read_back_as_written(served, session):
    """copy_to_user, then copy_from_user of the same bytes, in a writable offer."""

    def twice(caller, arg):
        yield from write_user(arg + 4, b"\2\3")
        data = yield from read_user(arg, 8)
        yield from write_user(arg, b"\1")
        return int.from_bytes(data, "little") >> 32 & 0xFFFF

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = twice
    buffer = bytearray(b"abcdefgh")
    assert await handle.ioctl_buffer(ECHO, buffer) == 0x0302
    assert bytes(buffer) == b"\1bcd\2\3gh"


async def test_what_lies_between_two_writes_is_not_put_back():
    """A device or a thread may have written there since the call was sent."""
    machine = FakeMachine()
    file = FakeFile()
    address = 0x7000_0000_0000
    memory = bytearray(b"0123456789abcdef")

    def both_ends(caller, arg):
        yield from write_user(arg, b"new!")
        yield from write_user(arg + 12, b"new!")
        return 0

    file.calls[ECHO] = both_ends
    machine.nodes["/f"] = file
    async with serving(machine) as served, Raw(served.path) as raw:
        token = await raw.open("/f")
        await raw.start(m.IOCTL, token, ECHO, address, flags=m.F_WRITABLE, data=bytes(memory))
        memory[6:10] = b"####"
        while True:
            message, data = await raw.receive()
            start = message.arg1 if message.type == m.REPLY else message.arg0 - address
            memory[start : start + len(data)] = data
            if message.type == m.REPLY:
                break
            assert message.type == m.WRITE_USER
            await raw.answer(0)
    assert memory == b"new!45####abnew!"


async def test_access_beyond_the_offer_sees_earlier_changes(served, session):
    other = bytearray(16)
    where, keep = address_of(other)

    def both(caller, arg):
        yield from write_user(arg, b"first")
        yield from write_user(where, b"other")
        data = yield from read_user(arg, 5)
        yield from write_user(arg + 5, data)
        return 0

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = both
    buffer = bytearray(10)
    await handle.ioctl_buffer(ECHO, buffer)
    assert bytes(buffer) == b"firstfirst"
    assert bytes(other[:5]) == b"other"
    del keep


async def test_device_writes_where_the_argument_is(served, session):
    with client.Memory(4096) as memory:
        await session.share_memory(memory)

        def collide(caller, arg):
            yield from write_user(arg, b"argument")
            yield DmaWrite(caller.space, arg + 8, b"by a device")
            seen = yield DmaRead(caller.space, arg, 19)
            return int(seen == b"argumentby a device") + 2 * int((yield from read_user(arg, 19)) == seen)

        file, handle = await open_fake(served, session)
        file.calls[ECHO] = collide
        assert await handle.ioctl_buffer(ECHO, memory.view[:64]) == 3
        assert bytes(memory.view[:19]) == b"argumentby a device"


async def test_partial_write_is_made_and_then_efault(served, session):
    from tests.daemon.helpers import protect

    with client.Memory(3 * 4096) as memory:
        protect(memory.address + 8192, 4096, 0)

        def spill(caller, arg):
            yield from write_user(arg, b"x" * 12288)
            return 0

        file, handle = await open_fake(served, session)
        file.calls[ECHO] = spill
        with pytest.raises(OSError, match="Bad address"):
            await handle.ioctl(ECHO, memory.address)
        assert bytes(memory.view[:8192]) == b"x" * 8192
        protect(memory.address + 8192, 4096, 3)


@pytest.mark.parametrize("kind", ["read", "write", "pread", "pwrite"])
async def test_read_and_write_of_every_size(served, session, kind):
    content = bytes(i * 31 & 255 for i in range(150_000))

    def reader(caller, addr, size, offset=0):
        data = content[offset : offset + size]
        yield from write_user(addr, data)
        return len(data)

    def writer(caller, addr, size, offset=0):
        data = yield from read_user(addr, size)
        return int(data == content[offset : offset + size])

    _, handle = await open_fake(
        served, session, FakeFile(read=reader, pread=reader, write=writer, pwrite=writer)
    )
    for size in (0, 1, 4, 65536, 65537, 140_000):
        if kind == "read":
            assert await handle.read(size) == content[:size]
        elif kind == "pread":
            assert await handle.pread(size, 7) == content[7 : 7 + size]
        elif kind == "write":
            assert await handle.write(content[:size]) == 1
        else:
            assert await handle.pwrite(content[7 : 7 + size], 7) == 1


async def test_pin_counts_leading_pages(served, session):
    from tests.daemon.helpers import protect

    def pin(caller, arg):
        return (yield PinUser(caller.space, arg, 8, True))

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = pin
    with client.Memory(8 * 4096) as memory:
        assert await handle.ioctl(ECHO, memory.address) == 8
        protect(memory.address + 5 * 4096, 4096, 1)
        assert await handle.ioctl(ECHO, memory.address) == 5
        protect(memory.address, 4096, 0)
        assert await handle.ioctl(ECHO, memory.address) == 0
        protect(memory.address, 8 * 4096, 3)
        assert bytes(memory.view) == bytes(8 * 4096)


async def test_dma_without_the_owner_calling(served, session):
    """A second session causes DMA to the first one's memory: the service connection answers."""
    spaces = []

    def remember(caller, arg):
        yield from ()
        spaces.append(caller.space)
        return 0

    def dma(caller, arg):
        data = yield DmaRead(spaces[0], arg, 70_000)
        yield DmaWrite(spaces[0], arg, data[::-1])
        return (yield PinUser(spaces[0], arg, 2, True))

    file, handle = await open_fake(served, session)
    file.calls |= {1: remember, 2: dma}
    await handle.ioctl(1, 0)
    with client.Memory(20 * 4096) as memory:
        memory.view[:70_000] = os.urandom(70_000)
        expected = bytes(memory.view[:70_000][::-1])
        async with client.connect(served.path, serve_memory=False) as other:
            copy = client.File(other, os.dup(handle.fileno()))
            assert await copy.ioctl(2, memory.address) == 2
            assert bytes(memory.view[:70_000]) == expected
            with pytest.raises(OSError, match="Bad address"):
                await copy.ioctl(2, 0x1000)
            copy.close()


# --- fds ---


async def test_take_fd_knows_files_eventfds_and_others(served, session):
    seen = []

    def look(caller, arg):
        what = yield TakeFd(arg)
        seen.append(what)
        if isinstance(what, FakeFile):
            return 1
        if isinstance(what, ForeignFd):
            return 3
        yield Signal(what)
        what.close()
        return 2

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = look
    eventfd = os.eventfd(0)
    read_end, write_end = os.pipe()
    assert await handle.ioctl(ECHO, handle.fileno()) == 1
    assert seen[-1] is file
    assert await handle.ioctl(ECHO, eventfd) == 2
    assert os.eventfd_read(eventfd) == 1
    assert await handle.ioctl(ECHO, read_end) == 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        await handle.ioctl(ECHO, 12345)
    for fd in (eventfd, read_end, write_end):
        os.close(fd)


async def test_given_fd_is_a_file(served, session):
    made = FakeFile(FdKind.DEVICE)

    def give(caller, arg):
        return (yield GiveFd(made))

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = give
    device = client.File(session, await handle.ioctl(ECHO))
    assert device.kind is FdKind.DEVICE
    assert os.get_inheritable(device.fileno()) is False
    device.close()
    await handle.session.call(m.FORGET, 0)
    assert made.released == 1


async def test_revoked_fd_is_not_released(served, session):
    made = FakeFile(FdKind.DATA)

    def give_and_take(caller, arg):
        number = yield GiveFd(made)
        yield RevokeFd(number)
        raise IoctlError(errno.EFAULT, "as SET_STATE does when it cannot copy out")

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = give_and_take
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Bad address"):
        await handle.ioctl(ECHO)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert made.released == 0


async def test_mmap_gives_an_fd_of_the_contents(served, session):
    file, handle = await open_fake(served, session)
    with pytest.raises(OSError, match="No such device"):
        await handle.mmap(4096)
    with client.Memory(8192) as memory:
        file.mapped = memory.fd
        mapped = await handle.mmap(8192)
        mapped[0] = 0x77
        assert memory.view[0] == 0x77
        mapped.close()

        file.mapped_from = 4096
        mapped = await handle.mmap(4096)
        mapped[1] = 0x66
        assert memory.view[4097] == 0x66
        mapped.close()


async def test_poll_follows_the_file(served, session):
    file, handle = await open_fake(served, session, FakeFile(FdKind.DATA))
    assert handle.poll() == select.POLLIN | select.POLLOUT

    def set_revents(caller, arg):
        yield from ()
        file.revents = arg
        return 0

    file.calls[ECHO] = set_revents
    for _ in range(3):
        await handle.ioctl(ECHO, POLLOUT)
        assert handle.poll() == select.POLLOUT
        await handle.ioctl(ECHO, POLLIN | POLLOUT)
        await handle.ioctl(ECHO, POLLIN | POLLOUT)
        assert handle.poll() == select.POLLIN | select.POLLOUT


# --- locks and releases ---


async def test_waiting_for_a_lock_blocks_nobody_else(served, session):
    lock = Lock("test")
    held = trio.Event()

    def hold(caller, arg):
        yield from take(lock)
        try:
            held.set()
            yield from read_user(arg, 100_000)
        finally:
            lock.release()
        return 1

    def free(caller, arg):
        yield from ()
        return 2

    file, handle = await open_fake(served, session)
    file.calls |= {1: hold, 2: free}
    results = []
    buffer = bytearray(100_000)
    address, keep = address_of(buffer)

    async def call(number):
        results.append(await handle.ioctl(number, address))

    async with trio.open_nursery() as nursery:
        for number in (1, 1, 1, 2):
            nursery.start_soon(call, number)
    assert sorted(results) == [1, 1, 1, 2]
    assert not lock.held
    del keep


async def test_call_holds_its_file(mode):
    """close() by another thread during a call: release() comes after the call, as with fdget()."""
    machine = FakeMachine()
    order = []

    def slow(caller, arg):
        yield from read_user(0x7000_0000_0000, 8)
        order.append("call")
        return 0

    def note():
        order.append("release")
        yield from ()

    file = FakeFile()
    file.calls[ECHO] = slow
    file.on_release = note
    machine.nodes["/f"] = file
    async with serving(machine) as served, Raw(served.path) as raw:
        token = await raw.open("/f")
        await raw.start(m.IOCTL, token, ECHO, 0x7000_0000_0000)
        ask, _ = await raw.receive()
        assert ask.type == m.READ_USER
        os.close(raw.fds.pop())
        async with Raw(served.path) as other:
            await other.call(m.FORGET, 1)
        assert order == []
        await raw.answer(0, 8, data=bytes(8))
        reply, _ = await raw.receive()
        assert reply.type == m.REPLY
        assert order == ["call", "release"]


async def test_blocked_release_delays_only_its_holders():
    machine = FakeMachine()
    lock = Lock("test")
    parked = FakeFile()
    holder = FakeFile()

    def hold(caller, arg):
        yield from take(lock)
        try:
            yield from read_user(arg, 8)
        finally:
            lock.release()
        return 0

    def release():
        yield from take(lock)
        lock.release()

    parked.calls[1] = hold
    holder.on_release = release
    machine.nodes |= {"/parked": parked, "/holder": holder}
    async with (
        serving(machine) as served,
        Raw(served.path) as a,
        Raw(served.path) as b,
        Raw(served.path) as c,
    ):
        token = await a.open("/parked")
        await b.open("/holder")
        await a.start(m.IOCTL, token, 1, 0x7000_0000_0000)
        await a.receive()  # the lock is held now
        os.close(b.fds.pop())
        await b.start(m.FORGET, 1)
        reply, _ = await c.call(m.FORGET, 1)  # c has nothing to do with it
        assert reply.type == m.REPLY
        with trio.move_on_after(0.05) as scope:
            await b.receive()
        assert scope.cancelled_caught
        await a.answer(0, 8, data=bytes(8))
        await a.receive()
        await b.receive()
        assert holder.released == 1


async def test_blocked_release_after_a_call_delays_the_caller():
    """The file was closed during the call, and fdput() is the last: the caller's next call finds it released."""
    machine = FakeMachine()
    lock = Lock("test")
    file = FakeFile()

    def slow(caller, arg):
        yield from read_user(arg, 8)
        return 0

    def release():
        yield from take(lock)
        lock.release()

    file.calls[1] = slow
    file.on_release = release
    machine.nodes["/f"] = file
    async with serving(machine) as served, Raw(served.path) as a:
        token = await a.open("/f")
        await a.start(m.IOCTL, token, 1, 0x7000_0000_0000)
        await a.receive()
        os.close(a.fds.pop())
        assert lock.acquire(lambda: None)
        try:
            async with Raw(served.path) as other:
                await other.call(m.FORGET, 1)  # the hang-up has been seen
            await a.answer(0, 8, data=bytes(8))
            reply, _ = await a.receive()
            assert reply.arg0 == 0
            await a.start(m.FORGET, 1)
            with trio.move_on_after(0.05) as scope:
                await a.receive()
            assert scope.cancelled_caught
        finally:
            lock.release()
        await a.receive()
        await trio.lowlevel.checkpoint()


# --- bugs of ours ---


async def test_bug_is_eio_for_that_caller_alone(served, session, caplog):
    def bug(caller, arg):
        yield from ()
        raise ZeroDivisionError("a bug")

    def strange(caller, arg):
        yield object()

    file, handle = await open_fake(served, session)
    file.calls |= {1: bug, 2: strange}
    for number in (1, 2):
        with pytest.raises(OSError, match="Input/output") as refused:
            await handle.ioctl(number)
        assert refused.value.errno == errno.EIO
    assert "ZeroDivisionError" in caplog.text
    assert f"pid={os.getpid()}" in caplog.text
    assert served.dispatcher.counters.bugs == 2
    with pytest.raises(OSError, match="Inappropriate"):
        await handle.ioctl(3)


async def test_daemon_without_fds_is_emfile_and_releases_the_file(served, session, monkeypatch):
    import socket

    def none_left(*_):
        raise OSError(errno.ENFILE, "Too many open files in system")

    made = FakeFile(FdKind.DATA)

    def give(caller, arg):
        return (yield GiveFd(made))

    file, handle = await open_fake(served, session)
    file.calls[ECHO] = give
    refused_file = FakeFile()
    served.machine.nodes["/g"] = refused_file
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", none_left)
        for call in (session.open("/g"), handle.ioctl(ECHO)):
            with pytest.raises(OSError, match="Too many open files") as refused:
                await call
            assert refused.value.errno == errno.EMFILE
    assert refused_file.released == 1
    assert made.released == 0  # the handler undoes it
