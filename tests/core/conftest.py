# SPDX-License-Identifier: MIT
"""A client with a container, groups and devices, in a few words, and its calls as methods."""

import struct

import pytest

from vfioemu.core.base import slices
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.core.type1 import manual_clear, windows
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import Process
from vfioemu.uapi import constants as c

PAGE = 4096
MSI_WINDOW = (0xFEE0_0000, 0xFEEF_FFFF)
HARDWARE = IommuSpec(address_bits=48, pgsizes=0x40201000, reserved=(MSI_WINDOW,))
NARROW = IommuSpec(address_bits=39, pgsizes=0x40201000, reserved=(MSI_WINDOW,))
COHERENT = IommuSpec(address_bits=48, pgsizes=0x40201000, reserved=(MSI_WINDOW,), coherent=True)
ALONE = IommuSpec(isolated_msi=False)
KINDS = {
    "mdev": None,
    "deaf-mdev": None,
    "pci": HARDWARE,
    "narrow-pci": NARROW,
    "coherent-pci": COHERENT,
    "unviable": HARDWARE,
    "shared-msi": ALONE,
}
"""What is in front of each kind of group."""
ARGUMENT = 0x10000


@pytest.fixture(scope="module", params=["in one go", "in windows"])
def size_of_windows(request):
    """How bitmaps are delivered: as those of small mappings, or as if a window had 64 pages; and how long a slice is."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "in windows":
            patch.setattr(windows, "WINDOW", 64)
            patch.setattr(windows, "_WORDS", 1)
            patch.setattr(manual_clear, "WINDOW", 64)
            patch.setattr(windows, "is_large", bool)
            patch.setattr(slices, "SLICE", 1)
        yield


class Pinner(DeviceModel):
    """A device that is told before pinned mappings go, and gives its pins back."""

    def __init__(self, options):
        super().__init__(options)
        self.unmapped = []
        self.on_unmap = None

    def dma_unmap(self, iova, size):
        self.unmapped.append((iova, size))
        if self.on_unmap is not None:
            yield from self.on_unmap(iova, size)
        else:
            yield from self.host.unpin_range(iova, size)


class Deaf(DeviceModel):
    """A device without a dma_unmap callback."""


class Rig:
    """A process on a machine of its own.

    Args:
        groups: a word for each group and its device: an "mdev", a "deaf-mdev" without a dma_unmap callback, a "pci" device
            behind an IOMMU of 48 bits, a "narrow-pci" one behind 39 bits, a "coherent-pci" one behind an IOMMU that snoops
            caches, one in an "unviable" group, and "shared-msi" without isolated MSIs.
        type: the argument of SET_IOMMU; 0 leaves it out.
        joined: how many of the groups are put into the container and have their device opened.
        spec: more arguments of MachineSpec.
    """

    def __init__(self, groups="mdev", type=3, joined=None, **spec):
        kinds = groups.split()
        spec.setdefault("memlock", "client")
        self.machine = Machine(
            MachineSpec(
                groups=tuple(
                    GroupSpec(number=n, iommu=KINDS[kind], viable=kind != "unviable")
                    for n, kind in enumerate(kinds)
                ),
                devices=tuple(
                    DeviceSpec(
                        symbol=f"d{n}",
                        name=f"name{n}",
                        group=n,
                        model="deaf" if kind == "deaf-mdev" else "pinner",
                    )
                    for n, kind in enumerate(kinds)
                ),
                **spec,
            ),
            {"pinner": Pinner, "deaf": Deaf},
        )
        self.process = Process(self.machine)
        self.memory = self.process.memory
        self.argument = self.memory.allocate(ARGUMENT)
        self.data = self.memory.allocate(1 << 20)
        self.bitmap = self.memory.allocate(PAGE)
        self.container = self.process.open("/dev/vfio/vfio").ret
        self.groups = {}
        self.devices = {}
        joined = len(kinds) if joined is None else joined
        for n in range(joined):
            self.groups[n] = self.process.open(f"/dev/vfio/{n}").ret
            assert self.set_container(n) == 0
        if type:
            assert self.set_iommu(type) == 0
            for n in range(joined):
                self.open_device(n)

    # --- results: the value, or the errno's name ---

    @staticmethod
    def answer(result):
        return result.ret if result.err is None else result.err

    def ioctl(self, fd, cmd, payload=b"", at=None):
        """An ioctl with a payload; a bare integer is the argument itself."""
        if isinstance(payload, int):
            return self.answer(self.process.ioctl(fd, cmd, payload))
        at = self.argument if at is None else at
        self.memory.poke(at, payload)
        return self.answer(self.process.ioctl(fd, cmd, at))

    def out(self, size):
        """What lies at the argument's address after a call."""
        return self.memory.peek(self.argument, size)

    def run(self, steps):
        """What a device does by itself."""
        try:
            return self.process.scheduler.call(steps, self.process)
        except IoctlError as error:
            return error.name

    # --- fds ---

    def open_group(self, n):
        result = self.process.open(f"/dev/vfio/{n}")
        if result.err is None:
            self.groups[n] = result.ret
        return self.answer(result)

    def set_container(self, n, container=None):
        fd = self.container if container is None else container
        return self.ioctl(self.groups[n], c.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", fd))

    def unset_container(self, n):
        return self.ioctl(self.groups[n], c.VFIO_GROUP_UNSET_CONTAINER)

    def set_iommu(self, type):
        return self.ioctl(self.container, c.VFIO_SET_IOMMU, type)

    def extension(self, number):
        return self.ioctl(self.container, c.VFIO_CHECK_EXTENSION, number)

    def open_device(self, n, name=None):
        name = f"name{n}" if name is None else name
        answer = self.ioctl(self.groups[n], c.VFIO_GROUP_GET_DEVICE_FD, name.encode() + b"\0")
        if isinstance(answer, int):
            self.devices[n] = answer
        return answer

    def close(self, fd):
        return self.answer(self.process.close(fd))

    def leave(self, n):
        """Close the device and take its group out of the container."""
        self.close(self.devices.pop(n))
        assert self.unset_container(n) == 0

    # --- the container ---

    def map(self, iova, size=PAGE, vaddr=None, flags=3, argsz=32):
        vaddr = self.data if vaddr is None else vaddr
        return self.ioctl(
            self.container, c.VFIO_IOMMU_MAP_DMA, struct.pack("<IIQQQ", argsz, flags, vaddr, iova, size)
        )

    def unmap(self, iova=0, size=PAGE, flags=0, argsz=24):
        """The bytes unmapped, or the errno's name."""
        answer = self.ioctl(
            self.container, c.VFIO_IOMMU_UNMAP_DMA, struct.pack("<IIQQ", argsz, flags, iova, size)
        )
        return answer if answer != 0 else struct.unpack_from("<Q", self.out(24), 16)[0]

    def unmap_dirty(self, iova, size, bytes=8, data=None, pgsize=PAGE, argsz=48):
        data = self.bitmap if data is None else data
        answer = self.ioctl(
            self.container,
            c.VFIO_IOMMU_UNMAP_DMA,
            struct.pack("<IIQQQQQ", argsz, 1, iova, size, pgsize, bytes, data),
        )
        return answer if answer != 0 else struct.unpack_from("<Q", self.out(24), 16)[0]

    def dirty(self, flags, argsz=8):
        return self.ioctl(self.container, c.VFIO_IOMMU_DIRTY_PAGES, struct.pack("<II", argsz, flags))

    def start(self):
        return self.dirty(c.VFIO_IOMMU_DIRTY_PAGES_FLAG_START)

    def stop(self):
        return self.dirty(c.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP)

    def get_bitmap(self, iova, size, bytes=8, data=None, pgsize=PAGE, argsz=48):
        data = self.bitmap if data is None else data
        return self.ioctl(
            self.container,
            c.VFIO_IOMMU_DIRTY_PAGES,
            struct.pack(
                "<IIQQQQQ", argsz, c.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, iova, size, pgsize, bytes, data
            ),
        )

    def words(self, count, zero=False):
        """The user's bitmap as 64-bit words."""
        values = struct.unpack(f"<{count}Q", self.memory.peek(self.bitmap, 8 * count))
        if zero:
            self.memory.poke(self.bitmap, bytes(8 * count))
        return list(values)

    def harvest(self, iova, npages):
        """GET_BITMAP into zeroed memory: the bitmap as a list of words."""
        count = (npages + 63) // 64
        self.memory.poke(self.bitmap, bytes(8 * count))
        assert self.get_bitmap(iova, npages * PAGE, 8 * count) == 0
        return self.words(count)

    # --- devices ---

    def model(self, n=0):
        return self.machine.devices[f"d{n}"].model

    def pin(self, iova, npages=1, prot=3, n=0):
        return self.run(self.machine.devices[f"d{n}"].pin(iova, npages, prot))

    def unpin(self, iova, npages=1, n=0):
        return self.run(self.machine.devices[f"d{n}"].unpin(iova, npages))

    def write(self, iova, data, n=0):
        return self.run(self.machine.devices[f"d{n}"].rw_write(iova, data))

    def read(self, iova, size, n=0):
        return self.run(self.machine.devices[f"d{n}"].rw_read(iova, size))

    # --- what is left ---

    @property
    def iommu(self):
        return next(iter(self.machine.containers.values())).iommu

    def gauges(self):
        return next(iter(self.machine.gauges().values()))

    def finish(self):
        """The process exits; nothing of it may be left."""
        self.process.exit()
        assert not any(holdings(self.machine).values()), holdings(self.machine)
        assert self.process.locked_pages == 0
        for group in self.machine.groups.values():
            assert not group.lock.held


@pytest.fixture(scope="session")
def rig():
    """The class, so that Hypothesis tests can make a new one for each example."""
    return Rig
