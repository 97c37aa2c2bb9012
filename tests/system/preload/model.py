# SPDX-License-Identifier: MIT
"""A machine of oracle devices, one of which has memory that can be mapped."""

import os
import struct
from typing import ClassVar

from vfioemu.core.base.file import Mapped as Place
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.regions import Region
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.oracle import Oracle
from vfioemu.uapi import constants as c

SIZE = 0x4000
_FLAGS = c.VFIO_REGION_INFO_FLAG_READ | c.VFIO_REGION_INFO_FLAG_WRITE | c.VFIO_REGION_INFO_FLAG_MMAP


class Mapped(Oracle):
    """An oracle device whose region 2 is plain memory."""

    OPTIONS: ClassVar = Oracle.OPTIONS

    def __init__(self, options):
        super().__init__(options)
        self._memory = os.memfd_create("region", os.MFD_CLOEXEC)
        os.truncate(self._memory, SIZE)

    def __del__(self):
        os.close(self._memory)

    def regions(self):
        regions = list(super().regions())
        regions[2] = Region(SIZE, _FLAGS)
        return regions

    def read_region(self, index, offset, size):
        if index != 2:
            return super().read_region(index, offset, size)
        return os.pread(self._memory, size, offset)

    def accept_write(self, index, offset, size):
        return size if index == 2 else super().accept_write(index, offset, size)

    def write_region(self, index, offset, data):
        if index != 2:
            return super().write_region(index, offset, data)
        os.pwrite(self._memory, data, offset)
        return None

    def map_region(self, index, offset, size, prot):
        return Place(self._memory, offset) if index == 2 else None


class Hardware(DeviceModel):
    """A device that reads or writes a byte of guest memory when it is told to: (iova, size | READ, byte) in config space."""

    READ = 1 << 63

    def __init__(self, options):
        super().__init__(options)
        self._byte = 0

    def regions(self):
        flags = c.VFIO_REGION_INFO_FLAG_READ | c.VFIO_REGION_INFO_FLAG_WRITE
        return [None] * 7 + [Region(24, flags)]

    def accept_write(self, index, offset, size):
        return size

    def write_region(self, index, offset, data):
        iova, size, byte = struct.unpack("<3Q", data)
        if size & self.READ:
            (self._byte,) = yield from self.host.dma_read(iova, 1)
        else:
            yield from self.host.dma_write(iova, bytes([byte & 0xFF]))

    def read_region(self, index, offset, size):
        return struct.pack("<3Q", 0, 0, self._byte)


GROUPS = {"basic": 12, "mapped": 13, "migspc": 20, "other": 14, "hardware": 15}
MODELS = {"mapped": "mapped", "hardware": "hardware"}


def device(symbol):
    """What GET_DEVICE_FD wants."""
    return f"00000000-0000-4000-8000-{GROUPS[symbol]:012d}"


MACHINE = MachineSpec(
    groups=tuple(
        GroupSpec(number=number, iommu=IommuSpec() if symbol == "hardware" else None)
        for symbol, number in GROUPS.items()
    ),
    devices=tuple(
        DeviceSpec(
            symbol=symbol,
            name=device(symbol),
            group=number,
            model=MODELS.get(symbol, "oracle"),
            options={} if symbol == "hardware" else {"variant": "migspc" if symbol == "migspc" else "basic"},
        )
        for symbol, number in GROUPS.items()
    ),
    memlock="client",
)
