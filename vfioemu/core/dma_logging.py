# SPDX-License-Identifier: MIT
"""Device DMA logging: the checks of START, STOP and REPORT, and how a report reaches the caller's bitmap.

Kernel: vfio_ioctl_device_feature_logging_start(), _stop() and _report() in drivers/vfio/vfio_main.c, and
drivers/iommu/iommufd/iova_bitmap.c. The log itself is the model's (`DeviceModel.log_start`, `log_stop`, `log_report`).

A REPORT ORs into the caller's memory: bits are only ever set, and bytes for which nothing is dirty are not touched.
**What cannot be written is lost without an error**, as in the kernel: the device's log is clear by then.
"""

import errno
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vfioemu.core.bits import set_bits
from vfioemu.core.caller import AddressSpace, Caller
from vfioemu.core.effects import PinUser, Steps, locked, read_user, write_user
from vfioemu.core.errors import IoctlError
from vfioemu.core.locks import Lock
from vfioemu.core.model import PAGE, finish
from vfioemu.core.userrange import is_user_range
from vfioemu.uapi.structs import (
    DeviceFeatureDmaLoggingControl,
    DeviceFeatureDmaLoggingRange,
    DeviceFeatureDmaLoggingReport,
)

if TYPE_CHECKING:
    from vfioemu.core.device import Device

LOG_MAX_RANGES: Final = PAGE // DeviceFeatureDmaLoggingRange.SIZE
_U64: Final = (1 << 64) - 1
_WINDOW_PAGES: Final = PAGE // 8
"""How many pages of the bitmap the kernel pins at a time: as many page pointers as one page holds."""
_HOLES_MAX: Final = 1024
"""How many missing pages of the bitmap one call of `set_each` looks behind: 128 GiB of what is logged, or more."""

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


def start(device: "Device", arg: int) -> Steps[None]:
    """DMA_LOGGING_START, after the checks that all features share.

    Raises:
        IoctlError: EFAULT, EINVAL, E2BIG (over 256 ranges), EOVERFLOW (also for an end of exactly 2^64), the model's.
    """
    control = DeviceFeatureDmaLoggingControl.parse(
        (yield from read_user(arg, DeviceFeatureDmaLoggingControl.SIZE))
    )
    if control.num_ranges == 0:
        raise IoctlError(errno.EINVAL, "num_ranges is 0")
    if control.num_ranges > LOG_MAX_RANGES:
        raise IoctlError(errno.E2BIG, f"num_ranges {control.num_ranges} > {LOG_MAX_RANGES}")
    ranges: list[LogRange] = []
    for i in range(control.num_ranges):
        at = (control.ranges + i * DeviceFeatureDmaLoggingRange.SIZE) & _U64
        asked = DeviceFeatureDmaLoggingRange.parse(
            (yield from read_user(at, DeviceFeatureDmaLoggingRange.SIZE))
        )
        ranges.append(_check_range(asked, control.page_size, ranges))
    ranges.sort(key=lambda range_: range_.start)
    yield from locked(device.lock)
    try:
        page_size = yield from device.between_activities(_begin(device, control.page_size, ranges))
        answer = replace(control, page_size=page_size)
        try:
            yield from write_user(arg, answer.build())
        except IoctlError:
            yield from finish(device.model.log_stop())
            raise
    finally:
        device.lock.release()


def _begin(device: "Device", page_size: int, ranges: list[LogRange]) -> Steps[int]:
    """A transfer that is under way does not know of a log that begins: what it writes from now on would be lost."""
    return (yield from finish(device.model.log_start(page_size, ranges)))


def _check_range(asked: DeviceFeatureDmaLoggingRange, page_size: int, earlier: list[LogRange]) -> LogRange:
    """One range: aligned to the *requested* page size by mask, whatever that is; no wrap; no overlap."""
    mask = (page_size - 1) & _U64
    if asked.iova & mask or asked.length & mask:
        which = f"iova {asked.iova:#x}" if asked.iova & mask else f"length {asked.length:#x}"
        raise IoctlError(errno.EINVAL, f"{which} is not a multiple of page_size {page_size:#x}")
    if asked.iova + asked.length > _U64:
        raise IoctlError(errno.EOVERFLOW, f"iova {asked.iova:#x} + length {asked.length:#x} passes 2^64 - 1")
    range_ = LogRange(asked.iova, (asked.iova + asked.length - 1) & _U64)
    for other in earlier:
        if range_.overlaps(other):
            raise IoctlError(
                errno.EINVAL, f"ranges: iova {asked.iova:#x} overlaps the one at {other.start:#x}"
            )
    return range_


