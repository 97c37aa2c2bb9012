# SPDX-License-Identifier: MIT
"""Device regions: GET_REGION_INFO, and read, write and mmap of a device fd.

A device fd is one file in which region i begins at i << 40 (VFIO_PCI_OFFSET_SHIFT). What the bytes mean is the model's;
that an access lies inside the region is checked here, once.
"""

import errno
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vfioemu.core.base.capchain import CapChain
from vfioemu.core.base.effects import MaybeSteps, Steps, WriteUser, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.base.profile import Profile
from vfioemu.core.base.userrange import clip, refuse_bad_range
from vfioemu.core.model import pieces
from vfioemu.core.model.quirks import DriverQuirks
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import RegionInfo

OFFSET_SHIFT: Final = 40
_OFFSET_MASK: Final = (1 << OFFSET_SHIFT) - 1
_PAGE: Final = 4096
_SMALL: Final = 8
PIECE: Final = 1 << 20
"""How much of one access a model is asked for at a time."""


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
    """What has regions: a DeviceModel, whose methods these are, or a layer that adds to them."""

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
    """Where region `index` begins in a device fd."""
    return index << OFFSET_SHIFT


def get_region_info(model: "RegionSource", profile: Profile, arg: int) -> Steps[int]:
    """VFIO_DEVICE_GET_REGION_INFO: EFAULT, EINVAL.

    A chain of capabilities that does not fit argsz is not written; argsz then says how much it takes.
    """
    asked = RegionInfo.parse((yield from read_user(arg, RegionInfo.SIZE)))
    if asked.argsz < RegionInfo.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {asked.argsz} < {RegionInfo.SIZE}")
    region = _region(model, asked.index)
    flags = region.flags
    argsz = asked.argsz
    kept = model.quirks.keeps_cap_offset and profile.region_info_keeps_cap_offset
    cap_offset = asked.cap_offset if kept else 0
    if region.caps:
        flags |= c.VFIO_REGION_INFO_FLAG_CAPS
        chain = CapChain()
        for cap in region.caps:
            chain.add(*cap)
        if argsz < RegionInfo.SIZE + chain.size:
            argsz = RegionInfo.SIZE + chain.size
            cap_offset = 0
        else:
            yield from write_user(arg + RegionInfo.SIZE, chain.build(RegionInfo.SIZE))
            cap_offset = RegionInfo.SIZE
    answer = RegionInfo(
        argsz=argsz,
        flags=flags,
        index=asked.index,
        cap_offset=cap_offset,
        size=region.size,
        offset=region_offset(asked.index),
    )
    yield from write_user(arg, answer.build())
    return 0


def read(model: "RegionSource", addr: int, size: int, position: int) -> Steps[int]:
    """Read a device fd at `position`: EFAULT, EINVAL, what the model says."""
    refuse_bad_range(addr, size, position)
    if position >> OFFSET_SHIFT < model.quirks.pieces_below:
        return (yield from pieces.read(model, addr, clip(size), position))
    index, offset = position >> OFFSET_SHIFT, position & _OFFSET_MASK
    left = model.clip_access(index, offset, clip(size), write=False)
    done = 0
    while left:
        piece = min(left, PIECE)
        if piece > _SMALL and model.reads_show(index):
            piece = _readable(model, index, offset + done, piece, (addr + done) % _PAGE if done else 0)
        answer = model.read_region(index, offset + done, piece)
        data = answer if isinstance(answer, bytes) else (yield from answer)
        yield WriteUser(addr + done, data)  # not write_user(): small reads are a hot path
        done += len(data)
        left -= piece
        if len(data) < piece:
            break
    return done


def write(model: "RegionSource", addr: int, size: int, position: int) -> Steps[int]:
    """Write a device fd at `position`: EFAULT, EINVAL, what the model says."""
    refuse_bad_range(addr, size, position)
    if position >> OFFSET_SHIFT < model.quirks.pieces_below:
        return (yield from pieces.write(model, addr, clip(size), position))
    index, offset = position >> OFFSET_SHIFT, position & _OFFSET_MASK
    left = model.clip_access(index, offset, clip(size), write=True)
    done = 0
    while left:
        piece = model.next_piece(index, offset + done, left)
        wanted = model.accept_write(index, offset + done, piece)
        try:
            data = (yield from read_user(addr + done, wanted)) if wanted else b""
        except IoctlError:
            shorter = _before_fault(model, index, offset + done, wanted, (addr + done) % _PAGE)
            if shorter >= wanted:
                raise
            piece = shorter
            data = yield from read_user(addr + done, piece)
        answer = model.write_region(index, offset + done, data)
        if answer is not None:
            yield from answer
        done += piece
        left -= piece
    return done


def _readable(model: "RegionSource", index: int, offset: int, size: int, at: int) -> int:
    """How much to read of a region at once into memory at `at` of its page: nothing that the caller might not get.

    Memory faults by the page. So one unit is tried at the beginning of each, and then all others that end in it.
    """
    unit = model.unit(index, offset, size)
    return unit if at < unit else _before_fault(model, index, offset, size, at)


def _before_fault(model: "RegionSource", index: int, offset: int, size: int, at: int) -> int:
    """How long the units are that end in the page of memory which begins `at` bytes before; one unit at least."""
    room = _PAGE - at
    total = model.unit(index, offset, size)
    while total < size and (unit := model.unit(index, offset + total, size - total)) <= room - total:
        total += unit
    return total


def place(position: int) -> tuple[int, int]:
    """Which region an offset of a device fd is in, and where in it."""
    return position >> OFFSET_SHIFT, position & _OFFSET_MASK


def mmap(model: "RegionSource", position: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
    """mmap() of a device fd: EINVAL for what cannot be mapped.

    Kernel: vfio_pci_core_mmap(): MAP_SHARED only, and inside the region rounded up to pages.
    """
    index, offset = place(position)
    region = _region(model, index)
    if not shared or not region.flags & c.VFIO_REGION_INFO_FLAG_MMAP:
        raise IoctlError(errno.EINVAL, f"region {index} cannot be mapped like this")
    if offset + size > (region.size + 4095) & ~4095:
        raise IoctlError(errno.EINVAL, f"{offset:#x}+{size:#x} of region {index} with {region.size:#x} bytes")
    answer = model.map_region(index, offset, size, prot)
    if answer is None:
        raise IoctlError(errno.EINVAL, f"region {index} cannot be mapped")
    mapped = (yield from answer) if isinstance(answer, Generator) else answer
    return Mapped(mapped) if isinstance(mapped, int) else mapped


def _region(model: "RegionSource", index: int) -> "Region":
    regions = model.regions()
    region = regions[index] if index < len(regions) else None
    if region is None:
        raise IoctlError(errno.EINVAL, f"index {index}: the device has no such region")
    return region


def clip_access(model: "RegionSource", index: int, offset: int, size: int, *, write: bool) -> int:
    """How much of an access the region has: EINVAL for a region that has not that operation, or an offset beyond it."""
    region = _region(model, index)
    flag = c.VFIO_REGION_INFO_FLAG_WRITE if write else c.VFIO_REGION_INFO_FLAG_READ
    if offset >= region.size or not region.flags & flag:
        raise IoctlError(errno.EINVAL, f"offset {offset:#x} of region {index} with {region.size:#x} bytes")
    return min(size, region.size - offset)
