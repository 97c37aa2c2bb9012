# SPDX-License-Identifier: MIT
"""A client that dies with its devices in any state: the daemon ends its session, and the next guest has the devices."""

import pytest

from tests.migration.lab import Dma, guest, machine
from vfioemu.daemon.serve import running
from vfioemu.migration.vfio import open_guest
from vfioemu.uapi import constants as u

STATES = [
    u.VFIO_DEVICE_STATE_STOP,
    u.VFIO_DEVICE_STATE_STOP_COPY,
    u.VFIO_DEVICE_STATE_RESUMING,
    u.VFIO_DEVICE_STATE_RUNNING_P2P,
    u.VFIO_DEVICE_STATE_PRE_COPY,
    u.VFIO_DEVICE_STATE_PRE_COPY_P2P,
]


@pytest.mark.parametrize("model", ["dma-engine", "mtty"])
async def test_device_of_a_dead_client_runs_for_the_next_one(model):
    """The kernel's mtty keeps its state over the last close, and so does ours: a guest that opens it resets it."""
    dma = Dma(model=model, program=None)
    spec = guest(dma)
    async with running(machine(dma)) as daemon:
        for state in STATES:
            async with open_guest(str(daemon.socket_path), spec, running=True) as dying:
                await dying.devices["dma0"].set_state(state)
            # To a daemon, a client that was killed is one that has closed everything.
            async with open_guest(str(daemon.socket_path), spec, running=True) as fresh:
                assert await fresh.devices["dma0"].get_state() == u.VFIO_DEVICE_STATE_RUNNING
                assert not (await fresh.plan(verify=True)).blockers()
