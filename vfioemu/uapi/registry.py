# SPDX-License-Identifier: MIT
"""One row per ioctl and per device feature: what is dispatched, documented, fuzzed and traced.

ioctl numbers collide between fd kinds (0x3b70 to 0x3b75 mean two things each), so every lookup is by kind first. The
`errnos` of a row are all that Linux 6.12, and this emulator as it, answers with; a fuzzer holds answers against them, and a test
holds the recorded traces. What is not listed per row:

* EBADF for an fd that is not open, which never reaches a handler;
* what an unknown number gets: `UNKNOWN_ERRNOS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from vfioemu.uapi import constants as c
from vfioemu.uapi import flags as f
from vfioemu.uapi import structs as s
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.payload import Payload

Argument: TypeAlias = Literal["none", "value", "pointer"]
"""What the third argument of ioctl(2) is: ignored, a number, or the address of a payload."""


@dataclass(frozen=True, slots=True)
class Ioctl:
    """An ioctl that is served.

    Attributes:
        name: as in <linux/vfio.h>.
        number: the `cmd` argument.
        kind: the fd kind that it belongs to.
        argument: see `Argument`.
        payload: the struct that the argument points to; None for plain values, names and fd numbers.
        minsz: how many bytes the kernel insists on reading, which may be less than the whole struct.
        errnos: what it may fail with.
        handler: the method of the core's file class.
        flags: the bits of the payload's `flags` that mean something going in.
        later: what kernels after Linux 6.12 may fail with in addition.
    """

    name: str
    number: int
    kind: FdKind
    argument: Argument
    payload: type[Payload] | None
    minsz: int
    errnos: frozenset[str]
    handler: str
    flags: type[IntFlag] | None = None
    later: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of VFIO_DEVICE_FEATURE.

    Attributes:
        name: as in <linux/vfio.h>, without VFIO_DEVICE_FEATURE_.
        number: the low 16 bits of `flags`.
        payload: what follows the header; None for nothing.
        ops: VFIO_DEVICE_FEATURE_GET, _SET or both.
        errnos: what it may fail with once a device has it; without it, ENOTTY.
        served: whether any device model here has it.
    """

    name: str
    number: int
    payload: type[Payload] | None
    ops: int
    errnos: frozenset[str]
    served: bool


@dataclass(frozen=True, slots=True)
class Unserved:
    """An ioctl of <linux/vfio.h> that is known and not served; it gets what an unknown number gets.

    Attributes:
        name: as in <linux/vfio.h>.
        number: the `cmd` argument.
        kind: the fd kind that it belongs to.
        why: for the support matrix.
    """

    name: str
    number: int
    kind: FdKind
    why: str


def _feature(
    number: int, name: str, payload: type[Payload] | None, ops: int, errnos: str, served: bool
) -> Feature:
    common = "EFAULT EINVAL ENOTTY"  # the checks of vfio_ioctl_device_feature() and vfio_check_feature()
    return Feature(name, number, payload, ops, frozenset(f"{common} {errnos}".split()), served)


_GET: Final = c.VFIO_DEVICE_FEATURE_GET
_SET: Final = c.VFIO_DEVICE_FEATURE_SET
_DRIVER: Final = "EIO EBUSY ENOMEM ETIMEDOUT EAGAIN"
"""What a migration driver's own failures look like: hardware that does not answer, resources it does not get."""

FEATURES: Final[Mapping[int, Feature]] = MappingProxyType(
    {
        feature.number: feature
        for feature in (
            _feature(0, "PCI_VF_TOKEN", s.DeviceFeaturePciVfToken, _SET, "", False),
            _feature(1, "MIGRATION", s.DeviceFeatureMigration, _GET, "", True),
            _feature(2, "MIG_DEVICE_STATE", s.DeviceFeatureMigState, _GET | _SET, f"EMFILE {_DRIVER}", True),
            _feature(3, "LOW_POWER_ENTRY", None, _SET, "EPERM", False),
            _feature(
                4, "LOW_POWER_ENTRY_WITH_WAKEUP", s.DeviceLowPowerEntryWithWakeup, _SET, "EPERM EBADF", False
            ),
            _feature(5, "LOW_POWER_EXIT", None, _SET, "", False),
            _feature(
                6,
                "DMA_LOGGING_START",
                s.DeviceFeatureDmaLoggingControl,
                _SET,
                "E2BIG EOVERFLOW EEXIST EIO ENOMEM",
                True,
            ),
            _feature(7, "DMA_LOGGING_STOP", None, _SET, "EIO", True),
            _feature(
                8, "DMA_LOGGING_REPORT", s.DeviceFeatureDmaLoggingReport, _GET, "EOVERFLOW EIO ENOMEM", True
            ),
            _feature(9, "MIG_DATA_SIZE", s.DeviceFeatureMigDataSize, _GET, _DRIVER, True),
            _feature(10, "BUS_MASTER", s.DeviceFeatureBusMaster, _SET, "", False),
            _feature(11, "DMA_BUF", s.DeviceFeatureDmaBuf, _GET, "", False),
            _feature(12, "MIG_PRECOPY_INFOv2", None, _SET, "", True),
        )
    }
)


