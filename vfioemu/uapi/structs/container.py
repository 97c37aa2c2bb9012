# SPDX-License-Identifier: MIT
"""Arguments of the container's ioctls (type1 and type1v2) and of the group's."""

from typing import Annotated

from vfioemu.uapi import constants as c
from vfioemu.uapi import flags as f
from vfioemu.uapi.hints import Chain, DirtyBits, Follow, Hex64, Hint, Out32, OutHex64
from vfioemu.uapi.payload import SIZEOF_SELF, U32, U64, Payload, payload
from vfioemu.uapi.structs.common import InfoCapHeader


@payload("vfio_group_status")
class GroupStatus(Payload):
    """VFIO_GROUP_GET_STATUS."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.GroupFlag, Hint.OUT] = 0


@payload("vfio_iova_range")
class IovaRange(Payload):
    """A usable range, `end` inclusive."""

    start: Hex64 = 0
    end: Hex64 = 0


@payload("vfio_iommu_type1_info_cap_iova_range", tail="iova_ranges", follows=(Follow(IovaRange, "nr_iovas"),))
class IommuType1InfoCapIovaRange(Payload):
    """Capability 1, followed by `nr_iovas` times IovaRange."""

    header: InfoCapHeader = InfoCapHeader()
    nr_iovas: U32 = 0
    reserved: U32 = 0


@payload("vfio_iommu_type1_info_cap_migration")
class IommuType1InfoCapMigration(Payload):
    """Capability 2: dirty page tracking is there, with these page sizes and this largest bitmap in bytes."""

    header: InfoCapHeader = InfoCapHeader()
    flags: U32 = 0
    pgsize_bitmap: Hex64 = 0
    max_dirty_bitmap_size: U64 = 0


@payload("vfio_iommu_type1_info_dma_avail")
class IommuType1InfoDmaAvail(Payload):
    """Capability 3: how many more mappings the container takes."""

    header: InfoCapHeader = InfoCapHeader()
    avail: U32 = 0


_IOMMU_CAPS: dict[int, type[Payload]] = {
    c.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: IommuType1InfoCapIovaRange,
    c.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: IommuType1InfoCapMigration,
    c.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: IommuType1InfoDmaAvail,
}


@payload("vfio_iommu_type1_info")
class IommuType1Info(Payload):
    """VFIO_IOMMU_GET_INFO; its minsz is 16, up to cap_offset."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.IommuInfoFlag, Hint.OUT] = 0
    iova_pgsizes: OutHex64 = 0
    cap_offset: Annotated[U32, Hint.OUT, Chain(f.IommuCap, _IOMMU_CAPS)] = 0
    pad: Out32 = 0


@payload("vfio_iommu_type1_dma_map")
class IommuType1DmaMap(Payload):
    """VFIO_IOMMU_MAP_DMA."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.DmaMapFlag] = 0
    vaddr: Hex64 = 0
    iova: Hex64 = 0
    size: Hex64 = 0


@payload("vfio_bitmap")
class Bitmap(Payload):
    """Where a dirty bitmap goes: bytes per bit, bytes of the buffer, its address."""

    pgsize: U64 = 0
    size: U64 = 0
    data: Annotated[U64, Hint.HEX, DirtyBits("..iova", "..size", "pgsize")] = 0


@payload(
    "vfio_iommu_type1_dma_unmap",
    tail="data",
    follows=(Follow(Bitmap, flag=c.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP),),
)
class IommuType1DmaUnmap(Payload):
    """VFIO_IOMMU_UNMAP_DMA, followed by a Bitmap with GET_DIRTY_BITMAP."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.DmaUnmapFlag] = 0
    iova: Hex64 = 0
    size: Hex64 = 0


@payload("vfio_iommu_type1_dirty_bitmap_get")
class IommuType1DirtyBitmapGet(Payload):
    """The range that GET_BITMAP asks about, and where the bits go."""

    iova: Hex64 = 0
    size: Hex64 = 0
    bitmap: Bitmap = Bitmap()


@payload(
    "vfio_iommu_type1_dirty_bitmap",
    tail="data",
    follows=(Follow(IommuType1DirtyBitmapGet, flag=c.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP),),
)
class IommuType1DirtyBitmap(Payload):
    """VFIO_IOMMU_DIRTY_PAGES, followed by IommuType1DirtyBitmapGet with GET_BITMAP."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.DirtyPagesFlag] = 0
