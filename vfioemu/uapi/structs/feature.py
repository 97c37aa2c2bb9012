# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_FEATURE and its payloads: migration v2, DMA logging, low power; and the data fd's PRECOPY_INFO."""

from typing import Annotated

from vfioemu.uapi import flags as f
from vfioemu.uapi.hints import DirtyBits, Fd, Follow, Hex64, Hint, Items, Out64
from vfioemu.uapi.payload import SIZEOF_SELF, U32, U64, Payload, Uuid, payload


@payload("vfio_device_feature", tail="data")
class DeviceFeature(Payload):
    """VFIO_DEVICE_FEATURE, followed by the feature's own payload."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.FeatureFlag] = 0


@payload("vfio_device_feature_pci_vf_token")
class DeviceFeaturePciVfToken(Payload):
    """PCI_VF_TOKEN: a bare uuid; <linux/vfio.h> gives it no struct, so the C name is ours."""

    uuid: Uuid = bytes(16)


@payload("vfio_device_feature_migration")
class DeviceFeatureMigration(Payload):
    """MIGRATION: what the device's migration can do."""

    flags: Annotated[U64, f.MigrationFlag] = 0


@payload("vfio_device_feature_mig_state")
class DeviceFeatureMigState(Payload):
    """MIG_DEVICE_STATE."""

    device_state: Annotated[U32, f.DeviceState] = 0
    data_fd: Fd = -1


@payload("vfio_precopy_info")
class PrecopyInfo(Payload):
    """VFIO_MIG_GET_PRECOPY_INFO on a data fd."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.PrecopyFlag] = 0
    initial_bytes: Out64 = 0
    dirty_bytes: Out64 = 0


@payload("vfio_device_low_power_entry_with_wakeup")
class DeviceLowPowerEntryWithWakeup(Payload):
    """LOW_POWER_ENTRY_WITH_WAKEUP."""

    wakeup_eventfd: Fd = 0
    reserved: U32 = 0


@payload("vfio_device_feature_dma_logging_range")
class DeviceFeatureDmaLoggingRange(Payload):
    """One range to log."""

    iova: Hex64 = 0
    length: Hex64 = 0


@payload("vfio_device_feature_dma_logging_control")
class DeviceFeatureDmaLoggingControl(Payload):
    """DMA_LOGGING_START; `ranges` points at `num_ranges` times DeviceFeatureDmaLoggingRange."""

    page_size: U64 = 0
    num_ranges: U32 = 0
    reserved: U32 = 0
    ranges: Annotated[U64, Hint.HEX, Items(DeviceFeatureDmaLoggingRange, "num_ranges")] = 0


@payload("vfio_device_feature_dma_logging_report")
class DeviceFeatureDmaLoggingReport(Payload):
    """DMA_LOGGING_REPORT; `bitmap` is the address of the bits."""

    iova: Hex64 = 0
    length: Hex64 = 0
    page_size: U64 = 0
    bitmap: Annotated[U64, Hint.HEX, DirtyBits("iova", "length", "page_size")] = 0


@payload("vfio_device_feature_mig_data_size")
class DeviceFeatureMigDataSize(Payload):
    """MIG_DATA_SIZE: the estimated length of the stop-copy stream."""

    stop_copy_length: U64 = 0


@payload("vfio_device_feature_bus_master")
class DeviceFeatureBusMaster(Payload):
    """BUS_MASTER."""

    op: Annotated[U32, f.BusMasterOp] = 0


@payload("vfio_region_dma_range")
class RegionDmaRange(Payload):
    """A part of a region, for DMA_BUF; not in Linux 6.12."""

    offset: Hex64 = 0
    length: Hex64 = 0


@payload("vfio_device_feature_dma_buf", tail="dma_ranges", follows=(Follow(RegionDmaRange, "nr_ranges"),))
class DeviceFeatureDmaBuf(Payload):
    """DMA_BUF, followed by `nr_ranges` times RegionDmaRange; not in Linux 6.12."""

    region_index: Annotated[U32, f.PciRegion] = 0
    open_flags: U32 = 0
    flags: U32 = 0
    nr_ranges: U32 = 0
