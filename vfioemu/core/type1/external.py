# SPDX-License-Identifier: MIT
"""Access to guest memory for drivers of devices without an IOMMU: vfio_pin_pages(), vfio_unpin_pages(), vfio_dma_rw().

They go by the address that MAP_DMA gave, in the address space that made the mapping, to what is there at that moment. (What
a device does behind an IOMMU is another thing: hardware.py.) The checks of vfio_main.c (a device that is not open, one without
dma_unmap, too many pages) are in core/objects/device.py.
"""

import errno
from typing import TYPE_CHECKING

from vfioemu.core.base.caller import AddressSpace
from vfioemu.core.base.effects import Buffer, DmaRead, DmaWrite, PinUser, Steps, current
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_MASK, PAGE_SIZE, U64_MAX
from vfioemu.core.memory import batches
from vfioemu.core.memory.backend import PinningDevice
from vfioemu.core.memory.iova_map import PROT_READ, PROT_WRITE, Dma
from vfioemu.core.type1.state import Iommu, pages
from vfioemu.native.dma import DmaBatch

if TYPE_CHECKING:
    from vfioemu.native.log import DirtyLog


def register_device(iommu: Iommu, device: PinningDevice) -> Steps[None]:
    """Tell the device from now on before pinned mappings go. Kernel: vfio_iommu_type1_register_device()."""
    # UNMAP_DMA looks at the list under this lock, and must not miss a device that is about to pin.
    yield from iommu.hold()
    try:
        iommu.devices.insert(0, device)
    finally:
        iommu.lock.release()


def unregister_device(iommu: Iommu, device: PinningDevice) -> Steps[None]:
    """Stop telling a closed device, which holds no pin any more. Kernel: vfio_iommu_type1_unregister_device()."""
    yield from iommu.hold()
    try:
        iommu.devices.remove(device)
    finally:
        iommu.lock.release()


def pin_pages(iommu: Iommu, device: PinningDevice, iova: int, npages: int, prot: int) -> Steps[int]:
    """Pin pages for a device: all or none, but those that were pinned before a failure stay dirty.

    The first success tells that the device's group dirties nothing but what it pins and writes with dma_rw.

    Args:
        iommu: the container's instance.
        device: who asks.
        iova: the first page; not necessarily aligned: pins are keyed by the exact IOVA.
        npages: at most 512.
        prot: PROT_READ, PROT_WRITE: what the device is going to do.

    Returns:
        npages.

    Raises:
        IoctlError: EACCES on v1, `pin_wrap_errno`, EBUSY while a vaddr is invalid, EINVAL for no mapping, EPERM for more
            than the mapping allows, ENODEV when whoever made the mapping is gone, EFAULT, ENOMEM.

    Kernel: vfio_iommu_type1_pin_pages().
    """
    if not iommu.v2:
        raise IoctlError(errno.EACCES, "VFIO_TYPE1_IOMMU cannot pin")
    wrap_errno = iommu.profile.pin_wrap_errno
    if wrap_errno is not None and iova + npages * PAGE_SIZE - 1 > U64_MAX:
        raise IoctlError(wrap_errno, f"{npages} pages from {iova:#x} pass 2^64")
    yield from iommu.hold()
    try:
        if iommu.vaddr_invalid_count:
            raise IoctlError(errno.EBUSY, f"{iommu.vaddr_invalid_count} mappings wait for their vaddr")
        if not iommu.devices:
            raise IoctlError(errno.EINVAL, "no device of this container has a dma_unmap callback")
        done = 0
        try:
            while done < npages:
                at = (iova + done * PAGE_SIZE) & U64_MAX
                done += yield from _pin_run(iommu, at, npages - done, prot)
        except IoctlError as error:
            _unpin(iommu, iova, done + (error.done if isinstance(error, _PinFailedError) else 0))
            raise
        attached = iommu.groups[device.group]
        if not attached.pinned_page_dirty_scope:
            attached.pinned_page_dirty_scope = True
            iommu.num_non_pinned_groups -= 1
        return npages
    finally:
        iommu.lock.release()


class _PinFailedError(IoctlError):
    """A run failed after `done` of its pages had been pinned."""

    def __init__(self, done: int, errno: int, why: str) -> None:
        super().__init__(errno, why)
        self.done = done


