# SPDX-License-Identifier: MIT
"""One row per ioctl and per device feature: what is dispatched, documented, fuzzed and traced.

ioctl numbers collide between fd kinds (0x3b70 to 0x3b75 mean two things each), so every lookup is by kind first. A row
describes an ioctl in all kernel releases that have it: its `errnos` are those that it may fail with in each of them. What
differs between releases is in `profile.py`, and `Profile.errnos` is the whole list: a fuzzer holds answers against it, and
a test the recorded traces. What is not listed per row:

* EBADF for an fd that is not open, which never reaches a handler;
* what an unknown number gets: `UNKNOWN_ERRNOS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from vfioemu.uapi import constants as c
from vfioemu.uapi import flags as f
from vfioemu.uapi import structs as s
from vfioemu.uapi.features import CLASSES as CLASSES
from vfioemu.uapi.features import FEATURE_ERRNOS
from vfioemu.uapi.features import FEATURES as FEATURES
from vfioemu.uapi.features import Feature as Feature
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.payload import Payload

Argument: TypeAlias = Literal["none", "value", "pointer"]
"""The third argument of ioctl(2): ignored, a number, or the address of a payload."""

Pointee: TypeAlias = Literal["struct", "fd", "string"]
"""The data at the address: the payload, the number of an fd, or characters up to a NUL."""


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
        errnos: what it may fail with in every release; `Profile.errnos` adds what only some answer.
        flags: the bits of the payload's `flags` that mean something going in.
        pointee: see `Pointee`.
        values: names for an argument that is a number.
        returns_fd: what it returns is a new fd.
        classes: what a trace can select it by.
    """

    name: str
    number: int
    kind: FdKind
    argument: Argument
    payload: type[Payload] | None
    minsz: int
    errnos: frozenset[str]
    flags: type[IntFlag] | None = None
    pointee: Pointee = "struct"
    values: type[IntEnum] | None = None
    returns_fd: bool = False
    classes: frozenset[str] = frozenset()


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


def _ioctl(
    kind: FdKind,
    name: str,
    argument: Argument,
    errnos: str = "",
    payload: type[Payload] | None = None,
    minsz: int | None = None,
    flags: type[IntFlag] | None = None,
    pointee: Pointee = "struct",
    values: type[IntEnum] | None = None,
    returns_fd: bool = False,
    classes: str = "",
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
        flags,
        pointee,
        values,
        returns_fd,
        frozenset(classes.split()),
    )


_CONTAINER: Final = FdKind.CONTAINER
_GROUP: Final = FdKind.GROUP
_DEVICE: Final = FdKind.DEVICE
_DATA: Final = FdKind.DATA
_ATTACH: Final = "EINVAL EPERM EBUSY ENOMEM"
"""vfio_iommu_type1_attach_group() with no mapping to replay."""

