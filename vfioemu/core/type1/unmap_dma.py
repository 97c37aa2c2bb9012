# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_UNMAP_DMA."""

import errno

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError, header_why
from vfioemu.core.base.limits import DMA_UNMAP_RETRIES, U64_MAX
from vfioemu.core.base.slices import MAPPING, Slices
from vfioemu.core.memory.iova_map import Dma
from vfioemu.core.type1.dirty_pages import merge, refuse_bisecting, verify_bitmap
from vfioemu.core.type1.state import Iommu
from vfioemu.uapi.constants import (
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_DMA_UNMAP_FLAG_VADDR,
)
from vfioemu.uapi.structs import Bitmap, IommuType1DmaUnmap

_FLAGS = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR


def unmap_dma(iommu: Iommu, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_IOMMU_UNMAP_DMA``; on success the header is written back, with the number of bytes unmapped as its size.

    Raises:
        IoctlError: EFAULT (also when only the header could not be written back, and the unmap has happened), EINVAL,
            EBUSY for VADDR with an mdev in the container, `unmap_wrap_errno`. Nothing is written back, even though
            GET_DIRTY_BITMAP may have removed mappings before its copy failed.

    Kernel: vfio_iommu_type1_unmap_dma(), vfio_dma_do_unmap().
    """
    request = IommuType1DmaUnmap.parse((yield from read_user(arg, IommuType1DmaUnmap.SIZE)))
    argsz, flags = request.argsz, request.flags
    if argsz < IommuType1DmaUnmap.SIZE or flags & ~_FLAGS:
        raise IoctlError(errno.EINVAL, header_why(argsz, IommuType1DmaUnmap.SIZE, flags, _FLAGS))
    bitmap: Bitmap | None = None
    if flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP:
        if flags != VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP:
            raise IoctlError(errno.EINVAL, f"flags {flags:#x}: GET_DIRTY_BITMAP goes with no other")
        if argsz < IommuType1DmaUnmap.SIZE + Bitmap.SIZE:
            raise IoctlError(errno.EINVAL, f"argsz {argsz} < 48, what GET_DIRTY_BITMAP takes")
        bitmap = Bitmap.parse((yield from read_user(arg + IommuType1DmaUnmap.SIZE, Bitmap.SIZE)))
        verify_bitmap(request.size, bitmap)
    walk = _Unmap(iommu, request, bitmap)
    yield from walk.run()
    unmapped = walk.unmapped & U64_MAX  # a size_t: all of the address space is 0
    yield from write_user(arg, IommuType1DmaUnmap.CODEC.pack(argsz, flags, request.iova, unmapped))
    return 0


class _Unmap:
    """One call: the lock may be dropped in its midst, and the walk begins anew then."""

    __slots__ = (
        "bitmap",
        "held",
        "iommu",
        "iova",
        "request",
        "retries",
        "size",
        "slices",
        "stubborn",
        "unmapped",
    )

    def __init__(self, iommu: Iommu, request: IommuType1DmaUnmap, bitmap: Bitmap | None) -> None:
        self.iommu = iommu
        self.request = request
        self.bitmap = bitmap
        self.iova = request.iova
        self.size = request.size
        self.unmapped = 0
        self.held = False
        self.stubborn: Dma | None = None
        self.retries = 0
        self.slices = Slices()

    def run(self) -> Steps[None]:
        # Whoever reads, writes or pins holds it as well: what is removed here is in nobody's hands. _walk() drops it for a while.
        yield from self.iommu.hold()
        self.held = True
        try:
            self._check()
            if self.request.flags & VFIO_DMA_UNMAP_FLAG_VADDR:
                self._refuse_bisecting()
                yield from self._invalidate()
            else:
                yield from self._walk()
        finally:
            if self.held:
                self.iommu.lock.release()

    def _check(self) -> None:
        iommu, flags, iova, size = self.iommu, self.request.flags, self.iova, self.size
        if flags & VFIO_DMA_UNMAP_FLAG_VADDR and iommu.has_emulated:
            raise IoctlError(
                errno.EBUSY, f"flags {flags:#x}: VADDR, and a device in the container has no IOMMU of its own"
            )
        pgsize = iommu.pgsize
        if iova & (pgsize - 1):
            raise IoctlError(errno.EINVAL, f"iova {iova:#x} is not a multiple of {pgsize:#x}")
        if flags & VFIO_DMA_UNMAP_FLAG_ALL:
            if iova or size:
                raise IoctlError(errno.EINVAL, f"flags ALL with iova {iova:#x}, size {size:#x}")
            self.size = U64_MAX
        elif not size or size & (pgsize - 1):
            raise IoctlError(errno.EINVAL, f"size {size:#x} is not whole pages of {pgsize:#x}")
        elif iova + size - 1 > U64_MAX:
            raise IoctlError(iommu.profile.unmap_wrap_errno, f"iova {iova:#x} + size {size:#x} passes 2^64")
        if self.bitmap is not None and (not iommu.dirty_page_tracking or self.bitmap.pgsize != pgsize):
            raise IoctlError(
                errno.EINVAL,
                f"bitmap.pgsize {self.bitmap.pgsize:#x} is not {pgsize:#x}"
                if iommu.dirty_page_tracking
                else f"flags {flags:#x}: GET_DIRTY_BITMAP, and dirty tracking is off",
            )

    def _refuse_bisecting(self) -> None:
        """Only v2, and not with ALL: v1 used to merge mappings, so it cannot know their bounds."""
        if self.iommu.v2 and not self.request.flags & VFIO_DMA_UNMAP_FLAG_ALL:
            refuse_bisecting(self.iommu, self.iova, self.size)

    def _in_range(self, dma: Dma | None) -> Dma | None:
        if dma is None or dma.iova >= self.iommu.map.end(self.iova, self.size):
            return None
        if not self.iommu.v2 and self.iova > dma.iova:
            return None  # v1 does not split a mapping, and does not say so
        return dma

    def _invalidate(self) -> Steps[None]:
        """Take the vaddrs away; if one has none already, take back what this call did: EINVAL."""
        iommu = self.iommu
        done: list[Dma] = []
        dma = self._in_range(iommu.map.first_overlapping(self.iova, self.size))
        while dma is not None:
            if dma.vaddr_invalid:
                for undone in done:
                    undone.vaddr_invalid = False
                iommu.vaddr_invalid_count -= len(done)
                self.unmapped = 0
                raise IoctlError(errno.EINVAL, f"the {dma} has no vaddr already")
            dma.vaddr_invalid = True
            iommu.vaddr_invalid_count += 1
            self.unmapped += dma.size
            done.append(dma)
            if self.slices.done(MAPPING):
                yield from self.slices.breathe()
            dma = self._in_range(iommu.map.next(dma))

    def _walk(self) -> Steps[None]:
        iommu = self.iommu
        self._refuse_bisecting()
        dma = self._in_range(iommu.map.first_overlapping(self.iova, self.size))
        while dma is not None:
            if dma.pins:
                yield from self._notify(dma)
                try:
                    self._refuse_bisecting()
                except IoctlError:
                    return  # the kernel's `ret` is 0 by now, so what came in between ends the walk with success
                dma = self._in_range(iommu.map.first_overlapping(self.iova, self.size))
                continue
            if self.bitmap is not None:
                yield from merge(iommu, dma, self.bitmap.data, self.iova)
            if self.slices.done(MAPPING):
                yield from self.slices.breathe()
            self.unmapped += dma.size
            following = iommu.map.next(dma)
            iommu.remove(dma)
            dma = self._in_range(following)

    def _notify(self, dma: Dma) -> Steps[None]:
        """vfio_notify_dma_unmap(): every device with the callback gives its pins back, without the lock.

        A device that keeps its pins eleven times makes the kernel BUG(); here they are taken from it.
        """
        iommu = self.iommu
        if self.stubborn is dma:
            self.retries += 1
            if self.retries > DMA_UNMAP_RETRIES:
                dma.pins.clear()
                for device in iommu.devices:
                    device.pins_taken(dma.iova, dma.size)
                return
        else:
            self.stubborn, self.retries = dma, 0
        # Devices give pins back under this very lock, so it is dropped, as the kernel drops iommu->lock. Others may map,
        # unmap, open and close meanwhile: the walk begins anew, and a device that has closed is not told any more.
        self.held = False
        iommu.lock.release()
        iova, size = dma.iova, dma.size
        for device in tuple(iommu.devices):
            if device in iommu.devices:
                try:
                    yield from device.dma_unmap(iova, size)
                except IoctlError:
                    continue  # it could not reach its client any more; the pins that it left are dealt with above
        yield from locked(iommu.lock)
        self.held = True
