# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_DIRTY_PAGES: the dirty path, from what a device writes to the bit that a program reads.

How a page becomes dirty, and why no mark is lost:

1. A device writes through its host (external.py without an IOMMU, hardware.py behind one), or pins a page and may write to it
   whenever it likes. The data is there *before* the mark: a harvest between the two would take the mark, the program would send
   the old page, and nobody would mark it again. A write that fails half way is marked as well, but where the recorded kernel
   does not.
2. The mark is a bit of the mapping's own bitmap (`native.bitmap`), set by the C kernel in the same call that copied, or here.
   One bitmap for each mapping, as in the kernel: a mapping that goes takes its bits along, and UNMAP_DMA can report them.
3. GET_BITMAP harvests mapping by mapping, under the container's lock: take the bits, write them to the user, then mark again what is
   still pinned (`populate`), because its device may write at any moment. Whoever marks meanwhile marks for the next harvest.
4. Without a mark, all of a mapping counts as dirty while a group behind the IOMMU has not pinned yet (`num_non_pinned_groups`):
   hardware writes, and nobody sees it. `all_dirty` says so without filling the bitmap.

What was thought of, and is not done: one bitmap for the whole container (UNMAP_DMA and hot-added mappings would need holes in it), and
marks in a queue that a harvest drains (a queue can overflow, a bitmap cannot).

With quirks "recorded" the merge is update_user_bitmap() of the kernel to the bit, mistakes included: a mapping that does
not start at a multiple of 64 pages has its bitmap shifted in place, only its own bits are cleared afterwards, so stale
bits come back behind its end; the whole first word of the user is ORed in and kept; a failed copy leaves the bitmap
shifted, and the page that was dirty is reported elsewhere. With "clean" a mapping's bits are its own, nothing stays
behind, and a failed copy loses nothing.

Clearing by hand, where the container has it (core/memory/manual_clear.py), is in manual_clear.py beside this.
"""

import errno
from typing import Final

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps, read_user, write_user
from vfioemu.core.base.errors import IoctlError, header_why
from vfioemu.core.base.limits import (
    DIRTY_BITMAP_PAGES_MAX,
    DIRTY_BITMAP_SIZE_MAX,
    U64_MAX,
    dirty_bitmap_bytes,
)
from vfioemu.core.base.slices import MAPPING, Slices
from vfioemu.core.base.userrange import access_ok
from vfioemu.core.memory.iova_map import Dma
from vfioemu.core.type1 import manual_clear, windows
from vfioemu.core.type1.state import Iommu
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.uapi.constants import (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
)
from vfioemu.uapi.structs import Bitmap, IommuType1DirtyBitmap, IommuType1DirtyBitmapGet

_FLAGS: Final = (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START
    | VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
    | VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
)


def dirty_pages(iommu: Iommu, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_IOMMU_DIRTY_PAGES``.

    Raises:
        IoctlError: EACCES on type1 v1, before anything is read; EFAULT; EINVAL; ENOMEM.

    Kernel: vfio_iommu_type1_dirty_pages().
    """
    if not iommu.v2:
        raise IoctlError(errno.EACCES, "the container has VFIO_TYPE1_IOMMU, dirty tracking takes TYPE1v2")
    request = IommuType1DirtyBitmap.parse((yield from read_user(arg, IommuType1DirtyBitmap.SIZE)))
    argsz, flags = request.argsz, request.flags
    manual = iommu.manual_clear
    known = _FLAGS | manual.clear_flag | manual.noclear_flag
    if argsz < IommuType1DirtyBitmap.SIZE or flags & ~known:
        raise IoctlError(errno.EINVAL, header_why(argsz, IommuType1DirtyBitmap.SIZE, flags, known))
    if flags.bit_count() != 1:
        raise IoctlError(errno.EINVAL, f"flags {flags:#x}: exactly one of START, STOP and GET_BITMAP")
    if flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START:
        yield from _start(iommu)
    elif flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP:
        yield from _stop(iommu)
    else:
        yield from _use_bitmap(iommu, flags, argsz, arg + IommuType1DirtyBitmap.SIZE)
    return 0


def _start(iommu: Iommu) -> Steps[None]:
    """vfio_dma_bitmap_alloc_all(): what is pinned now is dirty; nothing changes when tracking is on already."""
    # Kept while others are served in between: a mapping or a pin that came then would have no bitmap, or no bit in one.
    yield from iommu.hold()
    try:
        if iommu.dirty_page_tracking:
            return
        slices = Slices()
        try:
            for dma in iommu.map:
                alloc_bitmap(iommu, dma)
                yield from iommu.populate(dma)
                if slices.done(MAPPING):
                    yield from slices.breathe()
        except IoctlError:
            yield from _free_all(iommu)
            raise
        iommu.dirty_page_tracking = True
    finally:
        iommu.lock.release()


