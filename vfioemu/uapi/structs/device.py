# SPDX-License-Identifier: MIT
"""Arguments of the device fd's ioctls: info, regions, interrupts, PCI hot reset, graphics, ioeventfd, cdev."""

from typing import Annotated

from vfioemu.uapi import constants as c
from vfioemu.uapi import flags as f
from vfioemu.uapi.hints import Chain, Fd, Follow, Hex32, Hex64, Hint, Out32, OutHex64
from vfioemu.uapi.payload import SIZEOF_SELF, U8, U16, U32, U64, Payload, payload
from vfioemu.uapi.structs.common import InfoCapHeader


@payload("vfio_device_info_cap_pci_atomic_comp")
class DeviceInfoCapPciAtomicComp(Payload):
    """Device capability 5: the AtomicOps that the path to memory completes."""

    header: InfoCapHeader = InfoCapHeader()
    flags: Annotated[U32, f.AtomicFlag] = 0
    reserved: U32 = 0


_DEVICE_CAPS = {c.VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP: DeviceInfoCapPciAtomicComp}


@payload("vfio_device_info")
class DeviceInfo(Payload):
    """VFIO_DEVICE_GET_INFO; its minsz is 16, up to cap_offset."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.DeviceFlag, Hint.OUT] = 0
    num_regions: Out32 = 0
    num_irqs: Out32 = 0
    cap_offset: Annotated[U32, Hint.OUT, Chain(f.DeviceCap, _DEVICE_CAPS)] = 0
    pad: Out32 = 0


@payload("vfio_region_sparse_mmap_area")
class RegionSparseMmapArea(Payload):
    """One part of a region that may be mapped, relative to the region."""

    offset: Hex64 = 0
    size: Hex64 = 0


@payload(
    "vfio_region_info_cap_sparse_mmap", tail="areas", follows=(Follow(RegionSparseMmapArea, "nr_areas"),)
)
class RegionInfoCapSparseMmap(Payload):
    """Region capability 1, followed by `nr_areas` times RegionSparseMmapArea."""

    header: InfoCapHeader = InfoCapHeader()
    nr_areas: U32 = 0
    reserved: U32 = 0


@payload("vfio_region_info_cap_type")
class RegionInfoCapType(Payload):
    """Region capability 2: what a device specific region is."""

    header: InfoCapHeader = InfoCapHeader()
    type: Annotated[U32, f.RegionType] = 0
    subtype: U32 = 0


_REGION_CAPS: dict[int, type[Payload]] = {
    c.VFIO_REGION_INFO_CAP_SPARSE_MMAP: RegionInfoCapSparseMmap,
    c.VFIO_REGION_INFO_CAP_TYPE: RegionInfoCapType,
}


@payload("vfio_region_info")
class RegionInfo(Payload):
    """VFIO_DEVICE_GET_REGION_INFO; `offset` is where the region lies in the device fd."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.RegionInfoFlag, Hint.OUT] = 0
    index: Annotated[U32, f.PciRegion] = 0
    cap_offset: Annotated[U32, Hint.OUT, Chain(f.RegionCap, _REGION_CAPS)] = 0
    size: OutHex64 = 0
    offset: OutHex64 = 0


@payload("vfio_region_gfx_edid")
class RegionGfxEdid(Payload):
    """The head of a GFX EDID region."""

    edid_offset: U32 = 0
    edid_max_size: U32 = 0
    edid_size: U32 = 0
    max_xres: U32 = 0
    max_yres: U32 = 0
    link_state: U32 = 0


@payload("vfio_device_migration_info")
class DeviceMigrationInfo(Payload):
    """The head of a migration region (v1, deprecated); each field is accessed with its own width."""

    device_state: Annotated[U32, f.DeviceStateV1] = 0
    reserved: U32 = 0
    pending_bytes: U64 = 0
    data_offset: U64 = 0
    data_size: U64 = 0