IOCTLS: Final[tuple[Ioctl, ...]] = (
    _ioctl(_CONTAINER, "VFIO_GET_API_VERSION", "none", classes="info"),
    _ioctl(_CONTAINER, "VFIO_CHECK_EXTENSION", "value", values=f.Extension, classes="info"),
    _ioctl(
        _CONTAINER,
        "VFIO_SET_IOMMU",
        "value",
        f"ENODEV {_ATTACH}",
        values=f.Extension,
        classes="group",
    ),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_GET_INFO",
        "pointer",
        "EFAULT EINVAL ENOMEM",
        s.IommuType1Info,
        minsz=16,
        classes="info",
    ),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_MAP_DMA",
        "pointer",
        "EFAULT EINVAL ENOENT ENOSPC ENOMEM",
        s.IommuType1DmaMap,
        flags=f.DmaMapFlag,
        classes="dma",
    ),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_UNMAP_DMA",
        "pointer",
        "EFAULT EINVAL EBUSY",
        s.IommuType1DmaUnmap,
        flags=f.DmaUnmapFlag,
        classes="dma",
    ),
    _ioctl(
        _CONTAINER,
        "VFIO_IOMMU_DIRTY_PAGES",
        "pointer",
        "EACCES EFAULT EINVAL ENOMEM",
        s.IommuType1DirtyBitmap,
        flags=f.DirtyPagesFlag,
        classes="dirty",
    ),
    _ioctl(
        _GROUP,
        "VFIO_GROUP_GET_STATUS",
        "pointer",
        "EFAULT EINVAL ENODEV",
        s.GroupStatus,
        classes="group info",
    ),
    _ioctl(
        _GROUP,
        "VFIO_GROUP_SET_CONTAINER",
        "pointer",
        f"EFAULT EBADF EBADFD ENODEV {_ATTACH}",
        minsz=4,
        pointee="fd",
        classes="group",
    ),
    _ioctl(_GROUP, "VFIO_GROUP_UNSET_CONTAINER", "none", "EINVAL EBUSY", classes="group"),
    _ioctl(
        _GROUP,
        "VFIO_GROUP_GET_DEVICE_FD",
        "pointer",
        "EFAULT EINVAL ENODEV EACCES EPERM EMFILE EBUSY ENOMEM EIO",
        minsz=1,
        pointee="string",
        returns_fd=True,
        classes="group",
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_GET_INFO",
        "pointer",
        "EFAULT EINVAL ENOMEM",
        s.DeviceInfo,
        minsz=16,
        classes="info",
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_GET_REGION_INFO",
        "pointer",
        "EFAULT EINVAL ENOMEM",
        s.RegionInfo,
        classes="info region",
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_GET_IRQ_INFO",
        "pointer",
        "EFAULT EINVAL",
        s.IrqInfo,
        classes="info irq",
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_SET_IRQS",
        "pointer",
        "EFAULT EINVAL ENOTTY EBADF ENOMEM ENODEV ENOSPC ERANGE EBUSY",
        s.IrqSet,
        flags=f.IrqSetFlag,
        classes="irq",
    ),
    _ioctl(_DEVICE, "VFIO_DEVICE_RESET", "none", "EINVAL EAGAIN EIO", classes="reset"),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
        "pointer",
        "EFAULT EINVAL ENODEV ENOSPC ENOTTY ENOMEM EPERM EAGAIN",
        s.PciHotResetInfo,
        classes="info reset",
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_PCI_HOT_RESET",
        "pointer",
        "EFAULT EINVAL EBADF ENODEV ENOTTY ENOMEM EBUSY EAGAIN",
        s.PciHotReset,
        classes="reset",
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_IOEVENTFD",
        "pointer",
        "EFAULT EINVAL EBADF EEXIST ENODEV ENOMEM ENOSPC ENOTTY",
        s.DeviceIoeventfd,
        minsz=28,
        flags=f.IoeventfdFlag,
        classes="region",
    ),
    _ioctl(
        _DEVICE,
        "VFIO_DEVICE_FEATURE",
        "pointer",
        FEATURE_ERRNOS,
        s.DeviceFeature,
        flags=f.FeatureFlag,
        classes="feature",
    ),
    _ioctl(
        _DATA,
        "VFIO_MIG_GET_PRECOPY_INFO",
        "pointer",
        "EFAULT EINVAL ENODEV ENOTTY",
        s.PrecopyInfo,
        classes="migration",
    ),
)
"""The ioctls that are served."""

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
    Unserved("VFIO_DEVICE_BIND_IOMMUFD", c.VFIO_DEVICE_BIND_IOMMUFD, _DEVICE, _CDEV),
    Unserved("VFIO_DEVICE_ATTACH_IOMMUFD_PT", c.VFIO_DEVICE_ATTACH_IOMMUFD_PT, _DEVICE, _CDEV),
    Unserved("VFIO_DEVICE_DETACH_IOMMUFD_PT", c.VFIO_DEVICE_DETACH_IOMMUFD_PT, _DEVICE, _CDEV),
)
"""The ioctls that are known and not served."""

UNKNOWN_ERRNOS: Final[Mapping[FdKind, frozenset[str]]] = MappingProxyType(
    {
        _CONTAINER: frozenset({"EINVAL", "ENOTTY"}),  # EINVAL until SET_IOMMU, whatever the number
        _GROUP: frozenset({"ENOTTY"}),
        _DEVICE: frozenset({"ENOTTY", "EINVAL"}),  # EINVAL from a driver that has no ioctl operation
        _DATA: frozenset({"ENOTTY"}),
        FdKind.DMA_BUF: frozenset({"ENOTTY"}),
    }
)
"""The errnos for a number that is in no row, by fd kind."""

_BY_NUMBER: Final = {kind: {row.number: row for row in IOCTLS if row.kind is kind} for kind in FdKind}


def lookup(kind: FdKind, number: int) -> Ioctl | None:
    """Find the row of ioctl `number` on a fd of `kind`; None when it is not served."""
    return _BY_NUMBER[kind].get(number)
