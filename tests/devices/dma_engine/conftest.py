# SPDX-License-Identifier: MIT
"""A dma-engine on a bench, by its registers or as a PCI function, and dma-engines in a machine."""

import struct

import pytest

from tests.devices.dma_engine.rig import Rig
from tests.devices.driver import Driver, on_bench
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.devices.registry import load_models
from vfioemu.testing.process import Process
from vfioemu.uapi import constants as c

PAGE = 4096
HARDWARE = IommuSpec(reserved=((0xFEE0_0000, 0xFEEF_FFFF),))


@pytest.fixture(scope="session")
def make():
    """A function that puts a dma-engine with the options given on a bench, and gives its driver."""
    return lambda **options: on_bench(DmaEngine({name.replace("_", "-"): options[name] for name in options}))


class Guest:
    """A machine with one dma-engine of each of the types given, all in one container, over 64 pages of RAM.

    DMA to `shared` RAM is done in C; to other RAM, by effects.
    """

    def __init__(self, *types, scheduler=None, ram=64, shared=True, **options):
        options = {name.replace("_", "-"): value for name, value in options.items()}
        groups = tuple(
            GroupSpec(number=i, iommu=None if type_ == 1 else HARDWARE) for i, type_ in enumerate(types)
        )
        devices = tuple(
            DeviceSpec(
                symbol=f"d{i}", name=f"d{i}", group=i, model="dma-engine", options={"type": type_, **options}
            )
            for i, type_ in enumerate(types)
        )
        self.machine = Machine(MachineSpec(groups=groups, devices=devices), load_models())
        self.process = process = Process(self.machine, scheduler=scheduler)
        self.arg = process.memory.allocate(PAGE)
        self.container = process.open("/dev/vfio/vfio").ret
        self.ram = ram
        fds = []
        for i in range(len(types)):
            fds.append(process.open(f"/dev/vfio/{i}").ret)
            self.call(fds[-1], c.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", self.container))
        process.ioctl(self.container, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)
        self.drivers = []
        for i, group in enumerate(fds):
            fd = self.call(group, c.VFIO_GROUP_GET_DEVICE_FD, b"d%d\0" % i)
            self.drivers.append(Driver(process, self.machine.devices[f"d{i}"], fd))
        self.base = process.memory.allocate(ram * PAGE, shared=shared)
        self.map(0, ram)

    def call(self, fd, cmd, payload):
        self.process.memory.write(self.arg, payload)
        result = self.process.ioctl(fd, cmd, self.arg)
        assert result.err is None, result
        return result.ret

    def map(self, page, npages):
        payload = struct.pack("<IIQQQ", 32, 3, self.base + page * PAGE, page * PAGE, npages * PAGE)
        self.call(self.container, c.VFIO_IOMMU_MAP_DMA, payload)

    def unmap(self, page, npages):
        self.call(
            self.container, c.VFIO_IOMMU_UNMAP_DMA, struct.pack("<IIQQ", 24, 0, page * PAGE, npages * PAGE)
        )

    def track(self):
        self.call(self.container, c.VFIO_IOMMU_DIRTY_PAGES, struct.pack("<II", 8, 1))

    def dirty(self):
        """The pages that GET_BITMAP tells."""
        size = (self.ram + 63) // 64 * 8
        at = self.process.memory.allocate(PAGE)
        payload = struct.pack("<IIQQQQQ", 48, 4, 0, self.ram * PAGE, PAGE, size, at)
        self.call(self.container, c.VFIO_IOMMU_DIRTY_PAGES, payload)
        bits = int.from_bytes(self.process.memory.read(at, size), "little")
        self.process.memory.unmap(at, PAGE)
        return {page for page in range(self.ram) if bits >> page & 1}

    def memory(self):
        return self.process.memory.read(self.base, self.ram * PAGE)


@pytest.fixture(scope="session")
def guest():
    return Guest


@pytest.fixture
def rig():
    """A dma-engine as a PCI function on a bench: `rig(address, big_bar=4096)`."""
    return Rig