def _ioctl(
    kind: FdKind,
    name: str,
    handler: str,
    argument: Argument,
    errnos: str = "",
    payload: type[Payload] | None = None,
    minsz: int | None = None,
    flags: type[IntFlag] | None = None,
    later: str = "",
) -> Ioctl:
    if minsz is None:
        minsz = payload.SIZE if payload else 0
    return Ioctl(
        name,
        getattr(c, name),
        kind,
        argument,
        payload,
        minsz,
        frozenset(errnos.split()),
        handler,
        flags,
        frozenset(later.split()),
    )


_CONTAINER: Final = FdKind.CONTAINER
_GROUP: Final = FdKind.GROUP
_DEVICE: Final = FdKind.DEVICE
_DATA: Final = FdKind.DATA
_ATTACH: Final = "EINVAL EPERM EBUSY ENOMEM"
"""vfio_iommu_type1_attach_group() with no mapping to replay."""

IOCTLS: Final[tuple[Ioctl, ...]] = (
    _ioctl(_CONTAINER, "VFIO_GET_API_VERSION", "get_api_version", "none"),
    _ioctl(_CONTAINER, "VFIO_CHECK_EXTENSION", "check_extension", "value"),
    _ioctl(_CONTAINER, "VFIO_SET_IOMMU", "set_iommu", "value", f"ENODEV {_ATTACH}"),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_GET_INFO",
        "iommu_get_info",
        "pointer",
        "EFAULT EINVAL ENOMEM",
        s.IommuType1Info,
        minsz=16,
    ),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_MAP_DMA",
        "map_dma",
        "pointer",
        "EFAULT EINVAL EEXIST ENOENT ENOSPC ENOMEM",
        s.IommuType1DmaMap,
        flags=f.DmaMapFlag,
        later="EOVERFLOW",
    ),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_UNMAP_DMA",
        "unmap_dma",
        "pointer",
        "EFAULT EINVAL EBUSY",
        s.IommuType1DmaUnmap,
        flags=f.DmaUnmapFlag,
        later="EOVERFLOW",
    ),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_DIRTY_PAGES",
        "dirty_pages",
        "pointer",
        "EACCES EFAULT EINVAL ENOMEM",
        s.IommuType1DirtyBitmap,
        flags=f.DirtyPagesFlag,
        later="EOVERFLOW",
    ),
    _ioctl(_GROUP, "VFIO_GROUP_GET_STATUS", "get_status", "pointer", "EFAULT EINVAL ENODEV", s.GroupStatus),
    _ioctl(
        _GROUP,
        "VFIO_GROUP_SET_CONTAINER",
        "set_container",
        "pointer",
        f"EFAULT EBADF EBADFD ENODEV {_ATTACH}",
        minsz=4,
    ),
    _ioctl(_GROUP, "VFIO_GROUP_UNSET_CONTAINER", "unset_container", "none", "EINVAL EBUSY"),
    _ioctl(
        _GROUP,
        "VFIO_GROUP_GET_DEVICE_FD",
        "get_device_fd",
        "pointer",
        "EFAULT EINVAL ENODEV EACCES EPERM EMFILE EBUSY ENOMEM EIO",
        minsz=1,
    ),
    _ioctl(
        _DEVICE, "VFIO_DEVICE_GET_INFO", "get_info", "pointer", "EFAULT EINVAL ENOMEM", s.DeviceInfo, minsz=16
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_GET_REGION_INFO",
        "get_region_info",
        "pointer",
        "EFAULT EINVAL ENOMEM",
        s.RegionInfo,
    ),
    _ioctl(_DEVICE, "VFIO_DEVICE_GET_IRQ_INFO", "get_irq_info", "pointer", "EFAULT EINVAL", s.IrqInfo),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_SET_IRQS",
        "set_irqs",
        "pointer",
        "EFAULT EINVAL ENOTTY EBADF ENOMEM ENODEV ENOSPC ERANGE EBUSY",
        s.IrqSet,
        flags=f.IrqSetFlag,
    ),
    _ioctl(_DEVICE, "VFIO_DEVICE_RESET", "reset", "none", "EINVAL EAGAIN EIO"),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
        "get_pci_hot_reset_info",
        "pointer",
        "EFAULT EINVAL ENODEV ENOSPC ENOTTY ENOMEM EPERM EAGAIN",
        s.PciHotResetInfo,
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_PCI_HOT_RESET",
        "pci_hot_reset",
        "pointer",
        "EFAULT EINVAL EBADF ENODEV ENOTTY ENOMEM EBUSY EAGAIN",
        s.PciHotReset,
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_FEATURE",
        "feature",
        "pointer",
        " ".join(sorted(frozenset[str]().union(*(feature.errnos for feature in FEATURES.values())))),
        s.DeviceFeature,
        flags=f.FeatureFlag,
        later="ENODEV",
    ),
    _ioctl(
        _DATA,
        "VFIO_MIG_GET_PRECOPY_INFO",
        "get_precopy_info",
        "pointer",
        "EFAULT EINVAL ENODEV ENOTTY",
        s.PrecopyInfo,
    ),
)
"""What is served."""

