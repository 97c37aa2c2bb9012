# SPDX-License-Identifier: MIT
"""Nobody waits for what another client has made long or many: the daemon and its clients in one loop, counted in its rounds.

Times are not looked at. A bystander makes call after call; how many of them fit into a long call of somebody else is how often
the daemon gave way, on any machine.
"""

import contextlib
import mmap
import struct
import tempfile

import pytest
import trio

from tests.daemon.neighbours import BIG_BAR, HOSTILE, MACHINE, ORACLE, World
from vfioemu import client
from vfioemu.abi.dma_engine import Register
from vfioemu.core.base import slices
from vfioemu.daemon.serve import running
from vfioemu.io import driver
from vfioemu.io.base import turns
from vfioemu.syscalls.procmem import address_of
from vfioemu.uapi import constants as c

PAGE = 4096
MANY = 3000
SLICE_OF_EFFECTS = turns.SLICE
FEW = 3
"""Calls of a bystander that show that others were served: more than what is under way when a long call begins and ends."""


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with running(MACHINE, tmp_path / "run") as daemon, trio.open_nursery() as nursery:
        world = World(daemon, monkeypatch)
        await nursery.start(world.bystander)
        yield world
        nursery.cancel_scope.cancel()


async def register(device, which, value):
    await device.pwrite(value.to_bytes(8, "little"), which)


async def map_many(container):
    for i in range(MANY):
        await container.map_dma(0x10000, 2 * i * PAGE, PAGE)


async def start_tracking(session, container, device):
    await map_many(container)
    yield
    await container.dirty_start()


async def stop_tracking(session, container, device):
    await map_many(container)
    await container.dirty_start()
    yield
    await container.dirty_stop()


async def unmap_all(session, container, device):
    await map_many(container)
    yield
    await container.unmap_dma(0, 0, c.VFIO_DMA_UNMAP_FLAG_ALL)


async def read_a_bar(session, container, device):
    yield
    assert len(await device.pread(BIG_BAR, 4 << 40)) == BIG_BAR


async def pin_much(session, container, device):
    memory = client.Memory(16 << 20)
    await session.share_memory(memory)
    await container.map_dma(memory.address, 0, memory.size)
    await register(device, Register.ARG1, 1)
    await register(device, Register.ARG2, 3)
    for i in range(2000):  # scattered: each is a run of its own
        await register(device, Register.ARG0, i * 2 * PAGE)
        await register(device, Register.COMMAND, 1)


async def unpin_all(session, container, device):
    await pin_much(session, container, device)
    yield
    await register(device, Register.COMMAND, 4)


CALLS = [start_tracking, stop_tracking, unmap_all, read_a_bar, unpin_all]


async def during(world, call, group=HOSTILE):
    """How many calls the bystander made while that one lasted."""
    async with world.connect(2) as session, world.guest(session, group) as (container, device):
        steps = call(session, container, device)
        await anext(steps)
        before = world.calls
        with contextlib.suppress(StopAsyncIteration):
            await anext(steps)
    return world.calls - before


async def read_state_in_small_pieces(session, container, device):
    """The oracle's driver hands out 64 bytes at a time, which shows where memory ends; nothing of that is waited for here."""
    size = 1 << 18
    await device.pwrite(struct.pack("<8Q", 8, size, 96, 64, 0, 0, 0, 0), 0)
    with await device.set_state(c.VFIO_DEVICE_STATE_STOP_COPY) as data, tempfile.TemporaryFile() as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as memory:
            file.truncate(size - PAGE)
            yield
            with pytest.raises(OSError, match="Bad address"):
                await data.read_at(address_of(memory)[0], size)


@pytest.mark.parametrize("slice", [turns.SLICE, 1 << 30])
async def test_many_small_effects_are_a_long_call_too(tmp_path, monkeypatch, slice):
    monkeypatch.setattr(driver, "SLICE", slice)
    async with running(MACHINE, tmp_path / "run", memory="process_vm") as daemon:
        async with trio.open_nursery() as nursery:
            world = World(daemon, monkeypatch)
            await nursery.start(world.bystander)
            calls = await during(world, read_state_in_small_pieces, ORACLE)
            nursery.cancel_scope.cancel()

    assert (calls >= FEW) == (slice == SLICE_OF_EFFECTS)


@pytest.mark.parametrize("call", CALLS)
async def test_others_are_served_during_a_long_call(world, call):
    assert await during(world, call) >= FEW


@pytest.mark.parametrize("call", [start_tracking, unmap_all])
async def test_without_slices_they_would_not(world, monkeypatch, call):
    monkeypatch.setattr(slices, "SLICE", 1 << 30)
    monkeypatch.setattr(driver, "SLICE", 1 << 30)

    assert await during(world, call) < FEW


@pytest.mark.parametrize("held", ["mappings", "pins"])
async def test_others_are_served_while_what_a_client_had_is_let_go(world, held):
    async with world.connect(2) as session:
        async with world.guest(session, HOSTILE) as (container, device):
            if held == "mappings":
                await map_many(container)
            else:
                await pin_much(session, container, device)
            before = world.calls
        async with world.guest(session, HOSTILE):  # not before all of it is gone
            assert world.calls - before >= FEW


async def calls_of_each(world, connections=40, calls=4000):
    """How many calls of a client with many connections there are for each of the bystander's."""
    async with world.connect(2) as session:
        container = await session.open_container()
        async with trio.open_nursery() as nursery:
            served = 0

            async def hammer():
                nonlocal served
                while True:
                    await container.check_extension(1)
                    served += 1

            for _ in range(connections):
                nursery.start_soon(hammer)
            while served < calls:
                await trio.lowlevel.checkpoint()
            first, before = served, world.calls
            while served < first + calls:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            return (served - first) / (world.calls - before)


async def test_turns_are_those_of_a_process_and_not_of_a_connection(world):
    assert await calls_of_each(world) < 12


async def test_by_connections_they_would_have_forty_times_as_much(world, monkeypatch):
    monkeypatch.setattr(turns.Share, "free", property(lambda share: True))

    assert await calls_of_each(world) > 24