def report(device: "Device", caller: Caller, arg: int) -> Steps[None]:
    """DMA_LOGGING_REPORT, after the checks that all features share.

    Raises:
        IoctlError: EFAULT (the argument, never the bitmap), EINVAL, EOVERFLOW, the model's.
    """
    asked = DeviceFeatureDmaLoggingReport.parse(
        (yield from read_user(arg, DeviceFeatureDmaLoggingReport.SIZE))
    )
    if asked.page_size < PAGE or asked.page_size & (asked.page_size - 1):
        what = f"is less than {PAGE:#x}" if asked.page_size < PAGE else "is not a power of two"
        raise IoctlError(errno.EINVAL, f"page_size {asked.page_size:#x} {what}")
    if asked.iova + asked.length > _U64:
        raise IoctlError(errno.EOVERFLOW, f"iova {asked.iova:#x} + length {asked.length:#x} passes 2^64 - 1")
    sink = DirtySink(asked.iova, asked.length, asked.page_size, caller.space, asked.bitmap)
    yield from locked(device.lock)
    try:
        yield from finish(device.model.log_report(asked.iova, asked.length, sink))
    finally:
        device.lock.release()
    yield from sink.deliver()


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
        self._total = (((sink.length - 1) & _U64) >> (self._shift + 3)) + 1
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
        """A record for each unit: where one ends at a missing page, begin again with the first behind that page."""
        end = iova + length
        for _ in range(_HOLES_MAX):
            missing = yield from self.set(iova, end - iova)
            if missing is None:
                return
            index = ((missing - self._base) & _U64) >> (self._shift + 3)
            behind = index + PAGE - (self._address + index) % PAGE
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
            bits = self._npages * PAGE * 8
            first = (((iova - self._iova) & _U64) >> self._shift) + self._pgoff * 8
            last = (((end - self._iova) & _U64) >> self._shift) + self._pgoff * 8
            set_bits(self._delta, first, min(last, bits - 1))
            if last < bits:
                return None
            iova = (self._iova + ((bits - self._pgoff * 8) << self._shift)) & _U64
            pinned = False
        return iova

    def merge(self, offset: int, bits: bytes | bytearray) -> Steps[None]:
        """Set the bits of a plane, page by page of the caller's memory; a page that is missing loses its bits."""
        for at, piece in _dirty_pieces((self._address + offset) % PAGE, bits):
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
        return iova >= self._iova and (iova + length - 1) & _U64 <= (self._iova + self._span - 1) & _U64

    def _pinned(self, index: int) -> bool:
        """Whether byte `index` of the bitmap is in the window."""
        return self._start <= self._address + index < self._start + self._npages * PAGE

    def _advance_to(self, iova: int) -> Steps[bool]:
        """iova_bitmap_advance_to(): False when `iova` is outside, or the page of its bit cannot be had."""
        index = ((iova - self._base) & _U64) >> (self._shift + 3)
        if index >= self._total:
            return False
        return (yield from self._pin(index))

    def _pin(self, index: int) -> Steps[bool]:
        """iova_bitmap_get(): pin what is there from byte `index` of the bitmap on, up to 512 pages."""
        yield from self.unpin()
        address = (self._address + index) & _U64
        page = address - address % PAGE
        if page == self._hole:
            return False
        npages = -(-(self._total - index) // PAGE) + (address % PAGE != 0)
        npages = min(npages, _WINDOW_PAGES)
        if not is_user_range(page, npages * PAGE):
            return False
        present: int = yield PinUser(self._space, page, npages, write=True)
        if present <= 0:
            self._hole = page
            return False
        self._npages = present
        self._start = page
        self._pgoff = address % PAGE
        self._iova = (self._base + (index << (self._shift + 3))) & _U64
        remaining = min(self._total - index, present * PAGE - self._pgoff) << (self._shift + 3)
        end = (self._base + self._length - 1) & _U64
        last = (self._iova + remaining - 1) & _U64
        self._span = remaining - (last - end) if last > end else remaining
        self._delta = bytearray(present * PAGE)
        return True


_ZERO: Final = bytes(PAGE)


def _dirty_pieces(phase: int, bits: bytes | bytearray) -> Iterator[tuple[int, bytes]]:
    """Cut at page boundaries and drop zeros at both ends of each page; `phase` is where in its page `bits` begin."""
    at = 0
    view = memoryview(bits)
    while at < len(bits):
        size = min(PAGE - (phase + at) % PAGE, len(bits) - at)
        if view[at : at + size] != _ZERO[:size]:
            piece = bytes(view[at : at + size])
            rest = piece.lstrip(b"\0")
            yield at + size - len(rest), rest.rstrip(b"\0")
        at += size