_CDEV: Final = "iommufd's way to open devices; the fds here come from groups"

UNSERVED: Final[tuple[Unserved, ...]] = (
    Unserved(
        "VFIO_IOMMU_ENABLE", c.VFIO_IOMMU_ENABLE, _CONTAINER, "sPAPR only; type1 has no such call either"
    ),
    Unserved(
        "VFIO_IOMMU_DISABLE", c.VFIO_IOMMU_DISABLE, _CONTAINER, "sPAPR only; type1 has no such call either"
    ),
    Unserved("VFIO_DEVICE_QUERY_GFX_PLANE", c.VFIO_DEVICE_QUERY_GFX_PLANE, _DEVICE, "no model has a display"),
    Unserved("VFIO_DEVICE_GET_GFX_DMABUF", c.VFIO_DEVICE_GET_GFX_DMABUF, _DEVICE, "no model has a display"),
    Unserved(
        "VFIO_DEVICE_IOEVENTFD", c.VFIO_DEVICE_IOEVENTFD, _DEVICE, "an optimisation of vfio-pci for KVM"
    ),
    Unserved("VFIO_DEVICE_BIND_IOMMUFD", c.VFIO_DEVICE_BIND_IOMMUFD, _DEVICE, _CDEV),
    Unserved("VFIO_DEVICE_ATTACH_IOMMUFD_PT", c.VFIO_DEVICE_ATTACH_IOMMUFD_PT, _DEVICE, _CDEV),
    Unserved("VFIO_DEVICE_DETACH_IOMMUFD_PT", c.VFIO_DEVICE_DETACH_IOMMUFD_PT, _DEVICE, _CDEV),
)
"""What is known and not served."""

UNKNOWN_ERRNOS: Final[Mapping[FdKind, frozenset[str]]] = MappingProxyType(
    {
        _CONTAINER: frozenset({"EINVAL", "ENOTTY"}),  # EINVAL until SET_IOMMU, whatever the number
        _GROUP: frozenset({"ENOTTY"}),
        _DEVICE: frozenset({"ENOTTY", "EINVAL"}),  # EINVAL from a driver that has no ioctl operation
        _DATA: frozenset({"ENOTTY"}),
    }
)
"""What a number that is in no row gets, by fd kind."""

_BY_NUMBER: Final = {kind: {row.number: row for row in IOCTLS if row.kind is kind} for kind in FdKind}


def lookup(kind: FdKind, number: int) -> Ioctl | None:
    """The row of ioctl `number` on a fd of `kind`, or None when it is not served."""
    return _BY_NUMBER[kind].get(number)


def errnos(kind: FdKind, number: int, later: bool = False) -> frozenset[str]:
    """All that ioctl `number` on an open fd of `kind` may fail with, served or not; `later` as in `Ioctl`."""
    row = lookup(kind, number)
    if row is None:
        return UNKNOWN_ERRNOS[kind]
    return row.errnos | row.later if later else row.errnos
