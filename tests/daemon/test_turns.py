# SPDX-License-Identifier: MIT
"""Nobody waits for what another client has made long or many: the daemon and its clients in one loop, counted in its rounds.

Times are not looked at. A bystander makes call after call; how many of them fit into a long call of somebody else is how often
the daemon gave way, on any machine.
"""

import contextlib

import pytest
import trio

from vfioemu import client
from vfioemu.core import slices
from vfioemu.core.spec import DeviceSpec, GroupSpec, IommuSpec, MachineSpec
from vfioemu.daemon.serve import running
from vfioemu.io import accounts, effects, turns
from vfioemu.uapi import constants as c
from vfioemu.uapi.dma_engine import Register

PAGE = 4096
MANY = 3000
FEW = 3
"""Calls of a bystander that show that others were served: more than what is under way when a long call begins and ends."""
BIG_BAR = 1 << 20
HOSTILE, HARDWARE, OTHER = 10, 2, 11
MACHINE = MachineSpec(
    groups=tuple(
        GroupSpec(number=n, iommu=IommuSpec(address_bits=48) if n == HARDWARE else None)
        for n in (HOSTILE, HARDWARE, OTHER)
    ),
    devices=tuple(
        DeviceSpec(symbol=f"d{n}", name=name, group=n, model="dma-engine", options=options)
        for n, name, options in (
            (HOSTILE, "00000000-0000-4000-8000-000000000001", {"type": 1, "big-bar": BIG_BAR}),
            (HARDWARE, "0000:00:10.0", {"type": 2, "logging": True}),
            (OTHER, "00000000-0000-4000-8000-000000000002", {"type": 1}),
        )
    ),
)
NAMES = {device.group: device.name for device in MACHINE.devices}


class World:
    """A daemon in this loop.

    Attributes:
        calls: of the bystander, so far.
    """

    def __init__(self, path, patch):
        self.path = path
        self.calls = 0
        self._patch = patch
        self._of, self._find = accounts.Accounts.of, accounts.Accounts.find

    @contextlib.asynccontextmanager
    async def connect(self, who):
        """Connect as another user's process: clients here are one process, and would have one share."""
        self._patch.setattr(accounts.Accounts, "of", lambda every, pid, uid: self._of(every, pid, uid + who))
        self._patch.setattr(
            accounts.Accounts, "find", lambda every, pid, uid: self._find(every, pid, uid + who)
        )
        async with client.connect(self.path) as session:
            yield session

    @contextlib.asynccontextmanager
    async def guest(self, session, number, iommu=3):
        with contextlib.ExitStack() as files:
            container = files.enter_context(await session.open_container())
            group = files.enter_context(await session.open_group(number))
            await group.set_container(container)
            await container.set_iommu(iommu)
            yield container, files.enter_context(await group.get_device(NAMES[number]))

    async def bystander(self, task_status=trio.TASK_STATUS_IGNORED):
        async with self.connect(1) as session:
            container = await session.open_container()
            task_status.started()
            while True:
                await container.check_extension(1)
                self.calls += 1


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with running(MACHINE, tmp_path / "run") as daemon, trio.open_nursery() as nursery:
        world = World(daemon.socket_path, monkeypatch)
        world.server = daemon.server
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


async def during(world, call):
    """How many calls the bystander made while that one lasted."""
    async with world.connect(2) as session, world.guest(session, HOSTILE) as (container, device):
        steps = call(session, container, device)
        await anext(steps)
        before = world.calls
        with contextlib.suppress(StopAsyncIteration):
            await anext(steps)
    return world.calls - before


@pytest.mark.parametrize("call", CALLS)
async def test_others_are_served_during_a_long_call(world, call):
    assert await during(world, call) >= FEW


@pytest.mark.parametrize("call", [start_tracking, unmap_all])
async def test_without_slices_they_would_not(world, monkeypatch, call):
    monkeypatch.setattr(slices, "SLICE", 1 << 30)
    monkeypatch.setattr(effects, "SLICE", 1 << 30)

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
