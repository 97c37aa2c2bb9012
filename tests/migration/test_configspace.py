# SPDX-License-Identifier: MIT
"""Config space travels behind a device's own state, as QEMU has it, and is there before the device runs."""

import struct

import pytest

from vfioemu import client, daemon
from vfioemu.abi.dma_engine import Register
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.migration import configspace
from vfioemu.migration.guestspec import DeviceSpec as GuestDevice
from vfioemu.migration.vfio_device import VfioDevice
from vfioemu.uapi import constants as c

CONFIG = c.VFIO_PCI_CONFIG_REGION_INDEX << 40
STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = 1, 2, 3, 4, 6
MODELS = {
    "engine": ("dma-engine", {"type": 3}, "0001:00:05.0"),
    "with": ("dma-engine", {"type": 3, "config": True}, "0001:00:06.0"),
    "mtty": ("mtty", {}, "00000000-0000-4000-8000-000000000001"),
}
NUMBERS = {symbol: number for number, symbol in enumerate(MODELS, 1)}
MACHINE = MachineSpec(
    groups=tuple(GroupSpec(number=number, iommu=IommuSpec()) for number in NUMBERS.values()),
    devices=tuple(
        DeviceSpec(symbol=symbol, name=name, group=NUMBERS[symbol], model=model, options=options)
        for symbol, (model, options, name) in MODELS.items()
    ),
)


async def open_device(session, symbol):
    container = await session.open_container()
    group = await session.open_group(NUMBERS[symbol])
    await group.set_container(container)
    await container.set_iommu(3)
    file = await group.get_device(MODELS[symbol][2])
    device = VfioDevice(GuestDevice(name=symbol, group=NUMBERS[symbol], device=MODELS[symbol][2]), file)
    await device.open()
    return device, file


async def move(source, target, size, before=()):
    for state in (*before, STOP_COPY):
        await source.set_state(state)
    await target.set_state(RESUMING)
    while data := await source.read_state(size):
        await target.write_state(data)
    assert await source.read_state(size) == b""
    await target.set_state(STOP)
    await source.set_state(STOP)


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("symbol", MODELS)
async def test_the_guests_settings_are_there_before_the_device_runs(symbol, size):
    if size == 1 and symbol != "engine":
        size = 64
    async with (
        daemon.running(MACHINE) as one,
        daemon.running(MACHINE) as two,
        client.connect(one.socket_path) as here,
        client.connect(two.socket_path) as there,
    ):
        source, file = await open_device(here, symbol)
        target, copy = await open_device(there, symbol)
        if "engine" in MODELS[symbol][0]:
            await file.pwrite(struct.pack("<HB", 6, 0), CONFIG + 4)
            await file.pwrite(struct.pack("<I", 0xFEBC0000), CONFIG + 0x10)
            await file.pwrite(b"\x2a", CONFIG + 0x3C)
            await file.pwrite((77).to_bytes(8, "little"), Register.SEED)

        await move(source, target, size)

        for place, width in configspace._PLACES:
            assert await copy.pread(width, CONFIG + place) == await file.pread(width, CONFIG + place), hex(
                place
            )
        if "engine" in MODELS[symbol][0]:
            assert await copy.pread(2, CONFIG + 4) == b"\x06\0"
            assert await copy.pread(8, Register.SEED) == (77).to_bytes(8, "little")
        await target.set_state(RUNNING)
        source.close()
        target.close()


async def test_a_state_without_config_space_is_refused():
    async with daemon.running(MACHINE) as one, client.connect(one.socket_path) as session:
        device, _ = await open_device(session, "engine")
        await device.set_state(RESUMING)
        await device.write_state(b"x" * 100)
        with pytest.raises(OSError, match="no config space at its end"):
            await device.set_state(STOP)
        await device.reset()
        await device.set_state(STOP)
        device.close()


async def test_a_destination_that_gives_up_restores_nothing():
    async with daemon.running(MACHINE) as one, client.connect(one.socket_path) as session:
        device, file = await open_device(session, "engine")
        before = await file.pread(256, CONFIG)
        await device.set_state(RESUMING)
        await device.write_state(b"\xff" * 256 + struct.pack("<4sI", b"CFG1", 256))
        await device.reset()
        assert await file.pread(256, CONFIG) == before
        device.close()


@pytest.mark.parametrize(
    "end", [b"", b"CFG1", struct.pack("<4sI", b"CFG1", 1), struct.pack("<4sI", b"CFG1", 4097)]
)
def test_ends_that_are_none(end):
    with pytest.raises(OSError, match="no config space"):
        configspace.split(end)


def test_an_end_is_split():
    assert configspace.split(b"ownconf" + struct.pack("<4sI", b"CFG1", 4)) == (b"own", b"conf")
    assert configspace.split(struct.pack("<4sI", b"CFG1", 0)) == (b"", b"")
    largest = b"x" * 4096 + struct.pack("<4sI", b"CFG1", 4096)
    assert configspace.split(largest) == (b"", b"x" * 4096)
