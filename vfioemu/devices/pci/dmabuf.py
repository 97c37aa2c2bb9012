# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_FEATURE_DMA_BUF: a part of a BAR as an fd that other drivers could import.

Kernel: drivers/vfio/pci/vfio_pci_dmabuf.c of Linux 7.2. No driver here imports one, so what can be done with the fd is to
ask whether it is ready, and to close it.
"""

import errno
from collections.abc import Mapping
from typing import Final

from vfioemu.core.caller import Caller
from vfioemu.core.effects import GiveFd, Steps, read_user
from vfioemu.core.errors import IoctlError
from vfioemu.core.file import File, Mapped
from vfioemu.devices.pci import registers as r
from vfioemu.devices.pci.description import Bar
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.structs import DeviceFeatureDmaBuf, RegionDmaRange

_PAGE: Final = 4096
_U64: Final = (1 << 64) - 1
_LARGEST_COPY: Final = 4 << 20
"""KMALLOC_MAX_SIZE: memdup_array_user() does not copy more."""
_SWIOTLB: Final = 1 << 63
"""DMA_IOVA_USE_SWIOTLB, a bit that no length may have."""


class DmaBuf(File):
    """A DMA buffer ("dmabuf"): without fences it is always ready, and vfio-pci's cannot be mapped or read."""

    kind = FdKind.DMA_BUF

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """ENOTTY."""
        del caller, arg
        yield from ()
        raise IoctlError(errno.ENOTTY, f"a DMA buffer has no ioctl {cmd:#x}")

    def mmap(self, caller: Caller, offset: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
        """dma_buf_mmap_internal(): EINVAL, as the exporter has no mmap operation."""
        del caller, offset, size, prot, shared
        yield from ()
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
    if asked.region_index >= r.ROM_BAR:
        raise IoctlError(errno.ENODEV, f"region_index {asked.region_index} is no BAR")
    size = asked.nr_ranges * RegionDmaRange.SIZE
    if size > _LARGEST_COPY:
        raise IoctlError(errno.ENOMEM, f"nr_ranges {asked.nr_ranges} take {size} bytes")
    data = yield from read_user(arg + DeviceFeatureDmaBuf.SIZE, size)
    step = RegionDmaRange.SIZE
    ranges = [RegionDmaRange.parse(data[i : i + step]) for i in range(0, size, step)]
    _validate(ranges)
    bar = bars.get(asked.region_index)
    if bar is None:
        raise IoctlError(errno.ENODEV, f"region_index {asked.region_index}: there is no such BAR")
    if bar.kind == "io":
        raise IoctlError(errno.EINVAL, f"region_index {asked.region_index}: the BAR is no memory")
    _locate(ranges, addresses[asked.region_index], bar.size)
    number: int = yield GiveFd(DmaBuf())
    return number


def _validate(ranges: list[RegionDmaRange]) -> None:
    """validate_dmabuf_input()."""
    total = 0
    for part in ranges:
        if not part.length or part.offset % _PAGE or part.length % _PAGE:
            raise IoctlError(
                errno.EINVAL, f"offset {part.offset:#x}, length {part.length:#x}: empty, or not whole pages"
            )
        total += part.length
        if total > _U64:
            raise IoctlError(errno.EINVAL, f"length {part.length:#x} makes more than 2^64 - 1 of all")
    if total & _SWIOTLB:
        raise IoctlError(errno.EINVAL, f"length: {total:#x} bytes in all")


def _locate(ranges: list[RegionDmaRange], start: int, size: int) -> None:
    """vfio_pci_core_fill_phys_vec(): on bus addresses, so that an offset can overflow before it is beyond the BAR."""
    for part in ranges:
        end = start + part.offset + part.length
        if end > _U64 or start + part.offset > _U64:
            raise IoctlError(
                errno.EOVERFLOW, f"offset {part.offset:#x} + length {part.length:#x} passes 2^64 - 1"
            )
        if end > start + size:
            raise IoctlError(
                errno.EINVAL,
                f"offset {part.offset:#x} + length {part.length:#x}: the BAR has {size:#x} bytes",
            )
