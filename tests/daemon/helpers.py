# SPDX-License-Identifier: MIT
"""A small machine of oracle devices, and what one does with them."""

import ctypes
import errno
import os
import struct

from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec

DEVICES = {
    "mb0": (12, "00000000-0000-4000-8000-000000000001", "basic"),
    "mb1": (13, "00000000-0000-4000-8000-000000000002", "basic"),
    "mspc0": (20, "00000000-0000-4000-8000-000000000009", "migspc"),
    "pp0": (2, "0000:00:10.0", "migspc"),
}
MACHINE = MachineSpec(
    groups=tuple(
        GroupSpec(number=number, iommu=IommuSpec() if number < 10 else None)
        for number, _, _ in DEVICES.values()
    ),
    devices=tuple(
        DeviceSpec(symbol=symbol, name=name, group=group, model="oracle", options={"variant": variant})
        for symbol, (group, name, variant) in DEVICES.items()
    ),
    memlock="client",
)


async def set_up(session, symbol="mb0", iommu=3):
    """Container, group and device, ready to map."""
    group_number, name, _ = DEVICES[symbol]
    container = await session.open_container()
    group = await session.open_group(group_number)
    await group.set_container(container)
    await container.set_iommu(iommu)
    device = await group.get_device(name)
    return container, group, device


WINDOW = 0x1000
CONFIG = 7 << 40


async def command(device, *words):
    """Give the oracle device a command; its result."""
    await device.pwrite(struct.pack("<8Q", *words, *[0] * (8 - len(words))), 0)
    (result,) = struct.unpack("<q", (await device.pread(64, 0))[:8])
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


async def pin(device, iova, npages, prot=3):
    """vfio_pin_pages()."""
    return await command(device, 1, iova, npages, prot)


async def unpin(device, iova, npages):
    """vfio_unpin_pages()."""
    return await command(device, 2, iova, npages)


async def dma_write(device, iova, size, byte):
    """The device writes into guest memory."""
    await command(device, 3, iova, size, 1, byte)


async def dma_read(device, iova, size):
    """The device reads guest memory."""
    await command(device, 3, iova, size, 0)
    return await device.pread(size, WINDOW)


def protect(address, size, prot):
    """mprotect()."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), prot):
        raise OSError(ctypes.get_errno(), "mprotect")


def errno_of(error):
    """The errno's name of what pytest.raises caught."""
    return errno.errorcode[error.value.errno]
