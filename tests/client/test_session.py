# SPDX-License-Identifier: MIT
"""The client library's own promises: concurrency, cancellation, a daemon that goes away, errors that keep their type."""

import errno
import fcntl
import os

import pytest
import trio

from tests.io.fake import ECHO, FakeFile, FakeMachine, serving
from vfioemu import client
from vfioemu.core.base.effects import GiveFd, read_user
from vfioemu.core.base.effects import locked as take
from vfioemu.core.base.locks import Lock
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m


class Fixture:
    def __init__(self, served, file):
        self.served = served
        self.file = file


@pytest.fixture
async def world():
    machine = FakeMachine()
    file = FakeFile()
    machine.nodes["/f"] = file
    async with serving(machine, max_channels=8) as served:
        yield Fixture(served, file)


async def test_calls_of_many_tasks_run_at_once(world):
    """Each waits for all the others to have begun, so they must be on connections of their own."""
    inside = 0
    everybody = []
    lock = Lock("gate")

    def meet(caller, arg):
        nonlocal inside
        inside += 1
        if inside < 6:
            yield from take(lock)
            lock.release()
        else:
            everybody.append(True)
            lock.release()
        return inside

    world.file.calls[ECHO] = meet
    lock.acquire(lambda: None)
    async with client.connect(world.served.path) as session:
        file = client.File(session, await session.open("/f"))
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(file.ioctl, ECHO)
    assert everybody == [True]


async def test_more_tasks_than_connections_wait_their_turn(world):
    def echo(caller, arg):
        yield from read_user(arg, 4)
        return 0

    world.file.calls[ECHO] = echo
    async with client.connect(world.served.path) as session:
        file = client.File(session, await session.open("/f"))
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(file.ioctl_buffer, ECHO, bytearray(4))
        assert len(world.served.server.sessions) == 1
        (theirs,) = world.served.server.sessions.values()
        assert len(theirs.channels) <= 8


async def test_cancelled_call_gives_up_its_connection_alone(world):
    lock = Lock("held")
    lock.acquire(lambda: None)

    def park(caller, arg):
        yield from take(lock)
        lock.release()
        return 0

    def well(caller, arg):
        yield from ()
        return 7

    world.file.calls |= {1: park, 2: well}
    async with client.connect(world.served.path) as session:
        file = client.File(session, await session.open("/f"))
        with trio.move_on_after(0.05) as scope:
            await file.ioctl(1)
        assert scope.cancelled_caught
        assert await file.ioctl(2) == 7
        lock.release()
        assert await file.ioctl(1) == 0
        assert await file.ioctl(2) == 7


async def test_fd_given_in_a_cancelled_call_is_closed(world):
    lock = Lock("held")
    lock.acquire(lambda: None)
    given = trio.Event()
    made = FakeFile(FdKind.DEVICE)

    def give(caller, arg):
        yield GiveFd(made)
        given.set()
        yield from take(lock)
        lock.release()
        return 0

    world.file.calls[ECHO] = give
    async with client.connect(world.served.path) as session:
        file = client.File(session, await session.open("/f"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.ioctl, ECHO)
            await given.wait()
            nursery.cancel_scope.cancel()
        lock.release()
        await session.call(m.FORGET, 0)
        assert made.released == 1
        file.close()


async def test_daemon_that_goes_away_is_eio():
    machine = FakeMachine()
    machine.nodes["/f"] = FakeFile()
    async with serving(machine) as served:
        async with client.connect(served.path) as session:
            file = client.File(session, await session.open("/f"))
            served.server.stop()
            with pytest.raises(client.DaemonGone) as gone:
                await file.ioctl(ECHO)
            assert gone.value.errno == errno.EIO
            file.close()


async def test_no_daemon_is_what_connect_says(tmp_path):
    with pytest.raises(FileNotFoundError):
        async with client.connect(tmp_path / "none"):
            pass


async def test_errors_of_the_body_keep_their_type(world):
    with pytest.raises(KeyError, match="mine"):
        async with client.connect(world.served.path):
            raise KeyError("mine")
    with trio.CancelScope() as scope:
        async with client.connect(world.served.path):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_files_that_are_no_tokens(world):
    async with client.connect(world.served.path) as session:
        with pytest.raises(OSError, match="not an emulated file"):
            client.File(session, 0)
        assert session.kind_of(0) is None
        fd = await session.open("/f")
        assert session.kind_of(fd) == "container"
        file = client.File(session, fd)
        file.close()
        file.close()
        with pytest.raises(OSError, match="Bad file"):
            file.fileno()
        with pytest.raises(OSError, match="Bad file"):
            await file.ioctl(ECHO)
        assert session.kind_of(fd) is None


async def test_fd_detached_lives_on(world):
    async with client.connect(world.served.path) as session:
        with client.File(session, await session.open("/f")) as file:
            fd = file.detach()
        again = client.File(session, fd)
        assert again.serial == file.serial
        again.close()


async def test_what_cannot_be_shared_is_refused_and_says_why(world, caplog):
    caplog.set_level("INFO")
    async with client.connect(world.served.path) as session:
        with client.Memory(4096, sealed=False) as memory:
            await session.share(memory.address, 4096, memory.fd, 0)
            fcntl.fcntl(memory.fd, 1033, 16)  # F_ADD_SEALS, F_SEAL_FUTURE_WRITE
            with pytest.raises(PermissionError):
                await session.share(0x10000, 4096, memory.fd, 0)
            assert "sealed against writing" in caplog.text
            reader = os.open(f"/proc/self/fd/{memory.fd}", os.O_RDONLY)
            with pytest.raises(PermissionError):
                await session.share(0x10000, 4096, reader, 0)
            os.close(reader)
        with client.Memory(8192) as memory:
            await session.share_memory(memory)
            with pytest.raises(FileExistsError):
                await session.share(memory.address + 4096, 4096, memory.fd, 4096)
            for vaddr, size, offset in (
                (1, 4096, 0),
                (0, 0, 0),
                (0, 100, 0),
                (0, 4096, 8192),
                (0, 1 << 63, 0),
                (-4096 & m.U64, 4096, 0),
            ):
                with pytest.raises(OSError, match="Invalid"):
                    await session.share(vaddr, size, memory.fd, offset)
        read_end, write_end = os.pipe()
        for fd in (0, read_end, write_end):
            with pytest.raises(PermissionError):
                await session.share(0, 4096, fd, 0)
        os.close(read_end)
        os.close(write_end)


async def test_windows_are_bounded():
    async with serving(max_windows=2, max_shared=1 << 20) as served, client.connect(served.path) as session:
        with client.Memory(2 << 20) as memory:
            with pytest.raises(OSError, match="No space"):
                await session.share_memory(memory)
            for page in range(2):
                await session.share(page * 4096, 4096, memory.fd, 0)
            with pytest.raises(OSError, match="No space"):
                await session.share(1 << 20, 4096, memory.fd, 0)


def test_memory():
    with pytest.raises(ValueError, match="multiple"):
        client.Memory(100)
    memory = client.Memory(3 * 4096)
    assert len(memory) == 3 * 4096
    memory.populate()
    memory.view[5000] = 1
    memory.discard()
    assert memory.view[5000] == 0
    held = memory.view[:4]
    with pytest.raises(BufferError):
        memory.close()
    held.release()
    memory.close()
    memory.close()
