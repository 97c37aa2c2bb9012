# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_MAP_DMA."""

import errno

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps, read_user
from vfioemu.core.base.errors import IoctlError, header_why
from vfioemu.core.base.limits import U64_MAX
from vfioemu.core.memory.iova_map import PROT_READ, PROT_WRITE, Dma
from vfioemu.core.type1.dirty_pages import alloc_bitmap
from vfioemu.core.type1.pinning import pin_whole
from vfioemu.core.type1.state import Iommu
from vfioemu.uapi.constants import (
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_VADDR,
    VFIO_DMA_MAP_FLAG_WRITE,
)
from vfioemu.uapi.structs import IommuType1DmaMap

_FLAGS = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE | VFIO_DMA_MAP_FLAG_VADDR


def map_dma(iommu: Iommu, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_IOMMU_MAP_DMA``.

    Raises:
        IoctlError: EFAULT, EINVAL, `map_wrap_errno`, `map_overlap_errno`, ENOENT and EINVAL with VADDR, ENOSPC, ENOMEM.

    Kernel: vfio_iommu_type1_map_dma(), vfio_dma_do_map().
    """
    request = IommuType1DmaMap.parse((yield from read_user(arg, IommuType1DmaMap.SIZE)))
    flags = request.flags
    if request.argsz < IommuType1DmaMap.SIZE or flags & ~_FLAGS:
        raise IoctlError(errno.EINVAL, header_why(request.argsz, IommuType1DmaMap.SIZE, flags, _FLAGS))
    if iommu.profile.map_range_first:
        if not request.size:
            raise IoctlError(errno.EINVAL, "size is 0")
        _refuse_wrap(iommu, request)
    prot = flags & (PROT_READ | PROT_WRITE)
    set_vaddr = bool(flags & VFIO_DMA_MAP_FLAG_VADDR)
    if set_vaddr is bool(prot):
        raise IoctlError(errno.EINVAL, f"flags {flags:#x}: READ or WRITE, or VADDR alone")
    # Pinning yields for as long as memory takes: two overlapping MAP_DMA would both find the range free.
    yield from iommu.hold()
    try:
        if not request.size or (request.size | request.iova | request.vaddr) & (iommu.pgsize - 1):
            raise IoctlError(
                errno.EINVAL,
                f"size {request.size:#x}, iova {request.iova:#x}, vaddr {request.vaddr:#x}: "
                f"not whole pages of {iommu.pgsize:#x}",
            )
        _refuse_wrap(iommu, request)
        found = iommu.map.find(request.iova, request.size)
        if set_vaddr:
            _set_vaddr(iommu, caller, request, found)
        elif found is not None:
            raise IoctlError(
                iommu.profile.map_overlap_errno,
                f"iova {request.iova:#x} + size {request.size:#x} overlaps the {found}",
            )
        else:
            yield from _add(iommu, caller, request, prot)
    finally:
        iommu.lock.release()
    return 0


def _refuse_wrap(iommu: Iommu, request: IommuType1DmaMap) -> None:
    for name, start in (("iova", request.iova), ("vaddr", request.vaddr)):
        if start + request.size - 1 > U64_MAX:
            raise IoctlError(
                iommu.profile.map_wrap_errno, f"{name} {start:#x} + size {request.size:#x} passes 2^64"
            )


def _set_vaddr(iommu: Iommu, caller: Caller, request: IommuType1DmaMap, dma: Dma | None) -> None:
    """Give a mapping that UNMAP_DMA with VADDR has invalidated its new vaddr, and a new owner (ENOMEM)."""
    if dma is None:
        raise IoctlError(errno.ENOENT, f"no mapping in iova {request.iova:#x} + size {request.size:#x}")
    if not dma.vaddr_invalid or dma.iova != request.iova or dma.size != request.size:
        raise IoctlError(errno.EINVAL, f"the {dma} is not what waits for a vaddr")
    iommu.owners.add(caller.space)
    before = dma.space
    try:
        iommu.accounting.move(dma, caller.space, caller.ipc_lock)
    except IoctlError:
        iommu.owners.drop(caller.space)
        raise
    iommu.owners.drop(before)
    dma.vaddr = request.vaddr
    dma.vaddr_invalid = False
    iommu.vaddr_invalid_count -= 1
    if dma.pages is not None:
        dma.pages.readdress(caller.space, request.vaddr)
    iommu.expose_anew(dma)


def _add(iommu: Iommu, caller: Caller, request: IommuType1DmaMap, prot: int) -> Steps[None]:
    if not iommu.dma_avail:
        raise IoctlError(errno.ENOSPC, f"dma_entry_limit: {len(iommu.map)} mappings exist")
    if not iommu.iova_valid(request.iova, request.iova + request.size - 1):
        raise IoctlError(
            errno.EINVAL, f"iova {request.iova:#x} + size {request.size:#x} is not in the IOMMU's ranges"
        )
    caller.space.quotas.mappings.take(1)
    iommu.dma_avail -= 1
    dma = Dma(request.iova, request.vaddr, prot, caller.space, caller.ipc_lock)
    iommu.map.link(dma)
    iommu.owners.add(dma.space)
    made = False
    try:
        if iommu.domains:  # without hardware user memory is not looked at before a device pins it
            yield from pin_whole(iommu, dma, request.size)
            dma.iommu_mapped = True
        iommu.map.grow(dma, request.size)
        if iommu.dirty_page_tracking:
            alloc_bitmap(iommu, dma)
        iommu.expose(dma)
        made = True
    finally:
        if not made:
            iommu.remove(dma)
