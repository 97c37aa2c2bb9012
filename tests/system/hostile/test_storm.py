# SPDX-License-Identifier: MIT
"""A device writes as fast as it can; what is taken from it is never written again, from the moment the call returns.

The device goes on all the while in memory next to it, and is waited for there: so it had every opportunity.
"""

import contextlib
import mmap

import pytest
import trio

from tests.sample import sampled
from tests.system.hostile.helpers import (
    IOMMU_GROUP,
    MACHINE,
    PAGE,
    PATIENCE,
    STORM_GROUP,
    get_register,
    guest,
    registers,
    set_register,
)
from vfioemu import client
from vfioemu.abi.dma_engine import Pattern, Register
from vfioemu.syscalls import procmem
from vfioemu.testing.daemon import daemon_process
from vfioemu.uapi import constants as c

PAGES = 8
SIZE = PAGES * PAGE
TAKEN = 1 << 20
LEFT = TAKEN + SIZE
RATE = 100_000
TURNS = 1200
MANY_TURNS = 10_000


@pytest.fixture(scope="module")
def private_daemon():
    """A daemon that reaches memory that is not shared by itself."""
    with daemon_process(MACHINE, "--memory", "process_vm") as running:
        yield running
        assert running.ask("stats")["internal_errors"] == 0, running.log()


class Storm:
    """A guest whose device writes all over two neighbouring pieces of memory.

    Attributes:
        taken, left: views of them.
    """

    def __init__(self, container, device, address, view):
        self.container = container
        self.device = device
        self.address = address
        self.taken = view[:SIZE]
        self.left = view[SIZE:]

    async def begin(self):
        await self.container.map_dma(self.address + SIZE, LEFT, SIZE)
        await self.device.pwrite(registers(TAKEN, 2 * SIZE, Pattern.RANDOM, RATE), Register.BASE)
        await set_register(self.device, Register.BATCH, 16)
        await set_register(self.device, Register.CONTROL, 1)

    async def give(self):
        """Map the first piece, and wait until the device writes there."""
        await self.container.map_dma(self.address, TAKEN, SIZE)
        with trio.fail_after(PATIENCE):
            while not self.touched(0):
                await get_register(self.device, Register.SEQ)

    def touched(self, fill):
        return bytes(self.taken) != bytes([fill]) * SIZE

    def refill(self, fill):
        self.taken[:] = bytes([fill]) * SIZE

    async def goes_on(self):
        """Wait until the device has written a good deal more in the other piece."""
        goal = await get_register(self.device, Register.WRITES) + 32
        with trio.fail_after(PATIENCE):
            while await get_register(self.device, Register.WRITES) < goal:
                pass


@contextlib.asynccontextmanager
async def storm(path, group, *, shared):
    """A storm that has begun."""
    async with client.connect(path) as session, guest(session, group) as (container, _, device):
        with contextlib.ExitStack() as stack:
            if shared:
                handed = client.Memory(2 * SIZE)
                await session.share_memory(handed)
                address, view = handed.address, handed.view
            else:
                memory = stack.enter_context(mmap.mmap(-1, 2 * SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
                view = memoryview(memory)
                address = procmem.address_of(view)[0]
            weather = Storm(container, device, address, view)
            await weather.begin()
            yield weather
            if not device.closed:
                await set_register(device, Register.CONTROL, 0)
            for part in (weather.taken, weather.left, view):
                part.release()


async def unmap(weather):
    await weather.container.unmap_dma(TAKEN, SIZE)


async def unmap_with_bitmap(weather):
    bitmap = bytearray(8)
    await weather.container.unmap_dma(TAKEN, SIZE, bitmap=bitmap)
    assert any(bitmap)


async def take_away(weather, turns, take=unmap):
    """Map, be written, unmap, and look whether that is all: over and over."""
    weather.refill(0)
    for turn in range(turns):
        await weather.give()
        await take(weather)
        fill = turn % 255 + 1
        weather.refill(fill)
        await weather.goes_on()
        assert not weather.touched(fill), turn
        weather.refill(0)


@pytest.mark.parametrize("turns", [TURNS, pytest.param(MANY_TURNS, marks=pytest.mark.full)])
@pytest.mark.parametrize("group", sampled([IOMMU_GROUP, STORM_GROUP]))
async def test_unmapped_shared_memory_is_not_written(daemon, group, turns):
    async with storm(daemon.socket_path, group, shared=True) as weather:
        await take_away(weather, turns)


@pytest.mark.parametrize("turns", [TURNS // 12, pytest.param(MANY_TURNS // 5, marks=pytest.mark.full)])
async def test_unmapped_memory_that_is_asked_for_is_not_written(daemon, turns):
    async with storm(daemon.socket_path, STORM_GROUP, shared=False) as weather:
        await take_away(weather, turns)


@pytest.mark.parametrize("turns", [TURNS // 12, pytest.param(MANY_TURNS // 5, marks=pytest.mark.full)])
async def test_unmapped_memory_of_a_process_is_not_written(private_daemon, turns):
    async with storm(private_daemon.socket_path, STORM_GROUP, shared=False) as weather:
        await take_away(weather, turns)


async def test_memory_unmapped_with_its_bitmap_is_not_written(daemon):
    async with storm(daemon.socket_path, STORM_GROUP, shared=True) as weather:
        await weather.container.dirty_start()
        await take_away(weather, TURNS // 12, unmap_with_bitmap)


async def test_stopped_device_does_not_write(daemon):
    async with storm(daemon.socket_path, STORM_GROUP, shared=True) as weather:
        for _ in range(TURNS // 12):
            await weather.goes_on()
            await weather.device.set_state(c.VFIO_DEVICE_STATE_STOP)
            before = bytes(weather.left)
            for _ in range(5):
                await weather.container.check_extension(c.VFIO_TYPE1v2_IOMMU)
            assert bytes(weather.left) == before
            await weather.device.set_state(c.VFIO_DEVICE_STATE_RUNNING)


async def test_closed_device_does_not_write(daemon):
    for _ in range(TURNS // 60):
        async with storm(daemon.socket_path, STORM_GROUP, shared=True) as weather:
            await weather.goes_on()
            weather.device.close()
            await weather.container.check_extension(c.VFIO_TYPE1v2_IOMMU)
            before = bytes(weather.left)
            for _ in range(5):
                await weather.container.check_extension(c.VFIO_TYPE1v2_IOMMU)
            assert bytes(weather.left) == before
