# SPDX-License-Identifier: MIT
"""A bitmap in a caller's memory with a bit per page of IOVA, into which dirty bits are put.

Kernel: drivers/iommu/iommufd/iova_bitmap.c. Bits are only ever set (ORed into what is there), and bytes for which nothing
is dirty are not touched. What cannot be written is lost without an error.
"""

import errno
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vfioemu.core.base.bits import set_bits
from vfioemu.core.base.caller import AddressSpace
from vfioemu.core.base.effects import PinUser, Steps, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_SIZE, U64_MAX
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.userrange import access_ok

_WINDOW_PAGES: Final = PAGE_SIZE // 8
"""Pages of the bitmap that the kernel pins at a time: as many page pointers as one page holds."""
_HOLES_MAX: Final = 1024
"""Missing pages of the bitmap that one call of `set_each` looks behind: 128 GiB of what is logged, or more."""

_LOAD: Final = 1 << 20
_RECORD: Final = 128
"""Bytes that a model's report may gather before it is delivered, and what a record of it counts as."""

_report_locks: "weakref.WeakKeyDictionary[AddressSpace, Lock]" = weakref.WeakKeyDictionary()
"""Reports of one process exclude one another: two that OR into one bitmap must not lose each other's bits."""


@dataclass(frozen=True, slots=True)
class LogRange:
    """A range to log, [start, last], as the interval tree that a driver's log_start() is given."""

    start: int
    last: int

    def overlaps(self, other: "LogRange") -> bool:
        """interval_tree_iter_first(); a range of length 0 has last = start - 1, and 0 wraps to everything."""
        return self.start <= other.last and other.start <= self.last


class DirtySink:
    """The bitmap of one REPORT, as a model sees it: bit i is [iova + i * page_size, + page_size).

    Attributes:
        iova: the address of bit 0.
        length: how many bytes of address space were asked about.
        page_size: a power of two, at least 4096; it need not be the one that the device logs with.
    """

    def __init__(self, iova: int, length: int, page_size: int, space: AddressSpace, address: int) -> None:
        self.iova = iova
        self.length = length
        self.page_size = page_size
        self._space = space
        self._window = _Window(self, space, address)
        self._size = 0
        self._records: list[tuple[int, int, int]] = []
        self._planes: list[tuple[int, bytes | bytearray]] = []

    @property
    def loaded(self) -> bool:
        """So much has gathered that a model had better `deliver` it before it goes on."""
        return self._size >= _LOAD

    def set(self, iova: int, length: int) -> None:
        """[iova, iova+length) is dirty: every bit that it touches is set (iova_bitmap_set()); none if it is empty."""
        self.set_each(iova, length, 0)

    def set_each(self, iova: int, length: int, unit: int) -> None:
        """As many `set` as there are units of `unit` bytes in [iova, iova+length), the first and last maybe in part.

        It differs from one `set` where a page of the caller's bitmap is missing: that ends a record, but not the next.
        """
        if length:  # the kernel's arithmetic makes nearly 2^64 bytes of none
            self._records.append((iova, length, unit))
            self._size += _RECORD

    def merge(self, offset: int, bits: bytes | bytearray) -> None:
        """Many bits at once: `bits` belong at byte `offset` of the bitmap. Not copied: leave them alone."""
        self._planes.append((offset, bits))
        self._size += len(bits)

    def deliver(self) -> Steps[None]:
        """OR what has gathered into the caller's memory, as far as it is there and writable."""
        records, self._records = self._records, []
        planes, self._planes = self._planes, []
        self._size = 0
        if not records and not planes:
            return
        window = self._window
        lock = _report_locks.setdefault(self._space, Lock("DMA logging reports of one process"))
        yield from locked(lock)
        try:
            for iova, length, unit in records:
                if unit:
                    yield from window.set_each(iova, length, unit)
                else:
                    yield from window.set(iova, length)
            for offset, bits in planes:
                yield from window.merge(offset, bits)
            yield from window.unpin()
        finally:
            lock.release()


