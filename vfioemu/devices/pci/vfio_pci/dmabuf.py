# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_FEATURE_DMA_BUF: a part of a BAR as an fd that other drivers could import.

Kernel: drivers/vfio/pci/vfio_pci_dmabuf.c of Linux 7.2. No driver here imports one, so there is little to do with the fd:
to ask whether it is ready, the ioctls of drivers/dma-buf/dma-buf.c, and to close it.
"""

import errno
import os
from collections.abc import Mapping
from mmap import PROT_WRITE
from typing import Final

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import GiveFd, Steps, read_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File, Mapped
from vfioemu.core.base.limits import PAGE_SIZE, U64_MAX
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.description import Bar
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.structs import DeviceFeatureDmaBuf, RegionDmaRange

_LARGEST_COPY: Final = 4 << 20
"""KMALLOC_MAX_SIZE: memdup_array_user() does not copy more."""
_SWIOTLB: Final = 1 << 63
"""DMA_IOVA_USE_SWIOTLB, a bit that no length may have."""

_SYNC: Final = 0x40086200
"""DMA_BUF_IOCTL_SYNC; this and the following from linux/dma-buf.h."""
_SYNC_RW: Final = 3
_SYNC_KNOWN: Final = 7
_SET_NAME: Final = frozenset({0x40046201, 0x40086201})
_NAME_SIZE: Final = 32


class DmaBuf(File):
    """A DMA buffer ("dmabuf"): without fences it is always ready, and vfio-pci's cannot be mapped or read.

    Args:
        open_flags: as of open(2): what it is open for decides who is refused with what.
    """

    kind = FdKind.DMA_BUF

    def __init__(self, open_flags: int) -> None:
        self.access = mode = open_flags & os.O_ACCMODE
        self._readable = mode in (os.O_RDONLY, os.O_RDWR)
        self._writable = mode in (os.O_WRONLY, os.O_RDWR)

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """dma_buf_ioctl(): SYNC and SET_NAME, which change nothing here: EFAULT, EINVAL; ENOTTY for any other."""
        if cmd == _SYNC:
            flags = int.from_bytes((yield from read_user(arg, 8)), "little")
            if flags & ~_SYNC_KNOWN or not flags & _SYNC_RW:
                raise IoctlError(errno.EINVAL, f"DMA_BUF_IOCTL_SYNC with flags {flags:#x}")
            return 0
        if cmd in _SET_NAME:
            for place in range(arg, arg + _NAME_SIZE):
                if (yield from read_user(place, 1)) == b"\0":
                    return 0
            raise IoctlError(errno.EINVAL, f"the name does not end within {_NAME_SIZE} bytes")
        raise IoctlError(errno.ENOTTY, f"a DMA buffer has no ioctl {cmd:#x}")

    def read(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """Refuse with EBADF when it is not open for reading, else with EINVAL: it has no read operation."""
        if not self._readable:
            raise IoctlError(errno.EBADF, "the open_flags of this DMA buffer are not for reading")
        return (yield from super().read(caller, addr, size))

    def write(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """Refuse with EBADF when it is not open for writing, else with EINVAL: it has no write operation."""
        if not self._writable:
            raise IoctlError(errno.EBADF, "the open_flags of this DMA buffer are not for writing")
        return (yield from super().write(caller, addr, size))

    def pread(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """Refuse with ESPIPE: alloc_file_pseudo() gives no FMODE_PREAD."""
        yield from ()
        raise IoctlError(errno.ESPIPE, "a DMA buffer cannot be read at an offset")

    def pwrite(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """Refuse with ESPIPE: alloc_file_pseudo() gives no FMODE_PWRITE."""
        yield from ()
        raise IoctlError(errno.ESPIPE, "a DMA buffer cannot be written at an offset")

    def mmap(self, caller: Caller, offset: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
        """Refuse with EACCES what it is not open for (do_mmap()), else with EINVAL, as the exporter has no mmap operation."""
        yield from ()
        if not self._readable or (shared and prot & PROT_WRITE and not self._writable):
            raise IoctlError(errno.EACCES, f"prot {prot:#x}: the open_flags of this DMA buffer forbid it")
        raise IoctlError(errno.EINVAL, "a DMA buffer of vfio-pci cannot be mapped")


def get(bars: Mapping[int, Bar], addresses: Mapping[int, int], arg: int) -> Steps[int]:
    """vfio_pci_core_feature_dma_buf(): the new fd.

    Raises:
        IoctlError: EFAULT, EINVAL, ENODEV for a region that is no BAR of the function, ENOMEM for too many ranges,
            EOVERFLOW, EMFILE.
    """
    asked = DeviceFeatureDmaBuf.parse((yield from read_user(arg, DeviceFeatureDmaBuf.SIZE)))
    if not asked.nr_ranges or asked.flags:
        raise IoctlError(errno.EINVAL, f"nr_ranges {asked.nr_ranges}, flags {asked.flags:#x}")
    bar = bars.get(asked.region_index) if asked.region_index < r.ROM_BAR else None
    if bar is None:  # also one that was never claimed, which is asked before the ranges are read
        raise IoctlError(errno.ENODEV, f"region_index {asked.region_index} is no BAR of the function")
    size = asked.nr_ranges * RegionDmaRange.SIZE
    if size > _LARGEST_COPY:
        raise IoctlError(errno.ENOMEM, f"nr_ranges {asked.nr_ranges} take {size} bytes")
    data = yield from read_user(arg + DeviceFeatureDmaBuf.SIZE, size)
    step = RegionDmaRange.SIZE
    ranges = [RegionDmaRange.parse(data[i : i + step]) for i in range(0, size, step)]
    _validate(ranges)
    if bar.kind == "io":
        raise IoctlError(errno.EINVAL, f"region_index {asked.region_index}: the BAR is no memory")
    _locate(ranges, addresses[asked.region_index], bar.size)
    number: int = yield GiveFd(DmaBuf(asked.open_flags))
    return number


def _validate(ranges: list[RegionDmaRange]) -> None:
    """validate_dmabuf_input()."""
    total = 0
    for part in ranges:
        if not part.length or part.offset % PAGE_SIZE or part.length % PAGE_SIZE:
            raise IoctlError(
                errno.EINVAL, f"offset {part.offset:#x}, length {part.length:#x}: empty, or not whole pages"
            )
        total += part.length
        if total > U64_MAX:
            raise IoctlError(errno.EINVAL, f"length {part.length:#x} makes more than 2^64 - 1 of all")
    if total & _SWIOTLB:
        raise IoctlError(errno.EINVAL, f"length: {total:#x} bytes in all")


def _locate(ranges: list[RegionDmaRange], start: int, size: int) -> None:
    """vfio_pci_core_fill_phys_vec(): on bus addresses, so that an offset can overflow before it is beyond the BAR."""
    for part in ranges:
        end = start + part.offset + part.length
        if end > U64_MAX or start + part.offset > U64_MAX:
            raise IoctlError(
                errno.EOVERFLOW, f"offset {part.offset:#x} + length {part.length:#x} passes 2^64 - 1"
            )
        if end > start + size:
            raise IoctlError(
                errno.EINVAL,
                f"offset {part.offset:#x} + length {part.length:#x}: the BAR has {size:#x} bytes",
            )
