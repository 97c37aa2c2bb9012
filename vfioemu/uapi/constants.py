# SPDX-License-Identifier: MIT
"""The numbers of <linux/vfio.h>, under the names they have there.

All that the container, group, device, feature and migration calls use on x86: what is only for powerpc (sPAPR, EEH,
NVLink) and s390 (ccw, ap, zPCI) is left out, but for the extension and flag numbers that any client may ask about.
Names of Linux 6.12; those that came later say so. The same numbers grouped into flag classes are in flags.py.
"""

from typing import Final

VFIO_API_VERSION: Final = 0
VFIO_TYPE: Final = ord(";")
VFIO_BASE: Final = 100


def _io(number: int) -> int:
    """_IO(VFIO_TYPE, VFIO_BASE + number): VFIO's numbers carry neither size nor direction."""
    return (VFIO_TYPE << 8) | (VFIO_BASE + number)


# Extensions and IOMMU types: arguments of CHECK_EXTENSION and SET_IOMMU.
VFIO_TYPE1_IOMMU: Final = 1
VFIO_SPAPR_TCE_IOMMU: Final = 2
VFIO_TYPE1v2_IOMMU: Final = 3  # the header's spelling
VFIO_DMA_CC_IOMMU: Final = 4
VFIO_EEH: Final = 5
VFIO_TYPE1_NESTING_IOMMU: Final = 6  # __VFIO_RESERVED_TYPE1_NESTING_IOMMU from Linux 6.13 on
VFIO_SPAPR_TCE_v2_IOMMU: Final = 7
VFIO_NOIOMMU_IOMMU: Final = 8
VFIO_UNMAP_ALL: Final = 9
VFIO_UPDATE_VADDR: Final = 10

# ioctls of the container fd.
VFIO_GET_API_VERSION: Final = _io(0)
VFIO_CHECK_EXTENSION: Final = _io(1)
VFIO_SET_IOMMU: Final = _io(2)
VFIO_IOMMU_GET_INFO: Final = _io(12)
VFIO_IOMMU_MAP_DMA: Final = _io(13)
VFIO_IOMMU_UNMAP_DMA: Final = _io(14)
VFIO_IOMMU_ENABLE: Final = _io(15)
VFIO_IOMMU_DISABLE: Final = _io(16)
VFIO_IOMMU_DIRTY_PAGES: Final = _io(17)

# ioctls of the group fd.
VFIO_GROUP_GET_STATUS: Final = _io(3)
VFIO_GROUP_SET_CONTAINER: Final = _io(4)
VFIO_GROUP_UNSET_CONTAINER: Final = _io(5)
VFIO_GROUP_GET_DEVICE_FD: Final = _io(6)

# ioctls of the device fd.
VFIO_DEVICE_GET_INFO: Final = _io(7)
VFIO_DEVICE_GET_REGION_INFO: Final = _io(8)
VFIO_DEVICE_GET_IRQ_INFO: Final = _io(9)
VFIO_DEVICE_SET_IRQS: Final = _io(10)
VFIO_DEVICE_RESET: Final = _io(11)
VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: Final = _io(12)
VFIO_DEVICE_PCI_HOT_RESET: Final = _io(13)
VFIO_DEVICE_QUERY_GFX_PLANE: Final = _io(14)
VFIO_DEVICE_GET_GFX_DMABUF: Final = _io(15)
VFIO_DEVICE_IOEVENTFD: Final = _io(16)
VFIO_DEVICE_FEATURE: Final = _io(17)
VFIO_DEVICE_BIND_IOMMUFD: Final = _io(18)
VFIO_DEVICE_ATTACH_IOMMUFD_PT: Final = _io(19)
VFIO_DEVICE_DETACH_IOMMUFD_PT: Final = _io(20)

# ioctls of the migration data fd.
VFIO_MIG_GET_PRECOPY_INFO: Final = _io(21)

# vfio_group_status.flags
VFIO_GROUP_FLAGS_VIABLE: Final = 1 << 0
VFIO_GROUP_FLAGS_CONTAINER_SET: Final = 1 << 1

# vfio_iommu_type1_info.flags, and its capabilities
VFIO_IOMMU_INFO_PGSIZES: Final = 1 << 0
VFIO_IOMMU_INFO_CAPS: Final = 1 << 1
VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: Final = 1
VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: Final = 2
VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: Final = 3

# vfio_iommu_type1_dma_map.flags
VFIO_DMA_MAP_FLAG_READ: Final = 1 << 0
VFIO_DMA_MAP_FLAG_WRITE: Final = 1 << 1
VFIO_DMA_MAP_FLAG_VADDR: Final = 1 << 2