class _Window:
    """The part of the caller's bitmap that is pinned now (struct iova_bitmap), and the bits that go there."""

    def __init__(self, sink: DirtySink, space: AddressSpace, address: int) -> None:
        self._base = sink.iova
        self._length = sink.length
        self._shift = sink.page_size.bit_length() - 1
        self._total = (((sink.length - 1) & U64_MAX) >> (self._shift + 3)) + 1
        self._space = space
        self._address = address
        self._hole = -1
        self._npages = 0
        self._start = 0
        self._iova = 0
        self._span = 0
        self._pgoff = 0
        self._delta = bytearray()

    def set_each(self, iova: int, length: int, unit: int) -> Steps[None]:
        """Set a record for each unit: where one ends at a missing page, begin again with the first behind that page."""
        end = iova + length
        for _ in range(_HOLES_MAX):
            missing = yield from self.set(iova, end - iova)
            if missing is None:
                return
            index = ((missing - self._base) & U64_MAX) >> (self._shift + 3)
            behind = index + PAGE_SIZE - (self._address + index) % PAGE_SIZE
            iova = self._base + (behind << (self._shift + 3))
            iova += -iova % unit
            if behind >= self._total or iova >= end:
                return

    def set(self, iova: int, length: int) -> Steps[int | None]:
        """iova_bitmap_set(), in its arithmetic of 64-bit words that wrap; where it had to stop, or None.

        Behind the window it goes on at the first bit that is not in it. The kernel goes on where as many whole bits are
        left: in the middle of the bit before, unless the record ends with a bit. Where the page behind the window is
        missing it then pins the last one that is there again, and again, for ever.
        """
        end = iova + length - 1
        pinned = self._covers(iova, length)
        while pinned or (yield from self._advance_to(iova)):
            bits = self._npages * PAGE_SIZE * 8
            first = (((iova - self._iova) & U64_MAX) >> self._shift) + self._pgoff * 8
            last = (((end - self._iova) & U64_MAX) >> self._shift) + self._pgoff * 8
            set_bits(self._delta, first, min(last, bits - 1))
            if last < bits:
                return None
            iova = (self._iova + ((bits - self._pgoff * 8) << self._shift)) & U64_MAX
            pinned = False
        return iova

    def merge(self, offset: int, bits: bytes | bytearray) -> Steps[None]:
        """Set the bits of a plane, page by page of the caller's memory; a page that is missing loses its bits."""
        for at, piece in _dirty_pieces((self._address + offset) % PAGE_SIZE, bits):
            index = offset + at
            if index >= self._total:
                return
            if not self._pinned(index) and not (yield from self._pin(index)):
                continue
            where = self._address + index - self._start
            end = where + len(piece)
            old = int.from_bytes(self._delta[where:end], "little")
            self._delta[where:end] = (old | int.from_bytes(piece, "little")).to_bytes(len(piece), "little")

    def flush(self) -> Steps[None]:
        """OR what has gathered into memory: one read and one write for each page that has a bit."""
        delta, self._delta = self._delta, bytearray()
        for at, piece in _dirty_pieces(0, delta):
            try:
                old = yield from read_user(self._start + at, len(piece))
                new = int.from_bytes(old, "little") | int.from_bytes(piece, "little")
                yield from write_user(self._start + at, new.to_bytes(len(piece), "little"))
            except IoctlError as error:
                if error.errno != errno.EFAULT:
                    raise

    def unpin(self) -> Steps[None]:
        """Be done with what is pinned: what comes later pins it again."""
        yield from self.flush()
        self._npages = 0

    def _covers(self, iova: int, length: int) -> bool:
        """iova_bitmap_mapped_range()."""
        if not self._npages:
            return False
        return iova >= self._iova and (iova + length - 1) & U64_MAX <= (self._iova + self._span - 1) & U64_MAX

    def _pinned(self, index: int) -> bool:
        """Tell whether byte `index` of the bitmap is in the window."""
        return self._start <= self._address + index < self._start + self._npages * PAGE_SIZE

    def _advance_to(self, iova: int) -> Steps[bool]:
        """iova_bitmap_advance_to(): False when `iova` is outside, or the page of its bit cannot be had."""
        index = ((iova - self._base) & U64_MAX) >> (self._shift + 3)
        if index >= self._total:
            return False
        return (yield from self._pin(index))

    def _pin(self, index: int) -> Steps[bool]:
        """iova_bitmap_get(): pin what is there from byte `index` of the bitmap on, up to 512 pages."""
        yield from self.unpin()
        address = (self._address + index) & U64_MAX
        page = address - address % PAGE_SIZE
        if page == self._hole:
            return False
        npages = -(-(self._total - index) // PAGE_SIZE) + (address % PAGE_SIZE != 0)
        npages = min(npages, _WINDOW_PAGES)
        if not access_ok(page, npages * PAGE_SIZE):
            return False
        present: int = yield PinUser(self._space, page, npages, write=True)
        if present <= 0:
            self._hole = page
            return False
        self._npages = present
        self._start = page
        self._pgoff = address % PAGE_SIZE
        self._iova = (self._base + (index << (self._shift + 3))) & U64_MAX
        remaining = min(self._total - index, present * PAGE_SIZE - self._pgoff) << (self._shift + 3)
        end = (self._base + self._length - 1) & U64_MAX
        last = (self._iova + remaining - 1) & U64_MAX
        self._span = remaining - (last - end) if last > end else remaining
        self._delta = bytearray(present * PAGE_SIZE)
        return True


_ZERO: Final = bytes(PAGE_SIZE)


def _dirty_pieces(phase: int, bits: bytes | bytearray) -> Iterator[tuple[int, bytes]]:
    """Cut at page boundaries and drop zeros at both ends of each page; `phase` is where in its page `bits` begin."""
    at = 0
    view = memoryview(bits)
    while at < len(bits):
        size = min(PAGE_SIZE - (phase + at) % PAGE_SIZE, len(bits) - at)
        if view[at : at + size] != _ZERO[:size]:
            piece = bytes(view[at : at + size])
            rest = piece.lstrip(b"\0")
            yield at + size - len(rest), rest.rstrip(b"\0")
        at += size
