# SPDX-License-Identifier: MIT
"""The regions of a device fd: GET_REGION_INFO, read, write and mmap.

What the bytes mean is the model's; that an access lies inside the region is checked here, once.
"""

import errno
from collections.abc import Generator
from typing import Final

from vfioemu.core.base.capchain import CapChain
from vfioemu.core.base.effects import Steps, WriteUser, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.core.base.profile import Profile
from vfioemu.core.base.userrange import clip, refuse_bad_range
from vfioemu.core.files import pieces
from vfioemu.core.model.regions import OFFSET_SHIFT, PIECE, RegionSource, region_of, region_offset
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import RegionInfo

_OFFSET_MASK: Final = (1 << OFFSET_SHIFT) - 1
_SMALL: Final = 8


def get_region_info(model: RegionSource, profile: Profile, arg: int) -> Steps[int]:
    """VFIO_DEVICE_GET_REGION_INFO: EFAULT, EINVAL.

    A chain of capabilities that does not fit argsz is not written; argsz then says how much it takes.
    """
    asked = RegionInfo.parse((yield from read_user(arg, RegionInfo.SIZE)))
    if asked.argsz < RegionInfo.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {asked.argsz} < {RegionInfo.SIZE}")
    region = region_of(model, asked.index)
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


def read(model: RegionSource, addr: int, size: int, position: int) -> Steps[int]:
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
            piece = _readable(model, index, offset + done, piece, (addr + done) % PAGE_SIZE if done else 0)
        answer = model.read_region(index, offset + done, piece)
        data = answer if isinstance(answer, bytes) else (yield from answer)
        yield WriteUser(addr + done, data)  # not write_user(): small reads are a hot path
        done += len(data)
        left -= piece
        if len(data) < piece:
            break
    return done


def write(model: RegionSource, addr: int, size: int, position: int) -> Steps[int]:
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
            shorter = _before_fault(model, index, offset + done, wanted, (addr + done) % PAGE_SIZE)
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


def _readable(model: RegionSource, index: int, offset: int, size: int, at: int) -> int:
    """How much to read of a region at once into memory at `at` of its page: nothing that the caller might not get.

    Memory faults by the page. So one unit is tried at the beginning of each, and then all others that end in it.
    """
    unit = model.unit(index, offset, size)
    return unit if at < unit else _before_fault(model, index, offset, size, at)


def _before_fault(model: RegionSource, index: int, offset: int, size: int, at: int) -> int:
    """How long the units are that end in the page of memory which begins `at` bytes before; one unit at least."""
    room = PAGE_SIZE - at
    total = model.unit(index, offset, size)
    while total < size and (unit := model.unit(index, offset + total, size - total)) <= room - total:
        total += unit
    return total


def place(position: int) -> tuple[int, int]:
    """Which region an offset of a device fd is in, and where in it."""
    return position >> OFFSET_SHIFT, position & _OFFSET_MASK


def mmap(model: RegionSource, position: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
    """mmap() of a device fd: EINVAL for what cannot be mapped.

    Kernel: vfio_pci_core_mmap(): MAP_SHARED only, and inside the region rounded up to pages.
    """
    index, offset = place(position)
    region = region_of(model, index)
    if not shared or not region.flags & c.VFIO_REGION_INFO_FLAG_MMAP:
        raise IoctlError(errno.EINVAL, f"region {index} cannot be mapped like this")
    if offset + size > (region.size + PAGE_SIZE - 1) & -PAGE_SIZE:
        raise IoctlError(errno.EINVAL, f"{offset:#x}+{size:#x} of region {index} with {region.size:#x} bytes")
    answer = model.map_region(index, offset, size, prot)
    if answer is None:
        raise IoctlError(errno.EINVAL, f"region {index} cannot be mapped")
    mapped = (yield from answer) if isinstance(answer, Generator) else answer
    return Mapped(mapped) if isinstance(mapped, int) else mapped
