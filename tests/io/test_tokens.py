# SPDX-License-Identifier: MIT
"""The table of tokens, and strangers who do what anybody can."""

import os
import socket

from tests.io.fake import FakeFile, FakeMachine, Raw, serving
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
            squatters.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
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
