# SPDX-License-Identifier: MIT
"""A process's memory without a process: sparse, page-granular, each page readable, writable or neither.

What lies between allocations is inaccessible, with at least `GUARD` bytes before and behind each, so that a handler
that copies too much faults as it would in a real process.
"""

import bisect
import ctypes
import mmap
from collections.abc import Iterator
from typing import Final

from vfioemu.core.base.effects import Buffer
from vfioemu.core.base.userrange import TASK_SIZE_MAX

PAGE: Final = 4096
GUARD: Final = 8 << 20
FIRST_ADDRESS: Final = 0x7F00_0000_0000
ADDRESS_LIMIT: Final = TASK_SIZE_MAX

NONE: Final = 0
READ: Final = 1
READ_WRITE: Final = 3
PROTECTIONS: Final = {"none": NONE, "r": READ, "rw": READ_WRITE}

_LAZY_SIZE: Final = 64 << 10  # from here on the bytes are an anonymous mmap, which costs what is touched


class Region:
    """One allocation.

    Args:
        start: its address, page aligned.
        size: page-rounded bytes.
        protection: of all its pages at first.
        shared: memory that the process handed over: it has a window (see `AddressSpace.window`).
    """

    __slots__ = ("_anchor", "data", "end", "protections", "start", "uniform")

    def __init__(self, start: int, size: int, protection: int, *, shared: bool) -> None:
        self.start = start
        self.end = start + size
        self.data: bytearray | mmap.mmap
        self.data = mmap.mmap(-1, size) if shared or size >= _LAZY_SIZE else bytearray(size)
        self._anchor = ctypes.c_char.from_buffer(self.data) if shared else None
        self.uniform: int | None = protection
        self.protections = bytearray()  # of each page, once they differ

    @property
    def window(self) -> int | None:
        """Where the bytes are in this process, for shared regions."""
        return None if self._anchor is None else ctypes.addressof(self._anchor)

    def protect(self, first: int, last: int, protection: int) -> None:
        """Set the protection of the pages from `first` up to, not including, `last` (addresses)."""
        if (first, last) == (self.start, self.end):
            self.uniform = protection
            return
        if self.uniform is not None:
            self.protections = bytearray([self.uniform]) * ((self.end - self.start) // PAGE)
            self.uniform = None
        pages = slice((first - self.start) // PAGE, (last - self.start) // PAGE)
        self.protections[pages] = bytes([protection]) * (pages.stop - pages.start)

    def accessible(self, address: int, limit: int, needed: int) -> int:
        """Return the end of the accessible bytes from `address` on, at most `limit`."""
        limit = min(limit, self.end)
        if self.uniform is not None:
            return limit if self.uniform & needed == needed else address
        page = (address - self.start) // PAGE
        while page * PAGE + self.start < limit and self.protections[page] & needed == needed:
            page += 1
        return max(address, min(limit, page * PAGE + self.start))


class Memory:
    """All allocations of one process, by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._next = FIRST_ADDRESS

    def allocate(
        self, size: int, protection: str = "rw", *, fill: int = 0, align: int = PAGE, shared: bool = False
    ) -> int:
        """Allocate new memory and return its page-aligned address; every byte is `fill`."""
        rounded = -(-max(size, 1) // PAGE) * PAGE
        start = -(-(self._next + GUARD) // align) * align
        self._next = start + rounded
        if self._next + GUARD > ADDRESS_LIMIT:
            raise MemoryError("the address space is used up")
        region = Region(start, rounded, PROTECTIONS[protection], shared=shared)
        if fill:
            region.data[:] = bytes([fill]) * rounded
        self._starts.append(start)
        self._regions.append(region)
        return start

    def protect(self, address: int, size: int, protection: str) -> None:
        """Do what mprotect() does for the pages of [address, address+size)."""
        self._set(address, size, PROTECTIONS[protection])

    def unmap(self, address: int, size: int) -> None:
        """Do what munmap() does; the addresses are never given out again."""
        self._set(address, size, NONE)
        at = bisect.bisect_right(self._starts, address) - 1
        if at >= 0 and (region := self._regions[at]).start == address and region.uniform == NONE:
            del self._starts[at], self._regions[at]

    def read(self, address: int, size: int) -> bytes:
        """Read up to `size` bytes as a system call does: it stops short where the memory is not readable."""
        parts = [bytes(part) for part in self._spans(address, size, READ)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, address: int, data: Buffer) -> int:
        """Write as a system call does: as far as the memory is writable; returns how many bytes."""
        source = memoryview(data).cast("B")
        done = 0
        for part in self._spans(address, len(source), READ_WRITE):
            part[:] = source[done : done + len(part)]
            done += len(part)
        return done

    def accessible(self, address: int, size: int, *, write: bool) -> int:
        """Count the bytes from `address` on, at most `size`, that may be read (or written)."""
        return sum(len(part) for part in self._spans(address, size, READ_WRITE if write else READ))

    def peek(self, address: int, size: int) -> bytes:
        """Bytes whatever their protection: the test looks, not the process."""
        if not size:
            return b""
        region = self._whole(address, size)
        return bytes(region.data[address - region.start : address - region.start + size])

    def poke(self, address: int, data: Buffer) -> None:
        """Put bytes whatever the protection: the test writes, not the process."""
        if not data:
            return
        region = self._whole(address, len(data))
        region.data[address - region.start : address - region.start + len(data)] = data

    def window(self, address: int, size: int) -> int | None:
        """Return the address of [address, address+size) in this process if one shared allocation holds it, or None."""
        region = self._region(address)
        if region is None or region.window is None or address + size > region.end:
            return None
        return region.window + address - region.start

    def parts(self, address: int, size: int) -> list[tuple["Region", int, int]]:
        """Return each allocation behind [address, address+size), the offset in it, and the number of bytes."""
        found = []
        while size and (region := self._region(address)) is not None:
            count = min(size, region.end - address)
            found.append((region, address - region.start, count))
            address, size = address + count, size - count
        return found

    def _whole(self, address: int, size: int) -> Region:
        region = self._region(address)
        if region is None or address + size > region.end:
            raise ValueError(f"{address:#x}+{size:#x} is not in one allocation")
        return region

    def _region(self, address: int) -> Region | None:
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._regions[at].end:
            return None
        return self._regions[at]

    def _spans(self, address: int, size: int, needed: int) -> Iterator[memoryview]:
        """Yield the accessible bytes from `address` on, region by region, up to the first inaccessible one."""
        limit = address + size
        while address < limit:
            region = self._region(address)
            if region is None:
                return
            end = region.accessible(address, limit, needed)
            if end > address:
                yield memoryview(region.data)[address - region.start : end - region.start]
            if end < min(limit, region.end):
                return
            address = end

    def _set(self, address: int, size: int, protection: int) -> None:
        first, last = address // PAGE * PAGE, -(-(address + size) // PAGE) * PAGE
        for region in self._regions:
            if region.start < last and first < region.end:
                region.protect(max(first, region.start), min(last, region.end), protection)
