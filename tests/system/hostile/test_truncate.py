# SPDX-License-Identifier: MIT
"""A client truncates the file behind its memory while devices write to it, as fast as both can."""

import os
import random

import pytest

from tests.system.hostile.helpers import (
    PAGE,
    STORM_GROUP,
    get_register,
    guest,
    registers,
    set_register,
)
from vfioemu import client
from vfioemu.abi.dma_engine import Pattern, Register

PAGES = 32
IOVA = 1 << 20
TURNS = 400
MANY_TURNS = 20_000


@pytest.mark.parametrize("turns", [TURNS, pytest.param(MANY_TURNS, marks=pytest.mark.full)])
async def test_the_daemon_outlives_every_truncation(daemon, turns):
    dice = random.Random(5)
    async with client.connect(daemon.socket_path) as session:
        async with guest(session, STORM_GROUP) as (container, _, device):
            memory = client.Memory(PAGES * PAGE, sealed=False)
            await session.share_memory(memory)
            await container.map_dma(memory.address, IOVA, PAGES * PAGE)
            await container.dirty_start()
            await device.pwrite(registers(IOVA, PAGES * PAGE, Pattern.RANDOM, 100_000), Register.BASE)
            await set_register(device, Register.BATCH, 16)
            for _ in range(turns):
                os.ftruncate(memory.fd, dice.randrange(PAGES + 1) * PAGE)
                await set_register(device, Register.CONTROL, 1)
                await get_register(device, Register.WRITES)
            assert await get_register(device, Register.FAILED)
            assert await get_register(device, Register.WRITES)
            os.ftruncate(memory.fd, PAGES * PAGE)
            before = await get_register(device, Register.WRITES)
            await set_register(device, Register.CONTROL, 1)
            while await get_register(device, Register.WRITES) < before + PAGES:
                pass
            await set_register(device, Register.CONTROL, 0)
            dirty = await container.dirty_ranges(IOVA, PAGES * PAGE)
            written = bytes(memory.view)
            for page in range(PAGES):
                if any(written[page * PAGE : (page + 1) * PAGE]):
                    iova = IOVA + page * PAGE
                    assert any(start <= iova < start + size for start, size in dirty), page