def _stop(iommu: Iommu) -> Steps[None]:
    # A harvest has bitmaps in hand while it writes to the user; it holds this lock meanwhile.
    yield from iommu.hold()
    try:
        iommu.dirty_page_tracking = False
        yield from _free_all(iommu)
    finally:
        iommu.lock.release()


def _free_all(iommu: Iommu) -> Steps[None]:
    slices = Slices()
    for dma in iommu.map:
        iommu.free_bitmap(dma)
        if slices.done(MAPPING):
            yield from slices.breathe()


def alloc_bitmap(iommu: Iommu, dma: Dma) -> None:
    """vfio_dma_bitmap_alloc(): a clean bitmap; EINVAL for more pages than an int counts, ENOMEM."""
    npages = dma.size >> iommu.pgshift
    if npages > DIRTY_BITMAP_PAGES_MAX:
        raise IoctlError(errno.EINVAL, f"the {dma} has {npages} pages, more than {DIRTY_BITMAP_PAGES_MAX}")
    try:
        bitmap = DirtyBitmap(npages)
    except MemoryError:
        raise IoctlError(errno.ENOMEM, f"no memory for the dirty bitmap of the {dma}") from None
    dma.quotas.bitmaps.take(bitmap.nbytes)
    dma.bitmap = bitmap
    iommu.track(dma)


def verify_bitmap(size: int, bitmap: Bitmap) -> None:
    """access_ok() and verify_bitmap_size(): a user range, large enough for the pages of `size` bytes; EINVAL.

    A page size of 0 has no lowest bit; whatever the kernel makes of that, it ends in EINVAL.
    """
    if not access_ok(bitmap.data, bitmap.size):
        raise IoctlError(errno.EINVAL, f"bitmap.data {bitmap.data:#x}+{bitmap.size:#x} is not user memory")
    if not bitmap.pgsize:
        raise IoctlError(errno.EINVAL, "bitmap.pgsize is 0")
    npages = size >> ((bitmap.pgsize & -bitmap.pgsize).bit_length() - 1)
    if not npages or not bitmap.size or bitmap.size > DIRTY_BITMAP_SIZE_MAX:
        what = "is less than a page" if not npages else f"with bitmap.size {bitmap.size:#x}"
        raise IoctlError(errno.EINVAL, f"size {size:#x} {what}")
    if bitmap.size < dirty_bitmap_bytes(npages):
        raise IoctlError(errno.EINVAL, f"bitmap.size {bitmap.size:#x} is too small for {npages} pages")


def _use_bitmap(iommu: Iommu, operation: int, argsz: int, arg: int) -> Steps[None]:
    """GET_BITMAP, and the proposed operations that share its argument and its checks."""
    if argsz < IommuType1DirtyBitmap.SIZE + IommuType1DirtyBitmapGet.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {argsz} < 48, what GET_BITMAP takes")
    get = IommuType1DirtyBitmapGet.parse((yield from read_user(arg, IommuType1DirtyBitmapGet.SIZE)))
    iova, size, bitmap = get.iova, get.size, get.bitmap
    profile = iommu.profile
    # A kernel that adds `iova + size` overflows one byte too early; a size of 0 is left to verify_bitmap().
    if iova + size - profile.get_bitmap_to_top > U64_MAX:
        raise IoctlError(profile.get_bitmap_wrap_errno, f"iova {iova:#x} + size {size:#x} passes 2^64")
    verify_bitmap(size, bitmap)
    # From the checks to the last mapping: tracking that ended in between, or a mapping that went, would take its bits along.
    yield from iommu.hold()
    try:
        pgsize = iommu.pgsize
        if bitmap.pgsize != pgsize:
            raise IoctlError(errno.EINVAL, f"bitmap.pgsize {bitmap.pgsize:#x} is not {pgsize:#x}")
        if not size or (iova | size) & (pgsize - 1):
            raise IoctlError(errno.EINVAL, f"iova {iova:#x}, size {size:#x}: not whole pages of {pgsize:#x}")
        if not iommu.dirty_page_tracking:
            raise IoctlError(errno.EINVAL, f"flags {operation:#x}: dirty tracking is off, START comes first")
        if operation == iommu.manual_clear.clear_flag:
            yield from manual_clear.clear_range(iommu, iova, size, bitmap.data)
        else:
            keep = iommu.manual_clear_on or operation == iommu.manual_clear.noclear_flag
            yield from _harvest_range(iommu, iova, size, bitmap.data, keep=keep)
    finally:
        iommu.lock.release()


