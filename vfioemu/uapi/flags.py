# SPDX-License-Identifier: MIT
"""The flag words and enumerations of <linux/vfio.h> as classes, for reading and printing.

Payload fields stay plain integers; wrap one where names help: ``DmaMapFlag(request.flags)``. Unknown bits survive
(``boundary=KEEP``), since it is the handler that must refuse them. Beware of ``~`` on an IntFlag: it inverts named bits
only, so that ``flags & ~DmaMapFlag.ALL`` is always 0; write ``flags & ~int(...)``.

`c_name` gives a member its name of <linux/vfio.h> back; each class has its prefix in `PREFIXES`.
"""

from collections.abc import Mapping
from enum import KEEP, IntEnum, IntFlag
from types import MappingProxyType
from typing import Final

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


def state_name(state: int) -> str:
    """STOP_COPY for 3; the number for what is no state."""
    return DeviceState(state).name if state in tuple(DeviceState) else str(state)


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


class PciRegion(IntEnum):
    """Region indices of a PCI device; those that a device adds have no names."""

    BAR0 = c.VFIO_PCI_BAR0_REGION_INDEX
    BAR1 = c.VFIO_PCI_BAR1_REGION_INDEX
    BAR2 = c.VFIO_PCI_BAR2_REGION_INDEX
    BAR3 = c.VFIO_PCI_BAR3_REGION_INDEX
    BAR4 = c.VFIO_PCI_BAR4_REGION_INDEX
    BAR5 = c.VFIO_PCI_BAR5_REGION_INDEX
    ROM = c.VFIO_PCI_ROM_REGION_INDEX
    CONFIG = c.VFIO_PCI_CONFIG_REGION_INDEX
    VGA = c.VFIO_PCI_VGA_REGION_INDEX


class PciIrq(IntEnum):
    """Interrupt indices of a PCI device."""

    INTX = c.VFIO_PCI_INTX_IRQ_INDEX
    MSI = c.VFIO_PCI_MSI_IRQ_INDEX
    MSIX = c.VFIO_PCI_MSIX_IRQ_INDEX
    ERR = c.VFIO_PCI_ERR_IRQ_INDEX
    REQ = c.VFIO_PCI_REQ_IRQ_INDEX


class IommuCap(IntEnum):
    """Capabilities of IOMMU_GET_INFO."""

    IOVA_RANGE = c.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE
    MIGRATION = c.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION
    DMA_AVAIL = c.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL


class DeviceCap(IntEnum):
    """Capabilities of GET_INFO."""

    PCI_ATOMIC_COMP = c.VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP


class RegionCap(IntEnum):
    """Capabilities of GET_REGION_INFO."""

    SPARSE_MMAP = c.VFIO_REGION_INFO_CAP_SPARSE_MMAP
    TYPE = c.VFIO_REGION_INFO_CAP_TYPE
    MSIX_MAPPABLE = c.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE


class RegionType(IntEnum):
    """vfio_region_info_cap_type.type, but for the vendor types."""

    GFX = c.VFIO_REGION_TYPE_GFX
    CCW = c.VFIO_REGION_TYPE_CCW
    MIGRATION_DEPRECATED = c.VFIO_REGION_TYPE_MIGRATION_DEPRECATED


class AtomicFlag(IntFlag, boundary=KEEP):
    """vfio_device_info_cap_pci_atomic_comp.flags."""

    COMP32 = c.VFIO_PCI_ATOMIC_COMP32
    COMP64 = c.VFIO_PCI_ATOMIC_COMP64
    COMP128 = c.VFIO_PCI_ATOMIC_COMP128


class HotResetFlag(IntFlag, boundary=KEEP):
    """vfio_pci_hot_reset_info.flags."""

    DEV_ID = c.VFIO_PCI_HOT_RESET_FLAG_DEV_ID
    DEV_ID_OWNED = c.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED


class IoeventfdFlag(IntFlag, boundary=KEEP):
    """vfio_device_ioeventfd.flags: how many bytes a write has."""

    IOEVENTFD_8 = c.VFIO_DEVICE_IOEVENTFD_8
    IOEVENTFD_16 = c.VFIO_DEVICE_IOEVENTFD_16
    IOEVENTFD_32 = c.VFIO_DEVICE_IOEVENTFD_32
    IOEVENTFD_64 = c.VFIO_DEVICE_IOEVENTFD_64


class BusMasterOp(IntEnum):
    """vfio_device_feature_bus_master.op."""

    CLEAR_MASTER = c.VFIO_DEVICE_FEATURE_CLEAR_MASTER
    SET_MASTER = c.VFIO_DEVICE_FEATURE_SET_MASTER


class PrecopyFlag(IntFlag, boundary=KEEP):
    """vfio_precopy_info.flags; not in Linux 6.12."""

    REINIT = c.VFIO_PRECOPY_INFO_REINIT


PREFIXES: Final[Mapping[type, str]] = MappingProxyType(
    {
        GroupFlag: "VFIO_GROUP_FLAGS_",
        IommuInfoFlag: "VFIO_IOMMU_INFO_",
        DmaMapFlag: "VFIO_DMA_MAP_FLAG_",
        DmaUnmapFlag: "VFIO_DMA_UNMAP_FLAG_",
        DirtyPagesFlag: "VFIO_IOMMU_DIRTY_PAGES_FLAG_",
        DeviceFlag: "VFIO_DEVICE_FLAGS_",
        RegionInfoFlag: "VFIO_REGION_INFO_FLAG_",
        IrqInfoFlag: "VFIO_IRQ_INFO_",
        IrqSetFlag: "VFIO_IRQ_SET_",
        FeatureFlag: "VFIO_DEVICE_FEATURE_",
        MigrationFlag: "VFIO_MIGRATION_",
        DeviceState: "VFIO_DEVICE_STATE_",
        DeviceStateV1: "VFIO_DEVICE_STATE_V1_",
        Extension: "VFIO_",
        PciRegion: "VFIO_PCI_",
        PciIrq: "VFIO_PCI_",
        IommuCap: "VFIO_IOMMU_TYPE1_INFO_CAP_",
        DeviceCap: "VFIO_DEVICE_INFO_CAP_",
        RegionCap: "VFIO_REGION_INFO_CAP_",
        RegionType: "VFIO_REGION_TYPE_",
        AtomicFlag: "VFIO_PCI_ATOMIC_",
        HotResetFlag: "VFIO_PCI_HOT_RESET_FLAG_",
        IoeventfdFlag: "VFIO_DEVICE_",
        BusMasterOp: "VFIO_DEVICE_FEATURE_",
        PrecopyFlag: "VFIO_PRECOPY_INFO_",
    }
)
"""What the C names of a class's members begin with."""

SUFFIXES: Final[Mapping[type, str]] = MappingProxyType({PciRegion: "_REGION_INDEX", PciIrq: "_IRQ_INDEX"})
"""What they end with."""

_C_NAMES: Final = {name.upper(): name for name in vars(c) if name.startswith("VFIO_")}
_IRREGULAR: Final = {"VFIO_IOMMU_TYPE1_INFO_CAP_DMA_AVAIL": "VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL"}


def c_name(member: IntEnum | IntFlag) -> str:
    """Return the name of one member in <linux/vfio.h>; for a class without a prefix, its own."""
    cls = type(member)
    name = f"{PREFIXES.get(cls, '')}{member.name}{SUFFIXES.get(cls, '')}"
    return _C_NAMES.get(name.upper(), _IRREGULAR.get(name, name))
