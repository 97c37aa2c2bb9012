# SPDX-License-Identifier: MIT
"""Manual clearing of the dirty log: CLEAR_BITMAP, and what a look without clearing leaves behind.

Never part of Linux. The functions named here are those of the patches, of which openEuler carries the last version.
"""

from collections.abc import Iterator
from itertools import takewhile

from vfioemu.core.base.effects import Steps, read_user
from vfioemu.core.base.limits import dirty_bitmap_bytes
from vfioemu.core.base.slices import MAPPING, Slices
from vfioemu.core.memory.iova_map import Dma
from vfioemu.core.type1.state import Iommu
from vfioemu.core.type1.windows import WINDOW
from vfioemu.native.bitmap import DirtyBitmap


def clear_range(iommu: Iommu, iova: int, size: int, data: int) -> Steps[None]:
    """Make pages clean whose bits are set in the user's bitmap at `data`, whose bit 0 is the page at `iova`.

    A range may bisect mappings. Bits over holes mean nothing. Pinned pages stay dirty: a mapping that has lost a page
    has all of its pinned pages marked again.

    A bitmap of more than a window is looked at twice and never held: first whether it can be read at all.

    Raises:
        IoctlError: EFAULT, before anything is cleared.

    Kernel: vfio_iova_dirty_log_clear(), which has a copy of it.
    """
    shift = iommu.pgshift
    windows = [(first, min(WINDOW, (size >> shift) - first)) for first in range(0, size >> shift, WINDOW)]
    if len(windows) > 1:
        for first, count in windows:
            yield from read_user(data + first // 8, dirty_bitmap_bytes(count))
    for first, count in windows:
        bits = yield from read_user(data + first // 8, dirty_bitmap_bytes(count))
        yield from _clear(iommu, iova + (first << shift), count << shift, bits)


def _clear(iommu: Iommu, iova: int, size: int, bits: bytes) -> Steps[None]:
    shift = iommu.pgshift
    slices = Slices()
    for dma in _overlapping(iommu, iova, size):
        if dma.bitmap is None or (iommu.manual_clear.mapped_only and not dma.iommu_mapped):
            continue
        start = max(iova, dma.iova)
        end = min(iova + size, dma.iova + dma.size)
        first, count = (start - dma.iova) >> shift, (end - start) >> shift
        if dma.all_dirty:  # from here on its bits differ
            yield from _fill(dma)
        if slices.done(MAPPING + count // 64):
            yield from slices.breathe()
        if dma.bitmap.clear_bits(bits, first, count, (start - iova) >> shift):
            yield from iommu.populate(dma)


def _fill(dma: Dma) -> Steps[None]:
    bitmap = dma.bitmap
    assert bitmap is not None
    for first in range(0, bitmap.nbits(), WINDOW):
        bitmap.mark_range(first, min(WINDOW, bitmap.nbits() - first))
        yield from Slices().breathe()
    dma.all_dirty = False


def _overlapping(iommu: Iommu, iova: int, size: int) -> Iterator[Dma]:
    """Find the mappings that overlap the range. The kernel walks the tree, whatever lookups make of its top."""
    if iommu.map.tangled:  # mappings may overlap
        walk = iter(iommu.map)
    else:
        walk = _from(iommu, iommu.map.starting_before(iova) or iommu.map.starting_from(iova))
    for dma in takewhile(lambda dma: dma.iova < iova + size, walk):
        if dma.iova + dma.size > iova:
            yield dma


def _from(iommu: Iommu, dma: Dma | None) -> Iterator[Dma]:
    while dma is not None:
        yield dma
        dma = iommu.map.next(dma)


def put_back(iommu: Iommu, bitmap: DirtyBitmap, out: bytearray, shift: int) -> None:
    """Put bits copied out as `out`, shifted, back uncleared: leave the bitmap as the patches' update_user_bitmap() does.

    As posted the bitmap stays shifted, the user's first word included, and is shifted again by the next look. The later
    version shifts it back, so that only those bits of the user's first word stay which lie over pages.
    """
    if shift and iommu.manual_clear.shift_back:
        bitmap.unshift(out, shift)
    else:
        bitmap.restore_shifted(out)
