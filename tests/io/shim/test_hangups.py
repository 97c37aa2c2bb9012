# SPDX-License-Identifier: MIT
"""What the daemon hears at one look: hang-ups, signals and words nobody asked for, all pending together."""

import os
from typing import Any

import pytest
import trio

from tests.io.fake import FakeFile, FakeMachine, Raw, serving
from vfioemu.core.base.effects import DmaRead, TakeFd, Watch, read_user
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m


async def until(condition):
    with trio.fail_after(5):
        while not condition():
            await trio.lowlevel.checkpoint()


def open_fds():
    return len(os.listdir("/proc/self/fd"))


class Watching(FakeFile):
    """A device that hears an eventfd until it is closed."""

    def __init__(self):
        super().__init__(FdKind.DEVICE)
        self.heard = 0
        self.watcher = None
        self.calls[1] = self.watch
        self.calls[2] = self.ask
        self.on_release = self.close

    def watch(self, caller, arg):
        eventfd = yield TakeFd(arg)

        def then():
            yield from ()
            self.heard += 1

        self.watcher = yield Watch(eventfd, then)
        return 0

    def ask(self, caller, arg):
        return len((yield from read_user(arg, 100)))

    def close(self):
        yield from ()
        if self.watcher is not None:
            self.watcher.close()


class Hearing(FakeMachine):
    """A machine of such devices, which knows those that have been opened."""

    def __init__(self):
        super().__init__()
        self.opened = []
        self.nodes["/f"] = self._node

    def _node(self):
        self.opened.append(Watching())
        return self.opened[-1]


@pytest.fixture
async def served():
    async with serving(Hearing(), ask_timeout=0.5, hello_timeout=0.3) as served:
        yield served
        await until(lambda: not served.server.sessions and not len(served.server.tokens))
        assert served.dispatcher.counters.bugs == 0


async def test_eventfd_of_a_device_that_is_closed_at_the_same_moment(served):
    """Both are told at one look: the device's end comes first, and its eventfd is nobody's by its turn."""
    async with Raw(served.path) as other, Raw(served.path) as client:
        await other.open("/f")
        for _ in range(3):
            token = await client.open("/f")
            eventfd = os.eventfd(0)
            await client.start(m.IOCTL, token, 1, eventfd)
            await client.receive()
            await client.answer(0, fd=eventfd)
            reply, _ = await client.receive()
            assert reply.arg0 == 0
            os.close(client.fds.pop())
            os.eventfd_write(eventfd, 1)
            os.close(eventfd)
            reply, _ = await other.call(m.OPEN, data=b"/nothing")
            assert m.signed(reply.arg0) == -2


# --- an fd that the daemon keeps would keep what it is alive, after everybody has gone ---


@pytest.mark.parametrize("flags", [0, m.F_FD])
async def test_greeting_that_brings_its_own_end(served, flags):
    before = open_fds()
    for _ in range(2):
        client = Raw(served.path, greet=False)
        async with client:
            args = (m.MAGIC, m.VERSION | m.VERSION << 32, 0, m.INFINITE)
            await client.send(m.encode(m.HELLO, 0, args=args, flags=flags), fd=client.sock.fileno())
            await client.ended()
    await until(lambda: open_fds() <= before)


async def test_answer_that_brings_its_own_end(served, caplog):
    before = open_fds()
    async with Raw(served.path) as client:
        token = await client.open("/f")
        await client.start(m.IOCTL, token, 2, 0x1000)
        await client.receive()
        await client.answer(0, 100, data=bytes(100), fd=client.sock.fileno())
    await until(lambda: open_fds() <= before)
    assert "an fd where none belongs" in caplog.text


@pytest.mark.parametrize("carried", ["itself", "a token"])
async def test_service_that_says_what_nobody_asked(served, caplog, carried):
    """Nobody reads it: it would lie there for as long as the service lasts."""
    before = open_fds()
    async with Raw(served.path) as client, Raw(served.path, greet=False) as service:
        reply = await service.hello(client.session, m.F_SERVICE)
        assert reply.arg0 == 0
        await client.open("/f")
        fd = service.sock.fileno() if carried == "itself" else client.fds[0]
        await service.answer(0, seq=1, fd=fd)
        await service.ended()
    await until(lambda: open_fds() <= before)
    assert "nobody has asked" in caplog.text


async def test_service_that_answers_and_then_goes_on(served, caplog):
    before = open_fds()
    served.machine.nodes["/dma"] = Reading
    async with Raw(served.path) as client, Raw(served.path, greet=False) as service:
        await service.hello(client.session, m.F_SERVICE)
        async with Raw(served.path) as other:  # another session, so that the service is asked
            token = await client.open("/dma")
            reply, _ = await client.call(m.IOCTL, token, 1)
            fd = client.fds[0]
            await other.start(m.IOCTL, token, 2, 0x1000, fd=fd)
            seq = 0
            for _ in range(3):
                ask, _ = await service.receive()
                assert ask.type == m.READ_USER
                seq = ask.seq
                await service.answer(0, 100, data=bytes(100), seq=seq)
            await service.answer(0, seq=seq, fd=service.sock.fileno())
            reply, _ = await other.receive()
            assert reply.arg0 == 0
    await until(lambda: open_fds() <= before)
    assert "nobody has asked" in caplog.text


class Reading(FakeFile):
    """Remembers whose memory to read, and reads it three times when somebody else calls."""

    def __init__(self):
        super().__init__()
        self.space: Any = None
        self.calls |= {1: self.remember, 2: self.fetch}

    def remember(self, caller, arg):
        yield from ()
        self.space = caller.space
        return 0

    def fetch(self, caller, arg):
        for _ in range(3):
            yield DmaRead(self.space, arg, 100)
        return 0


async def test_bug_behind_a_call_leaves_no_file_open(served, monkeypatch):
    """Whatever fails between the handler's end and its reply."""

    def buggy(*_):
        raise ZeroDivisionError("a bug")

    async with Raw(served.path) as client:
        token = await client.open("/f")
        with monkeypatch.context() as patch:
            patch.setattr(served.dispatcher, "refused", buggy)
            await client.start(m.IOCTL, token, 77)
            await client.ended()
    await until(lambda: not len(served.server.tokens))
    (file,) = served.machine.opened
    assert file.released == 1
    assert served.dispatcher.counters.bugs == 1
    served.dispatcher.counters.bugs = 0