# vfio_iommu_type1_dma_unmap.flags
VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: Final = 1 << 0
VFIO_DMA_UNMAP_FLAG_ALL: Final = 1 << 1
VFIO_DMA_UNMAP_FLAG_VADDR: Final = 1 << 2

# vfio_iommu_type1_dirty_bitmap.flags
VFIO_IOMMU_DIRTY_PAGES_FLAG_START: Final = 1 << 0
VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: Final = 1 << 1
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: Final = 1 << 2

# vfio_device_info.flags, and its capabilities
VFIO_DEVICE_FLAGS_RESET: Final = 1 << 0
VFIO_DEVICE_FLAGS_PCI: Final = 1 << 1
VFIO_DEVICE_FLAGS_PLATFORM: Final = 1 << 2
VFIO_DEVICE_FLAGS_AMBA: Final = 1 << 3
VFIO_DEVICE_FLAGS_CCW: Final = 1 << 4
VFIO_DEVICE_FLAGS_AP: Final = 1 << 5
VFIO_DEVICE_FLAGS_FSL_MC: Final = 1 << 6
VFIO_DEVICE_FLAGS_CAPS: Final = 1 << 7
VFIO_DEVICE_FLAGS_CDX: Final = 1 << 8
VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP: Final = 5
VFIO_PCI_ATOMIC_COMP32: Final = 1 << 0
VFIO_PCI_ATOMIC_COMP64: Final = 1 << 1
VFIO_PCI_ATOMIC_COMP128: Final = 1 << 2

# vfio_region_info.flags, its capabilities, region types and subtypes
VFIO_REGION_INFO_FLAG_READ: Final = 1 << 0
VFIO_REGION_INFO_FLAG_WRITE: Final = 1 << 1
VFIO_REGION_INFO_FLAG_MMAP: Final = 1 << 2
VFIO_REGION_INFO_FLAG_CAPS: Final = 1 << 3
VFIO_REGION_INFO_CAP_SPARSE_MMAP: Final = 1
VFIO_REGION_INFO_CAP_TYPE: Final = 2
VFIO_REGION_INFO_CAP_MSIX_MAPPABLE: Final = 3
VFIO_REGION_TYPE_PCI_VENDOR_TYPE: Final = 1 << 31
VFIO_REGION_TYPE_PCI_VENDOR_MASK: Final = 0xFFFF
VFIO_REGION_TYPE_GFX: Final = 1
VFIO_REGION_TYPE_CCW: Final = 2
VFIO_REGION_TYPE_MIGRATION_DEPRECATED: Final = 3
VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION: Final = 1
VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG: Final = 2
VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG: Final = 3
VFIO_REGION_SUBTYPE_GFX_EDID: Final = 1
VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED: Final = 1

# vfio_region_gfx_edid.link_state
VFIO_DEVICE_GFX_LINK_STATE_UP: Final = 1
VFIO_DEVICE_GFX_LINK_STATE_DOWN: Final = 2

# PCI region and interrupt indices
VFIO_PCI_BAR0_REGION_INDEX: Final = 0
VFIO_PCI_BAR1_REGION_INDEX: Final = 1
VFIO_PCI_BAR2_REGION_INDEX: Final = 2
VFIO_PCI_BAR3_REGION_INDEX: Final = 3
VFIO_PCI_BAR4_REGION_INDEX: Final = 4
VFIO_PCI_BAR5_REGION_INDEX: Final = 5
VFIO_PCI_ROM_REGION_INDEX: Final = 6
VFIO_PCI_CONFIG_REGION_INDEX: Final = 7
VFIO_PCI_VGA_REGION_INDEX: Final = 8
VFIO_PCI_NUM_REGIONS: Final = 9
VFIO_PCI_INTX_IRQ_INDEX: Final = 0
VFIO_PCI_MSI_IRQ_INDEX: Final = 1
VFIO_PCI_MSIX_IRQ_INDEX: Final = 2
VFIO_PCI_ERR_IRQ_INDEX: Final = 3
VFIO_PCI_REQ_IRQ_INDEX: Final = 4
VFIO_PCI_NUM_IRQS: Final = 5

# vfio_irq_info.flags
VFIO_IRQ_INFO_EVENTFD: Final = 1 << 0
VFIO_IRQ_INFO_MASKABLE: Final = 1 << 1
VFIO_IRQ_INFO_AUTOMASKED: Final = 1 << 2
VFIO_IRQ_INFO_NORESIZE: Final = 1 << 3