@payload("vfio_irq_info")
class IrqInfo(Payload):
    """VFIO_DEVICE_GET_IRQ_INFO."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.IrqInfoFlag, Hint.OUT] = 0
    index: Annotated[U32, f.PciIrq] = 0
    count: Out32 = 0


@payload(
    "vfio_irq_set",
    tail="data",
    follows=(
        Follow(U8, "count", c.VFIO_IRQ_SET_DATA_BOOL),
        Follow(Fd, "count", c.VFIO_IRQ_SET_DATA_EVENTFD),
    ),
)
class IrqSet(Payload):
    """VFIO_DEVICE_SET_IRQS, followed by `count` bytes (BOOL) or 32-bit fds (EVENTFD)."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.IrqSetFlag] = 0
    index: Annotated[U32, f.PciIrq] = 0
    start: U32 = 0
    count: U32 = 0


@payload("vfio_pci_dependent_device")
class PciDependentDevice(Payload):
    """A function that a hot reset hits as well; for cdev users the group number is a device id."""

    group_id: U32 = 0
    segment: U16 = 0
    bus: Annotated[U8, Hint.HEX] = 0
    devfn: Annotated[U8, Hint.HEX] = 0

    @property
    def devid(self) -> int:
        """The other name of the same four bytes (a union in C)."""
        return self.group_id


@payload("vfio_pci_hot_reset_info", tail="devices", follows=(Follow(PciDependentDevice, "count", out=True),))
class PciHotResetInfo(Payload):
    """VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, followed by `count` times PciDependentDevice."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.HotResetFlag, Hint.OUT] = 0
    count: Out32 = 0


@payload("vfio_pci_hot_reset", tail="group_fds", follows=(Follow(Fd, "count"),))
class PciHotReset(Payload):
    """VFIO_DEVICE_PCI_HOT_RESET, followed by `count` 32-bit group fds."""

    argsz: U32 = SIZEOF_SELF
    flags: U32 = 0
    count: U32 = 0


@payload("vfio_device_gfx_plane_info")
class DeviceGfxPlaneInfo(Payload):
    """VFIO_DEVICE_QUERY_GFX_PLANE."""

    argsz: U32 = SIZEOF_SELF
    flags: U32 = 0
    drm_plane_type: U32 = 0
    drm_format: Hex32 = 0
    drm_format_mod: Hex64 = 0
    width: U32 = 0
    height: U32 = 0
    stride: U32 = 0
    size: U32 = 0
    x_pos: U32 = 0
    y_pos: U32 = 0
    x_hot: U32 = 0
    y_hot: U32 = 0
    region_index: U32 = 0
    reserved: U32 = 0

    @property
    def dmabuf_id(self) -> int:
        """The other name of `region_index` (a union in C)."""
        return self.region_index


@payload("vfio_device_ioeventfd")
class DeviceIoeventfd(Payload):
    """VFIO_DEVICE_IOEVENTFD."""

    argsz: U32 = SIZEOF_SELF
    flags: Annotated[U32, f.IoeventfdFlag] = 0
    offset: Hex64 = 0
    data: Hex64 = 0
    fd: Fd = 0
    reserved: U32 = 0


@payload("vfio_device_bind_iommufd")
class DeviceBindIommufd(Payload):
    """VFIO_DEVICE_BIND_IOMMUFD as of Linux 6.12; later kernels append a token pointer."""

    argsz: U32 = SIZEOF_SELF
    flags: U32 = 0
    iommufd: Fd = 0
    out_devid: Out32 = 0


@payload("vfio_device_attach_iommufd_pt")
class DeviceAttachIommufdPt(Payload):
    """VFIO_DEVICE_ATTACH_IOMMUFD_PT as of Linux 6.12; later kernels append a PASID."""

    argsz: U32 = SIZEOF_SELF
    flags: U32 = 0
    pt_id: U32 = 0


@payload("vfio_device_detach_iommufd_pt")
class DeviceDetachIommufdPt(Payload):
    """VFIO_DEVICE_DETACH_IOMMUFD_PT as of Linux 6.12; later kernels append a PASID."""

    argsz: U32 = SIZEOF_SELF
    flags: U32 = 0
