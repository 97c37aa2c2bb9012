# SPDX-License-Identifier: MIT
"""The C kernel once more, slow and obvious: what the fast one is held against (tests/native).

A bitmap is one Python integer, as the kernel's is one array of words: a shift shifts, an OR ors, and the residue needs
no explanation because nothing takes it away. Memory of a mapping is a slice of a bytearray.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vfioemu.native.dma import DmaBatch, Op, Status
from vfioemu.native.index import PROT_READ, PROT_WRITE

_U64: Final = (1 << 64) - 1


def ones(count: int) -> int:
    """A bitmap of `count` ones."""
    return (1 << count) - 1


def runs_of(bits: int) -> list[tuple[int, int]]:
    """The runs of ones as (first, count), ascending."""
    lowest_first = bin(bits)[:1:-1]
    return [(run.start(), len(run.group())) for run in re.finditer("1+", lowest_first)]


class DirtyBitmap:
    """vfioemu.native.bitmap.DirtyBitmap, as the kernel's vfio_iommu_type1.c has it."""

    def __init__(self, nbits: int) -> None:
        self.size = nbits
        self.bits = 0

    def nbits(self) -> int:
        """How many pages."""
        return self.size

    @property
    def nbytes(self) -> int:
        """DIRTY_BITMAP_BYTES(nbits) + sizeof(u64): vfio_dma_bitmap_alloc()."""
        return (self.size + 63) // 64 * 8 + 8

    def mark(self, page: int) -> None:
        """Set a bit."""
        self.bits |= 1 << page

    def mark_range(self, first: int, count: int) -> None:
        """bitmap_set()."""
        self.bits |= ones(count) << first

    def populate(self, pages: Iterable[int]) -> None:
        """vfio_dma_populate_bitmap()."""
        for page in pages:
            self.mark(page)

    def fill(self) -> None:
        """bitmap_set() of all."""
        self.mark_range(0, self.size)

    def clear(self) -> None:
        """Nothing is left."""
        self.bits = 0

    def test(self, page: int) -> bool:
        """One bit."""
        return bool(self.bits >> page & 1)

    def merge(
        self, data: bytes | bytearray, first: int = 0, count: int | None = None, src_bit: int = 0
    ) -> None:
        """OR bits from elsewhere."""
        if count is None:
            count = self.size - first
        self.bits |= (int.from_bytes(data, "little") >> src_bit & ones(count)) << first

    def clear_bits(
        self, data: bytes | bytearray, first: int = 0, count: int | None = None, src_bit: int = 0
    ) -> bool:
        """bitmap_clear() for each run of ones in bits from elsewhere."""
        if count is None:
            count = self.size - first
        clear = int.from_bytes(data, "little") >> src_bit & ones(count)
        self.bits &= ~(clear << first)
        return clear != 0

    def pages(self) -> int:
        """The bits that stand for pages, without the residue."""
        return self.bits & ones(self.size)

    def first_marked(self, page: int) -> int:
        """The lowest bit from there on."""
        bits = self.pages() >> page
        return page + (bits & -bits).bit_length() - 1 if bits else self.size

    def count(self) -> int:
        """How many pages."""
        return self.pages().bit_count()

    def runs(self, limit: int | None = None) -> list[tuple[int, int]]:
        """Runs of pages."""
        return runs_of(self.pages())[:limit]

    def take_runs(self) -> list[tuple[int, int]]:
        """Runs of pages, cleared."""
        runs = self.runs()
        self.bits &= ~ones(self.size)
        return runs

    def harvest_size(self, shift: int = 0) -> int:
        """Bytes of whole words."""
        return (self.size + shift + 63) // 64 * 8

    def harvest(self, out: bytearray, shift: int = 0, lead: int = 0) -> None:
        """update_user_bitmap() and the bitmap_clear() after it.

        bitmap_shift_left() works on whole words and masks none of them; words past those are as they were.
        """
        self.shift(shift)
        if shift:
            self.bits |= lead
        size = self.harvest_size(shift)
        out[:size] = (self.bits & ones(size * 8)).to_bytes(size, "little")
        self.bits &= ~ones(self.size)

    def harvest_clean(self, out: bytearray, shift: int = 0, lead: int = 0) -> None:
        """The same without residue: none goes out, none is left."""
        self.bits = self.pages()
        self.harvest(out, shift, lead)
        self.bits = 0

    def restore_shifted(self, out: bytes | bytearray) -> None:
        """The copy-out failed before bitmap_clear()."""
        self.bits |= int.from_bytes(out, "little")

    def unshift(self, out: bytes | bytearray, shift: int) -> None:
        """bitmap_shift_right(bitmap, bitmap, shift, nbits + shift) in place of bitmap_clear()."""
        self.restore_shifted(out)
        words = ones(len(out) * 8)
        self.bits = self.bits & ~words | (self.bits & ones(self.size + shift)) >> shift

    def restore(self, out: bytes | bytearray, shift: int = 0) -> None:
        """The pages of a harvest that did not arrive."""
        self.merge(out, 0, self.size, shift)

    def shift(self, shift: int) -> None:
        """bitmap_shift_left(bitmap, bitmap, shift, nbits + shift)."""
        words = ones(self.harvest_size(shift) * 8)
        self.bits = self.bits & ~words | self.bits << shift & words

    def harvest_or(self, out: bytearray, first: int = 0, count: int | None = None, dst_bit: int = 0) -> None:
        """Bit by bit."""
        self.harvest_scaled(out, first, count, up=0, dst_bit=dst_bit)

    def peek(self, out: bytearray, first: int = 0, count: int | None = None, dst_bit: int = 0) -> None:
        """The same, and the bits stay."""
        bits = self.bits
        self.harvest_or(out, first, count, dst_bit)
        self.bits = bits

    def harvest_scaled(
        self, out: bytearray, first: int = 0, count: int | None = None, *, up: int, dst_bit: int = 0
    ) -> None:
        """Page by page."""
        if count is None:
            count = self.size - first
        merged = int.from_bytes(out, "little")
        for start, length in runs_of(self.bits >> first & ones(count)):
            for page in range(first + start, first + start + length):
                if up >= 0:
                    merged |= 1 << dst_bit + (page >> up) - (first >> up)
                else:
                    merged |= ones(1 << -up) << dst_bit + (page - first << -up)
        out[:] = merged.to_bytes(len(out), "little")
        self.bits &= ~(ones(count) << first)


