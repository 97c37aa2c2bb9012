# SPDX-License-Identifier: MIT
"""A daemon with a small machine, in both memory modes."""

import pytest

from tests.daemon.helpers import MACHINE
from vfioemu import client, daemon


@pytest.fixture(params=["ask", "process_vm"])
def memory(request):
    return request.param


@pytest.fixture
async def server(memory):
    """A running daemon."""
    async with daemon.running(MACHINE, memory=memory) as running:
        yield running
        assert running.dispatcher.counters.bugs == 0


@pytest.fixture
async def session(server):
    """A client of it."""
    async with client.connect(server.socket_path) as connected:
        await connected.set_limits(ipc_lock=True, memlock=None)
        yield connected