# vfio_irq_set.flags
VFIO_IRQ_SET_DATA_NONE: Final = 1 << 0
VFIO_IRQ_SET_DATA_BOOL: Final = 1 << 1
VFIO_IRQ_SET_DATA_EVENTFD: Final = 1 << 2
VFIO_IRQ_SET_ACTION_MASK: Final = 1 << 3
VFIO_IRQ_SET_ACTION_UNMASK: Final = 1 << 4
VFIO_IRQ_SET_ACTION_TRIGGER: Final = 1 << 5
VFIO_IRQ_SET_DATA_TYPE_MASK: Final = (
    VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD
)
VFIO_IRQ_SET_ACTION_TYPE_MASK: Final = (
    VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER
)

# vfio_pci_hot_reset_info.flags, vfio_pci_dependent_device.devid
VFIO_PCI_DEVID_OWNED: Final = 0
VFIO_PCI_DEVID_NOT_OWNED: Final = -1
VFIO_PCI_HOT_RESET_FLAG_DEV_ID: Final = 1 << 0
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED: Final = 1 << 1

# vfio_device_gfx_plane_info.flags
VFIO_GFX_PLANE_TYPE_PROBE: Final = 1 << 0
VFIO_GFX_PLANE_TYPE_DMABUF: Final = 1 << 1
VFIO_GFX_PLANE_TYPE_REGION: Final = 1 << 2

# vfio_device_ioeventfd.flags
VFIO_DEVICE_IOEVENTFD_8: Final = 1 << 0
VFIO_DEVICE_IOEVENTFD_16: Final = 1 << 1
VFIO_DEVICE_IOEVENTFD_32: Final = 1 << 2
VFIO_DEVICE_IOEVENTFD_64: Final = 1 << 3
VFIO_DEVICE_IOEVENTFD_SIZE_MASK: Final = 0xF

# Flags of the cdev calls, since Linux 6.16 and later
VFIO_DEVICE_BIND_FLAG_TOKEN: Final = 1 << 0
VFIO_DEVICE_ATTACH_PASID: Final = 1 << 0
VFIO_DEVICE_DETACH_PASID: Final = 1 << 0

# vfio_device_feature.flags, and the features
VFIO_DEVICE_FEATURE_MASK: Final = 0xFFFF
VFIO_DEVICE_FEATURE_GET: Final = 1 << 16
VFIO_DEVICE_FEATURE_SET: Final = 1 << 17
VFIO_DEVICE_FEATURE_PROBE: Final = 1 << 18
VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: Final = 0
VFIO_DEVICE_FEATURE_MIGRATION: Final = 1
VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: Final = 2
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: Final = 3
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: Final = 4
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: Final = 5
VFIO_DEVICE_FEATURE_DMA_LOGGING_START: Final = 6
VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: Final = 7
VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: Final = 8
VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: Final = 9
VFIO_DEVICE_FEATURE_BUS_MASTER: Final = 10
VFIO_DEVICE_FEATURE_DMA_BUF: Final = 11  # not in Linux 6.12
VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: Final = 12  # not in Linux 6.12
VFIO_DEVICE_FEATURE_CLEAR_MASTER: Final = 0
VFIO_DEVICE_FEATURE_SET_MASTER: Final = 1

# vfio_device_feature_migration.flags
VFIO_MIGRATION_STOP_COPY: Final = 1 << 0
VFIO_MIGRATION_P2P: Final = 1 << 1
VFIO_MIGRATION_PRE_COPY: Final = 1 << 2

# vfio_device_feature_mig_state.device_state (enum vfio_device_mig_state)
VFIO_DEVICE_STATE_ERROR: Final = 0
VFIO_DEVICE_STATE_STOP: Final = 1
VFIO_DEVICE_STATE_RUNNING: Final = 2
VFIO_DEVICE_STATE_STOP_COPY: Final = 3
VFIO_DEVICE_STATE_RESUMING: Final = 4
VFIO_DEVICE_STATE_RUNNING_P2P: Final = 5
VFIO_DEVICE_STATE_PRE_COPY: Final = 6
VFIO_DEVICE_STATE_PRE_COPY_P2P: Final = 7
VFIO_DEVICE_STATE_NR: Final = 8

# vfio_precopy_info.flags, not in Linux 6.12
VFIO_PRECOPY_INFO_REINIT: Final = 1 << 0

# vfio_device_migration_info.device_state: the deprecated region protocol (migration v1)
VFIO_DEVICE_STATE_V1_STOP: Final = 0
VFIO_DEVICE_STATE_V1_RUNNING: Final = 1 << 0
VFIO_DEVICE_STATE_V1_SAVING: Final = 1 << 1
VFIO_DEVICE_STATE_V1_RESUMING: Final = 1 << 2
VFIO_DEVICE_STATE_MASK: Final = (
    VFIO_DEVICE_STATE_V1_RUNNING | VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RESUMING
)