@dataclass
class Mapping:
    """An entry of the index; `memory` is what is mapped there, or None."""

    iova: int
    size: int
    prot: int
    memory: memoryview | None
    bitmap: DirtyBitmap | None


class DirtyLog:
    """vfioemu.native.log.DirtyLog."""

    def __init__(self, pgshift: int, ranges: Sequence[tuple[int, int]]) -> None:
        self.pgshift = pgshift
        page = 1 << pgshift
        self.ranges = [(iova, size, DirtyBitmap(-(-size // page))) for iova, size in sorted(ranges)]

    def mark(self, iova: int, size: int) -> None:
        """Byte ranges to pages of each range."""
        for start, length, bitmap in self.ranges:
            first, last = max(iova, start) - start, min(iova + size, start + length) - 1 - start
            for page in range(first >> self.pgshift, (last >> self.pgshift) + 1) if first <= last else ():
                bitmap.mark(page)


class IovaIndex:
    """vfioemu.native.index.IovaIndex."""

    def __init__(self, pgshift: int = 12) -> None:
        self.pgshift = pgshift
        self.mappings: list[Mapping] = []

    def insert(
        self, iova: int, size: int, prot: int, memory: memoryview | None, bitmap: DirtyBitmap | None
    ) -> None:
        """ValueError on overlap."""
        for other in self.mappings:
            if iova < other.iova + other.size and other.iova < iova + size:
                raise ValueError(f"{iova:#x}+{size:#x} overlaps")
        self.mappings.append(Mapping(iova, size, prot, memory, bitmap))

    def at(self, iova: int) -> Mapping:
        """The mapping that starts at iova; KeyError."""
        for mapping in self.mappings:
            if mapping.iova == iova:
                return mapping
        raise KeyError(iova)

    def remove(self, iova: int) -> None:
        """KeyError without one."""
        self.mappings.remove(self.at(iova))

    def find(self, iova: int) -> Mapping | None:
        """The mapping that contains iova."""
        for mapping in self.mappings:
            if mapping.iova <= iova < mapping.iova + mapping.size:
                return mapping
        return None

    def dma(self, batch: DmaBatch, log: DirtyLog | None = None) -> int:
        """One descriptor after another."""
        done = 0
        for number in range(len(batch)):
            status = self._dma_one(batch, number, log)
            batch.set_status(number, status)
            done += status == Status.DONE
        return done

    def _dma_one(self, batch: DmaBatch, number: int, log: DirtyLog | None) -> Status:
        iova, size, local, op, _ = batch[number]
        buffer = memoryview(batch.local)
        if op not in list(Op) or local + size > len(buffer):
            return Status.BAD
        mapping = self.find(iova)
        if mapping is None or mapping.memory is None or not size:
            return Status.SLOW
        if iova + size > mapping.iova + mapping.size:
            return Status.SLOW
        if not mapping.prot & PROT_READ and op != Op.HARDWARE_WRITE:
            return Status.SLOW  # vfio_dma_rw() wants to read where it writes
        if not mapping.prot & PROT_WRITE and op != Op.READ:
            return Status.SLOW
        offset = iova - mapping.iova
        if op == Op.READ:
            buffer[local : local + size] = mapping.memory[offset : offset + size]
            return Status.DONE
        mapping.memory[offset : offset + size] = buffer[local : local + size]
        if mapping.bitmap is not None and op == Op.WRITE:
            for page in range(offset >> self.pgshift, (offset + size - 1 >> self.pgshift) + 1):
                mapping.bitmap.mark(page)
        if log is not None and op != Op.HIDDEN_WRITE:
            log.mark(iova, size)
        return Status.DONE


_PRIMES: Final = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)


def _rotate(value: int, left: int) -> int:
    return (value << left | value >> 64 - left) & _U64


def _mix(lane: int, word: int) -> int:
    return _rotate((lane + word * _PRIMES[1]) & _U64, 31) * _PRIMES[0] & _U64


def xxh64(data: bytes | bytearray, seed: int = 0) -> int:
    """XXH64 as its specification has it, for any length."""
    p1, p2, p3, p4, p5 = _PRIMES
    at, total = 0, seed + p5
    if len(data) >= 32:
        lanes = [(seed + start) & _U64 for start in (p1 + p2, p2, 0, -p1)]
        while len(data) - at >= 32:
            for lane in range(4):
                lanes[lane] = _mix(lanes[lane], int.from_bytes(data[at : at + 8], "little"))
                at += 8
        total = sum(_rotate(lane, turn) for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            total = ((total ^ _mix(0, lane)) * p1 + p4) & _U64
    total = (total + len(data)) & _U64
    while len(data) - at >= 8:
        total = (_rotate(total ^ _mix(0, int.from_bytes(data[at : at + 8], "little")), 27) * p1 + p4) & _U64
        at += 8
    if len(data) - at >= 4:
        word = int.from_bytes(data[at : at + 4], "little")
        total = (_rotate(total ^ word * p1 & _U64, 23) * p2 + p3) & _U64
        at += 4
    for byte in data[at:]:
        total = _rotate(total ^ byte * p5 & _U64, 11) * p1 & _U64
    total = (total ^ total >> 33) * p2 & _U64
    total = (total ^ total >> 29) * p3 & _U64
    return total ^ total >> 32