def _harvest_range(iommu: Iommu, iova: int, size: int, data: int, *, keep: bool) -> Steps[None]:
    """vfio_iova_dirty_bitmap(): mapping by mapping; what has been reported is clean again, but for pinned pages.

    With `keep` it is dirty as before.
    """
    refuse_bisecting(iommu, iova, size)
    dma = iommu.map.starting_from(iova)
    while dma is not None and dma.iova <= iova + size - 1:
        yield from merge(iommu, dma, data, iova, keep=keep)
        if not keep:
            yield from iommu.populate(dma)
        dma = iommu.map.next(dma)


def refuse_bisecting(iommu: Iommu, iova: int, size: int) -> None:
    """EINVAL when a mapping is partly inside the range, at its start or end; holes are fine."""
    if (dma := iommu.map.find(iova, 1)) and dma.iova != iova:
        raise IoctlError(errno.EINVAL, f"iova {iova:#x} bisects the {dma}")
    dma = iommu.map.find_last(iova, size)
    if dma and iommu.map.end(dma.iova, dma.size) != iommu.map.end(iova, size):
        raise IoctlError(errno.EINVAL, f"iova {iova:#x} + size {size:#x} bisects the {dma}")


def merge(iommu: Iommu, dma: Dma, data: int, base: int, *, keep: bool = False) -> Steps[None]:
    """Put a mapping's dirty bits into the user's bitmap at `data`, whose bit 0 is the page at `base`; EFAULT.

    Kernel: update_user_bitmap(), with the bitmap_clear() that follows it in vfio_iova_dirty_bitmap() unless `keep`.
    """
    bitmap = dma.bitmap
    if bitmap is None:
        raise IoctlError(errno.EINVAL, f"dirty tracking of the {dma} ended while a device gave its pins back")
    full = dma.all_dirty or bool(iommu.num_non_pinned_groups and dma.iommu_mapped)
    word, shift = divmod((dma.iova - base) >> iommu.pgshift, 64)
    at = data + 8 * word
    if windows.is_large(bitmap.nbits()):
        yield from _merge_large(iommu, dma, at, shift, keep=keep, full=full)
        return
    if full:
        bitmap.fill()
        dma.all_dirty = False
    out = bytearray(dirty_bitmap_bytes((dma.size >> iommu.pgshift) + shift))
    if iommu.recorded:
        yield from _merge_recorded(bitmap, out, at, shift)
        if keep:
            manual_clear.put_back(iommu, bitmap, out, shift)
    else:
        yield from _merge_clean(bitmap, out, at, shift)
        if keep:
            bitmap.restore(out, shift)


def _merge_large(iommu: Iommu, dma: Dma, at: int, shift: int, *, keep: bool, full: bool) -> Steps[None]:
    """Merge in windows. A wholly dirty mapping keeps saying so by `all_dirty` for as long as its bits need not differ."""
    bitmap = dma.bitmap
    assert bitmap is not None
    recorded = iommu.recorded
    lead = 0
    unread: IoctlError | None = None
    if shift:
        try:
            lead = int.from_bytes((yield from read_user(at, 8)), "little")
        except IoctlError as error:
            unread = error
    if not recorded:
        lead &= (1 << shift) - 1
    dma.all_dirty = full
    delivery = windows.Delivery(bitmap, shift, lead, full=full, residue=recorded)
    if unread is not None:
        if recorded:  # bitmap_shift_left() came before copy_from_user()
            yield from delivery.keep_shifted()
            dma.all_dirty = False
        raise unread
    if not recorded:
        told = yield from windows.merge_clean(delivery, at, keep=keep)
    else:
        shift_back = iommu.manual_clear.shift_back
        try:
            told = yield from windows.merge_recorded(
                delivery, at, shift, lead, keep=keep, shift_back=shift_back
            )
        except IoctlError:
            dma.all_dirty = full and not shift
            raise
    if told:
        dma.all_dirty = False


def _merge_recorded(bitmap: DirtyBitmap, out: bytearray, at: int, shift: int) -> Steps[None]:
    lead = 0
    if shift:
        try:
            lead = int.from_bytes((yield from read_user(at, 8)), "little")
        except IoctlError:
            bitmap.shift(shift)  # bitmap_shift_left() came before copy_from_user()
            raise
    bitmap.harvest(out, shift, lead)
    try:
        yield from write_user(at, memoryview(out))
    except IoctlError:
        bitmap.restore_shifted(out)
        raise


def _merge_clean(bitmap: DirtyBitmap, out: bytearray, at: int, shift: int) -> Steps[None]:
    lead = 0
    if shift:
        lead = int.from_bytes((yield from read_user(at, 8)), "little") & ((1 << shift) - 1)
    bitmap.harvest_clean(out, shift, lead)
    try:
        yield from write_user(at, memoryview(out))
    except IoctlError:
        bitmap.restore(out, shift)
        raise
