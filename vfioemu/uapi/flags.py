# SPDX-License-Identifier: MIT
"""The flag words and enumerations of <linux/vfio.h> as classes, for reading and printing.

Payload fields stay plain integers; wrap one where names help: ``DmaMapFlag(request.flags)``. Unknown bits survive
(``boundary=KEEP``), since it is the handler that must refuse them. Beware of ``~`` on an IntFlag: it inverts named bits
only, so that ``flags & ~DmaMapFlag.ALL`` is always 0; write ``flags & ~int(...)``.
"""

from enum import KEEP, IntEnum, IntFlag

from vfioemu.uapi import constants as c


class GroupFlag(IntFlag, boundary=KEEP):
    """vfio_group_status.flags."""

    VIABLE = c.VFIO_GROUP_FLAGS_VIABLE
    CONTAINER_SET = c.VFIO_GROUP_FLAGS_CONTAINER_SET


class IommuInfoFlag(IntFlag, boundary=KEEP):
    """vfio_iommu_type1_info.flags."""

    PGSIZES = c.VFIO_IOMMU_INFO_PGSIZES
    CAPS = c.VFIO_IOMMU_INFO_CAPS


class DmaMapFlag(IntFlag, boundary=KEEP):
    """vfio_iommu_type1_dma_map.flags."""

    READ = c.VFIO_DMA_MAP_FLAG_READ
    WRITE = c.VFIO_DMA_MAP_FLAG_WRITE
    VADDR = c.VFIO_DMA_MAP_FLAG_VADDR


class DmaUnmapFlag(IntFlag, boundary=KEEP):
    """vfio_iommu_type1_dma_unmap.flags."""

    GET_DIRTY_BITMAP = c.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
    ALL = c.VFIO_DMA_UNMAP_FLAG_ALL
    VADDR = c.VFIO_DMA_UNMAP_FLAG_VADDR


class DirtyPagesFlag(IntFlag, boundary=KEEP):
    """vfio_iommu_type1_dirty_bitmap.flags; exactly one at a time."""

    START = c.VFIO_IOMMU_DIRTY_PAGES_FLAG_START
    STOP = c.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
    GET_BITMAP = c.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP


class DeviceFlag(IntFlag, boundary=KEEP):
    """vfio_device_info.flags."""

    RESET = c.VFIO_DEVICE_FLAGS_RESET
    PCI = c.VFIO_DEVICE_FLAGS_PCI
    PLATFORM = c.VFIO_DEVICE_FLAGS_PLATFORM
    AMBA = c.VFIO_DEVICE_FLAGS_AMBA
    CCW = c.VFIO_DEVICE_FLAGS_CCW
    AP = c.VFIO_DEVICE_FLAGS_AP
    FSL_MC = c.VFIO_DEVICE_FLAGS_FSL_MC
    CAPS = c.VFIO_DEVICE_FLAGS_CAPS
    CDX = c.VFIO_DEVICE_FLAGS_CDX


class RegionInfoFlag(IntFlag, boundary=KEEP):
    """vfio_region_info.flags."""

    READ = c.VFIO_REGION_INFO_FLAG_READ
    WRITE = c.VFIO_REGION_INFO_FLAG_WRITE
    MMAP = c.VFIO_REGION_INFO_FLAG_MMAP
    CAPS = c.VFIO_REGION_INFO_FLAG_CAPS


class IrqInfoFlag(IntFlag, boundary=KEEP):
    """vfio_irq_info.flags."""

    EVENTFD = c.VFIO_IRQ_INFO_EVENTFD
    MASKABLE = c.VFIO_IRQ_INFO_MASKABLE
    AUTOMASKED = c.VFIO_IRQ_INFO_AUTOMASKED
    NORESIZE = c.VFIO_IRQ_INFO_NORESIZE


class IrqSetFlag(IntFlag, boundary=KEEP):
    """vfio_irq_set.flags: one DATA bit and one ACTION bit."""

    DATA_NONE = c.VFIO_IRQ_SET_DATA_NONE
    DATA_BOOL = c.VFIO_IRQ_SET_DATA_BOOL
    DATA_EVENTFD = c.VFIO_IRQ_SET_DATA_EVENTFD
    ACTION_MASK = c.VFIO_IRQ_SET_ACTION_MASK
    ACTION_UNMASK = c.VFIO_IRQ_SET_ACTION_UNMASK
    ACTION_TRIGGER = c.VFIO_IRQ_SET_ACTION_TRIGGER


class FeatureFlag(IntFlag, boundary=KEEP):
    """The operation bits of vfio_device_feature.flags; the low 16 bits are the feature's number."""

    GET = c.VFIO_DEVICE_FEATURE_GET
    SET = c.VFIO_DEVICE_FEATURE_SET
    PROBE = c.VFIO_DEVICE_FEATURE_PROBE


class MigrationFlag(IntFlag, boundary=KEEP):
    """vfio_device_feature_migration.flags: what a device's migration can do."""

    STOP_COPY = c.VFIO_MIGRATION_STOP_COPY
    P2P = c.VFIO_MIGRATION_P2P
    PRE_COPY = c.VFIO_MIGRATION_PRE_COPY


class DeviceState(IntEnum):
    """The migration states (enum vfio_device_mig_state)."""

    ERROR = c.VFIO_DEVICE_STATE_ERROR
    STOP = c.VFIO_DEVICE_STATE_STOP
    RUNNING = c.VFIO_DEVICE_STATE_RUNNING
    STOP_COPY = c.VFIO_DEVICE_STATE_STOP_COPY
    RESUMING = c.VFIO_DEVICE_STATE_RESUMING
    RUNNING_P2P = c.VFIO_DEVICE_STATE_RUNNING_P2P
    PRE_COPY = c.VFIO_DEVICE_STATE_PRE_COPY
    PRE_COPY_P2P = c.VFIO_DEVICE_STATE_PRE_COPY_P2P


class DeviceStateV1(IntFlag, boundary=KEEP):
    """vfio_device_migration_info.device_state, bits of the deprecated region protocol."""

    RUNNING = c.VFIO_DEVICE_STATE_V1_RUNNING
    SAVING = c.VFIO_DEVICE_STATE_V1_SAVING
    RESUMING = c.VFIO_DEVICE_STATE_V1_RESUMING


class Extension(IntEnum):
    """Arguments of CHECK_EXTENSION; those that end in IOMMU are SET_IOMMU's too."""

    TYPE1_IOMMU = c.VFIO_TYPE1_IOMMU
    SPAPR_TCE_IOMMU = c.VFIO_SPAPR_TCE_IOMMU
    TYPE1V2_IOMMU = c.VFIO_TYPE1v2_IOMMU
    DMA_CC_IOMMU = c.VFIO_DMA_CC_IOMMU
    EEH = c.VFIO_EEH
    TYPE1_NESTING_IOMMU = c.VFIO_TYPE1_NESTING_IOMMU
    SPAPR_TCE_V2_IOMMU = c.VFIO_SPAPR_TCE_v2_IOMMU
    NOIOMMU_IOMMU = c.VFIO_NOIOMMU_IOMMU
    UNMAP_ALL = c.VFIO_UNMAP_ALL
    UPDATE_VADDR = c.VFIO_UPDATE_VADDR
