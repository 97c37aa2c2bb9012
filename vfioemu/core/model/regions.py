# SPDX-License-Identifier: MIT
"""Device regions: what a model says of them, and what it does with an access.

A device fd is one file in which region i begins at i << 40 (VFIO_PCI_OFFSET_SHIFT). How the fd is read, written and mapped is
core/files/regions.py.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vfioemu.core.base.effects import MaybeSteps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.model.quirks import DriverQuirks
from vfioemu.uapi import constants as c

OFFSET_SHIFT: Final = 40
PIECE: Final = 1 << 20
"""Bytes of one access that a model is asked for at a time."""


@dataclass(frozen=True, slots=True)
class Region:
    """One region of a device, as VFIO_DEVICE_GET_REGION_INFO tells it.

    Attributes:
        size: in bytes; 0 is a region that the device does not have (it is still answered, as vfio-pci does).
        flags: VFIO_REGION_INFO_FLAG_*; without READ or WRITE that access is EINVAL.
        caps: capabilities (id, version, body) in the order in which they are told.
    """

    size: int = 0
    flags: int = 0
    caps: tuple[tuple[int, int, bytes], ...] = ()


READ_WRITE = c.VFIO_REGION_INFO_FLAG_READ | c.VFIO_REGION_INFO_FLAG_WRITE
ABSENT = Region()


class RegionSource(Protocol):
    """An object with regions: a DeviceModel, whose methods these are, or a layer that adds to them."""

    @property
    def quirks(self) -> DriverQuirks:
        """See DeviceModel."""

    def regions(self) -> "Sequence[Region | None]":
        """See DeviceModel."""

    def clip_access(self, index: int, offset: int, size: int, *, write: bool) -> int:
        """See DeviceModel."""

    def next_piece(self, index: int, offset: int, left: int) -> int:
        """See DeviceModel."""

    def unit(self, index: int, offset: int, left: int) -> int:
        """See DeviceModel."""

    def reads_show(self, index: int) -> bool:
        """See DeviceModel."""

    def accept_write(self, index: int, offset: int, size: int) -> int:
        """See DeviceModel."""

    def read_region(self, index: int, offset: int, size: int) -> "MaybeSteps[bytes]":
        """See DeviceModel."""

    def write_region(self, index: int, offset: int, data: bytes) -> "MaybeSteps[None]":
        """See DeviceModel."""

    def map_region(self, index: int, offset: int, size: int, prot: int) -> "MaybeSteps[int | Mapped] | None":
        """See DeviceModel."""


def region_offset(index: int) -> int:
    """Return the offset at which region `index` begins in a device fd."""
    return index << OFFSET_SHIFT


def region_of(model: "RegionSource", index: int) -> "Region":
    """Find a region that the device has: EINVAL for any other index."""
    regions = model.regions()
    region = regions[index] if index < len(regions) else None
    if region is None:
        raise IoctlError(errno.EINVAL, f"index {index}: the device has no such region")
    return region


def clip_access(model: "RegionSource", index: int, offset: int, size: int, *, write: bool) -> int:
    """Return the bytes of an access that the region has: EINVAL for a region without that operation, or an offset beyond it."""
    region = region_of(model, index)
    flag = c.VFIO_REGION_INFO_FLAG_WRITE if write else c.VFIO_REGION_INFO_FLAG_READ
    if offset >= region.size or not region.flags & flag:
        raise IoctlError(errno.EINVAL, f"offset {offset:#x} of region {index} with {region.size:#x} bytes")
    return min(size, region.size - offset)
