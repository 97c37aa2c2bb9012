# SPDX-License-Identifier: MIT
"""The migration region through a daemon: the data section as shared memory of two processes."""

import gc
import mmap
import os
import struct

import pytest

from vfioemu import client, daemon
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.uapi import constants as c

BASE = 9 << 40
DATA_OFFSET, DATA_SIZE = 0x1000, 1 << 20
NAMES = ["6f1a2f9c-6d1f-4c0e-9a52-52d2c2f0a001", "6f1a2f9c-6d1f-4c0e-9a52-52d2c2f0a002"]
MACHINE = MachineSpec(
    groups=tuple(GroupSpec(number=number) for number in (1, 2)),
    devices=tuple(
        DeviceSpec(
            symbol=f"mt{number}",
            name=name,
            group=number,
            model="mtty",
            options={"ports": 2, "migration": "v1"},
        )
        for number, name in enumerate(NAMES, 1)
    ),
)


async def open_device(session, number):
    container = await session.open_container()
    group = await session.open_group(number)
    await group.set_container(container)
    await container.set_iommu(3)
    return await group.get_device(NAMES[number - 1])


async def field(device, offset):
    return struct.unpack("<Q", await device.pread(8, BASE + offset))[0]


async def set_state(device, state):
    await device.pwrite(struct.pack("<I", state), BASE)


@pytest.mark.parametrize("memory", ["ask", "process_vm"])
async def test_a_guests_serial_card_moves_through_mapped_data_sections(memory):
    async with (
        daemon.running(MACHINE, memory=memory) as server,
        client.connect(server.socket_path) as session,
    ):
        source, destination = await open_device(session, 1), await open_device(session, 2)
        info = await source.region_info(9)
        assert (info.size, info.flags, info.offset) == (DATA_OFFSET + DATA_SIZE, 15, BASE)
        capabilities = await source.region_capabilities(9)
        assert struct.unpack_from("<II", capabilities[c.VFIO_REGION_INFO_CAP_TYPE], 8) == (3, 1)
        assert not await source.probe(c.VFIO_DEVICE_FEATURE_MIGRATION)
        for offset, value in ((2, 1), (0, ord("h")), (0, ord("i")), ((1 << 40) + 7, 0x5A)):
            await source.pwrite(bytes([value]), offset)

        here = await source.mmap(DATA_SIZE, offset=BASE + DATA_OFFSET)
        there = await destination.mmap(DATA_SIZE, offset=BASE + DATA_OFFSET)
        await set_state(destination, 4)
        for state in (3, 2):
            await set_state(source, state)
            while await field(source, 8):
                assert await field(source, 16) == DATA_OFFSET
                size = await field(source, 24)
                there[:size] = here[:size]
                await destination.pwrite(struct.pack("<Q", size), BASE + 24)
        await set_state(source, 0)
        await set_state(destination, 1)

        assert await destination.pread(1, 0) + await destination.pread(1, 0) == b"hi"
        assert await destination.pread(1, (1 << 40) + 7) == b"\x5a"
        here.close()
        there.close()
        assert server.dispatcher.counters.bugs == 0


async def test_the_daemon_keeps_no_fd_of_a_data_section():
    async with daemon.running(MACHINE) as server, client.connect(server.socket_path) as session:
        gc.collect()

        def memfds():
            links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
            return sum("vfio-migration" in os.readlink(link) for link in links if os.path.lexists(link))

        before = memfds()
        with await open_device(session, 1) as device:
            for _ in range(20):
                with await device.mmap(4096, offset=BASE + DATA_OFFSET) as mapped:
                    mapped[:4] = b"kept"
            assert await device.pread(4, BASE + DATA_OFFSET) == b"kept"
            # The device's own, that of its mapping, and one to know the memory by if it is mapped for DMA.
            assert 0 < memfds() - before <= 3
        device = await open_device(session, 2)  # after this, what was closed is closed
        assert memfds() == before
        part = await device.mmap(mmap.PAGESIZE, offset=BASE + DATA_OFFSET + 5 * mmap.PAGESIZE)
        part[:5] = b"there"
        assert await device.pread(5, BASE + DATA_OFFSET + 5 * mmap.PAGESIZE) == b"there"
        part.close()
