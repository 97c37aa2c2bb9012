# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_GET_INFO and VFIO_CHECK_EXTENSION."""

import errno

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.capchain import CapChain
from vfioemu.core.base.effects import Steps, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import DIRTY_BITMAP_SIZE_MAX
from vfioemu.core.base.profile import Profile
from vfioemu.core.type1.state import Iommu
from vfioemu.uapi.constants import (
    VFIO_DMA_CC_IOMMU,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_TYPE1_IOMMU,
    VFIO_TYPE1_NESTING_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_UPDATE_VADDR,
    VFIO_TYPE1v2_IOMMU,
)
from vfioemu.uapi.proposed import VFIO_DIRTY_LOG_MANUAL_CLEAR
from vfioemu.uapi.structs import (
    InfoCapHeader,
    IommuType1Info,
    IommuType1InfoCapIovaRange,
    IommuType1InfoCapMigration,
    IommuType1InfoDmaAvail,
    IovaRange,
)

MINSZ = 16
"""Up to cap_offset, which came later."""


def check_extension(profile: Profile, iommu: Iommu | None, extension: int) -> int:
    """vfio_iommu_type1_check_extension(); without an instance some answers are 0 that are 1 later.

    To ask for VFIO_DIRTY_LOG_MANUAL_CLEAR has a lasting effect in the variants of it that were posted first.
    """
    match extension:
        case _ if extension in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL):
            return 1
        case _ if extension == VFIO_TYPE1_NESTING_IOMMU:
            return int(profile.nesting)
        case _ if extension == VFIO_UPDATE_VADDR:
            return int(iommu is not None and not iommu.has_emulated)
        case _ if extension == VFIO_DMA_CC_IOMMU:
            return int(iommu is not None and iommu.coherent)
        case _ if extension == VFIO_DIRTY_LOG_MANUAL_CLEAR and iommu is not None:
            iommu.manual_clear_on |= iommu.manual_clear.by_query
            return int(iommu.manual_clear.offered)
    return 0


def get_info(iommu: Iommu, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_IOMMU_GET_INFO``; with too small an argsz it succeeds, says how much it needs and shows no capability.

    Raises:
        IoctlError: EFAULT, EINVAL (argsz < 16).

    Kernel: vfio_iommu_type1_get_info().
    """
    argsz = int.from_bytes((yield from read_user(arg, MINSZ))[:4], "little")
    if argsz < MINSZ:
        raise IoctlError(errno.EINVAL, f"argsz {argsz} < {MINSZ}")
    size = min(argsz, IommuType1Info.SIZE)
    # Page sizes, ranges and mappings that are left, of one moment: a group that joins changes all of them, and yields between.
    yield from iommu.hold()
    try:
        pgsizes = iommu.pgsize_bitmap
        caps = _capabilities(iommu)
    finally:
        iommu.lock.release()
    cap_offset = 0
    needed = IommuType1Info.SIZE + caps.size
    if argsz < needed:
        argsz = needed
    else:
        cap_offset = IommuType1Info.SIZE
        yield from write_user(arg + cap_offset, caps.build(cap_offset))
    info = IommuType1Info(
        argsz=argsz,
        flags=VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
        iova_pgsizes=pgsizes,
        cap_offset=cap_offset,
    )
    yield from write_user(arg, info.build()[:size])
    return 0


def _capabilities(iommu: Iommu) -> CapChain:
    body = InfoCapHeader.SIZE
    caps = CapChain()
    migration = IommuType1InfoCapMigration(
        pgsize_bitmap=iommu.pgsize, max_dirty_bitmap_size=DIRTY_BITMAP_SIZE_MAX
    )
    caps.add(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1, migration.build()[body:])
    avail = IommuType1InfoDmaAvail(avail=iommu.dma_avail)
    caps.add(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, avail.build()[body:])
    if iommu.iova_list:
        count = IommuType1InfoCapIovaRange(nr_iovas=len(iommu.iova_list)).build()[body:]
        ranges = b"".join(IovaRange(start=start, end=end).build() for start, end in iommu.iova_list)
        caps.add(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, count + ranges)
    return caps