def _pin_run(iommu: Iommu, iova: int, npages: int, prot: int) -> Steps[int]:
    """Pin a page that is pinned already, or as many fresh ones of one mapping as follow each other.

    The kernel does page after page; user memory is asked about for all of the run at once here, with the same result.
    """
    dma = iommu.map.find(iova, PAGE_SIZE)
    if dma is None:
        raise IoctlError(errno.EINVAL, f"no mapping at {iova:#x}")
    if prot & ~dma.prot:
        raise IoctlError(errno.EPERM, f"prot {prot} at {dma}")
    # Where mappings may overlap, each page may be found elsewhere, or nowhere.
    within = 1 if iommu.map.tangled else max(1, (dma.iova + dma.size - iova) // PAGE_SIZE)
    pinned, run = dma.pins.run(iova, min(npages, within))
    if pinned:
        dma.pins.add(iova, run)
        return run
    vaddr = (dma.vaddr + iova - dma.iova) & U64_MAX & PAGE_MASK
    present: int = yield PinUser(dma.space, vaddr, run, bool(dma.prot & PROT_WRITE))
    count = min(present, run)
    charged = _charged(iommu, dma, iova, count) == count
    room = iommu.accounting.room(dma.space, dma.ipc_lock) if charged else None
    if room is not None and room < count:
        _pin_fresh(iommu, dma, iova, room)
        raise _PinFailedError(room, errno.ENOMEM, f"RLIMIT_MEMLOCK: {count} pages more, room for {room}")
    _pin_fresh(iommu, dma, iova, count)
    if not present and dma.space.gone():
        raise IoctlError(errno.ENODEV, f"whoever made the {dma} is gone")
    if present < run:
        raise _PinFailedError(
            present, errno.EFAULT, f"page {vaddr + present * PAGE_SIZE:#x} of {dma} cannot be pinned"
        )
    return run


def _pin_fresh(iommu: Iommu, dma: Dma, iova: int, npages: int) -> None:
    """Pin a run that was not, or nothing of it: ENOMEM where the pins of a client have their end."""
    if not npages:
        return
    dma.pins.add(iova, npages)
    iommu.accounting.charge(dma, _charged(iommu, dma, iova, npages))
    if dma.bitmap is not None and dma.iova <= iova:
        shift = iommu.pgshift
        first, last = (iova - dma.iova) >> shift, (iova - dma.iova + (npages - 1) * PAGE_SIZE) >> shift
        dma.bitmap.mark_range(first, last - first + 1)


def _charged(iommu: Iommu, dma: Dma, iova: int, npages: int) -> int:
    """Count the pages that are charged as locked: none of a device's memory, and none of a mapping that counts as a whole."""
    if iommu.domains:
        return 0
    size = npages * PAGE_SIZE
    return npages - pages(dma.space.reserved((dma.vaddr + iova - dma.iova) & U64_MAX & PAGE_MASK, size))


def unpin_pages(iommu: Iommu, device: PinningDevice, iova: int, npages: int) -> Steps[None]:
    """Give pins back, up to the first page without a mapping. Kernel: vfio_iommu_type1_unpin_pages()."""
    if not iommu.v2:
        return
    yield from iommu.hold()
    try:
        _unpin(iommu, iova, npages)
    finally:
        iommu.lock.release()


def _unpin(iommu: Iommu, iova: int, npages: int) -> None:
    """vfio_unpin_page_external() for each page; pages that are not pinned are ignored, dirty bits stay."""
    while npages > 0:
        dma = iommu.map.find(iova, PAGE_SIZE)
        if dma is None:
            return
        within = 1 if iommu.map.tangled else max(1, (dma.iova + dma.size - iova) // PAGE_SIZE)
        run = min(npages, within)
        gone = sum(gone for _, _, gone in dma.pins.take(iova, run))
        if gone:
            iommu.accounting.charge(dma, -min(gone, _charged(iommu, dma, iova, run)))
        iova = (iova + run * PAGE_SIZE) & U64_MAX
        npages -= run


def rw_read(iommu: Iommu, iova: int, size: int) -> Steps[bytes]:
    """Read guest memory: EBUSY, EINVAL for no mapping, EPERM without READ or with a dead owner, EFAULT.

    Kernel: vfio_iommu_type1_dma_rw().
    """
    # Here and below: UNMAP_DMA takes this lock, and returns when no access to what it removes is under way any more.
    yield from iommu.hold()
    try:
        return (yield from _read(iommu, iova, size, (yield from current())))
    finally:
        iommu.lock.release()


def rw_write(iommu: Iommu, iova: int, data: Buffer) -> Steps[None]:
    """Write guest memory; each page that was written is dirty, also those before the one that failed.

    Errors as `rw_read`; the mapping needs READ as well as WRITE. Kernel: vfio_iommu_type1_dma_rw().
    """
    yield from iommu.hold()
    try:
        yield from _write(iommu, iova, memoryview(data).cast("B"), (yield from current()))
    finally:
        iommu.lock.release()


def _refuse_invalid(iommu: Iommu) -> None:
    if iommu.vaddr_invalid_count:
        raise IoctlError(errno.EBUSY, f"{iommu.vaddr_invalid_count} mappings wait for their vaddr")


def _chunk(
    iommu: Iommu, iova: int, size: int, caller: AddressSpace | None, *, write: bool
) -> tuple[Dma, int, int]:
    """Find the mapping at `iova`, the offset in it, and how many bytes of the transfer lie in it.

    Kernel: vfio_iommu_type1_dma_rw_chunk(). A kernel thread puts the owner's memory on; whoever has memory of its own, and
    be it a child that shares all of this, cannot.
    """
    _refuse_invalid(iommu)
    dma = iommu.map.find(iova, 1)
    if dma is None:
        raise IoctlError(errno.EINVAL, f"no mapping at {iova:#x}")
    if not dma.prot & PROT_READ or (write and not dma.prot & PROT_WRITE):
        raise IoctlError(errno.EPERM, f"{'write to' if write else 'read of'} {dma}")
    if dma.space.gone():
        raise IoctlError(errno.EPERM, f"whoever made the {dma} is gone")
    if caller is not None and caller is not dma.space:
        raise IoctlError(errno.EFAULT, f"the {dma} is memory of another process than the one that calls")
    offset = iova - dma.iova
    return dma, offset, min(size, dma.size - offset)


def _read(iommu: Iommu, iova: int, size: int, caller: AddressSpace | None) -> Steps[bytes]:
    parts = []
    while size:
        dma, offset, count = _chunk(iommu, iova, size, caller, write=False)
        data: bytes = yield DmaRead(dma.space, (dma.vaddr + offset) & U64_MAX, count)
        parts.append(data)
        iova, size = (iova + count) & U64_MAX, size - count
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(
    iommu: Iommu, iova: int, data: memoryview, caller: AddressSpace | None, *, seen: bool = True
) -> Steps[None]:
    while data:
        dma, offset, count = _chunk(iommu, iova, len(data), caller, write=True)
        try:
            yield DmaWrite(dma.space, (dma.vaddr + offset) & U64_MAX, data[:count])
        except IoctlError:
            if (
                seen and not iommu.recorded
            ):  # a part of it may have been written; the kernel does not mark that
                iommu.mark(dma, offset, count)
            raise
        if seen:
            iommu.mark(dma, offset, count)
        iova, data = (iova + count) & U64_MAX, data[count:]


def rw_batch(iommu: Iommu, batch: DmaBatch, log: "DirtyLog | None") -> Steps[int]:
    """Do many transfers: by one C call where this process maps the memory, by effects for the rest.

    Writes are marked after the data is there, in the mapping's bitmap and in the device's own `log`. What becomes of
    each transfer is its status; a transfer that fails stays SLOW.

    Returns:
        How many are done.

    Raises:
        IoctlError: EBUSY while a vaddr is invalid; nothing is done then.
    """
    yield from iommu.hold()
    try:
        _refuse_invalid(iommu)
        caller = yield from current()
        if (yield from iommu.index_serves_rw(caller)):
            done = iommu.index.dma(batch, log)
        else:
            done = batches.leave_to_python(batch)
        if done < len(batch):
            done += yield from batches.finish(
                batch,
                log,
                lambda iova, size: _read(iommu, iova, size, caller),
                lambda iova, data, seen: _write(iommu, iova, data, caller, seen=seen),
            )
        return done
    finally:
        iommu.lock.release()
