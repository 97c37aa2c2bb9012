# SPDX-License-Identifier: MIT
"""The table of tokens, and strangers who do what anybody can."""

import os
import select
import socket

from tests.io.fake import FakeFile, FakeMachine, Raw, serving
from vfioemu.core.base.effects import GiveFd, RevokeFd, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m
from vfioemu.wire import names


async def test_name_that_somebody_has_taken():
    """Anybody can see the daemon's id in /proc/net/unix, and bind the names that come next."""
    machine = FakeMachine()
    machine.nodes["/f"] = FakeFile
    async with serving(machine) as served, Raw(served.path) as client:
        first = await client.open("/f")
        squatters = []
        for serial in range(first + 1, first + 100):
            squatters.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            name = names.TokenName(served.server.daemon_id, FdKind.CONTAINER, serial)
            squatters[-1].bind(name.address())
        serials = [await client.open("/f") for _ in range(3)]
        assert len({first, *serials}) == 4
        reply, _ = await client.call(m.STAT, serials[-1])
        assert reply.arg0 == 0
        for squatter in squatters:
            squatter.close()


async def test_name_is_free_when_the_token_has_gone():
    machine = FakeMachine()
    machine.nodes["/f"] = FakeFile
    async with serving(machine) as served, Raw(served.path) as client:
        await client.open("/f")
        os.close(client.fds.pop())
        await client.call(m.FORGET, 1)
        with open("/proc/net/unix") as table:
            assert served.server.daemon_id.hex() not in table.read()


async def test_file_that_is_given_closed_and_then_taken_back():
    """The client has closed it before the handler knows that it cannot tell the number: that is one release, not two."""
    machine = FakeMachine()
    given = FakeFile()
    file = FakeFile()

    def give(caller, arg):
        number = yield GiveFd(given)
        try:
            yield from write_user(arg, bytes(4))
        except IoctlError:
            yield RevokeFd(number)
            yield from given.release()
            raise
        return 0

    file.calls[1] = give
    machine.nodes["/f"] = file
    async with serving(machine) as served, Raw(served.path) as client, Raw(served.path) as other:
        for error in (-14, 0):
            given.released = 0
            token = await client.open("/f")
            await client.start(m.IOCTL, token, 1, 0x1000)
            await client.receive()
            number = client.fds.pop()
            os.close(number)
            await client.answer(number)
            ask, _ = await client.receive()
            assert ask.type == m.WRITE_USER
            await other.call(m.FORGET, 1)
            await client.answer(error)
            if error:
                ask, _ = await client.receive()
                assert ask.type == m.REVOKE_FD
                await client.answer(0)
            reply, _ = await client.receive()
            assert m.signed(reply.arg0) == error
            await other.call(m.FORGET, 1)
            assert given.released == 1
        assert len(served.server.tokens) == 2
    assert given.released == 1


class Data(FakeFile):
    """A migration stream that ends."""

    def __init__(self, looked):
        super().__init__(FdKind.DATA)
        self.looked = looked
        self.ended = False

    @property
    def poll_is_final(self):
        return self.ended

    def poll(self):
        self.looked.append(self)
        return 5 if self.ended else 4


async def test_streams_that_have_ended_cost_nothing():
    """A client that keeps them all would slow down each call of anybody."""
    machine = FakeMachine()
    looked = []
    files = []

    def node():
        files.append(Data(looked))
        return files[-1]

    machine.nodes["/d"] = node
    async with serving(machine) as served, Raw(served.path) as client, Raw(served.path) as other:
        for _ in range(20):
            await client.open("/d")
        for file in files[1:]:
            file.ended = True
        for _ in range(2):
            looked.clear()
            await other.open("/d")
            await other.call(m.IOCTL, len(files), 7)
        assert set(looked) == {files[0], *files[-2:]}
        for fd in client.fds[1:]:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            assert poller.poll(0)
