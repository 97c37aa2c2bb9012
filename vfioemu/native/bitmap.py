# SPDX-License-Identifier: MIT
"""The dirty bitmap: one bit per page; any number of threads mark and harvest it at the same time.

csrc/vfe_bitmap.h describes how. tests/native/twin.py does the same in the plainest Python, and a property test compares both.
Two rules for callers: write the page first and mark it after, so that no harvest between them loses the write; and do not run
two harvests that keep residue on one bitmap at a time (type1 holds the container's lock for that).

Bits and words are those of the uAPI: page p is bit p % 64 of little-endian word p / 64.
"""

import os
from array import array
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias

from vfioemu._kernel import ffi, lib

if TYPE_CHECKING:
    from vfioemu._kernel import BitmapPtr, RunPtr, U64Ptr

Isa: TypeAlias = Literal["best", "portable", "avx2"]
Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_BITS: Final = 1 << 44
MAX_SCALE: Final = 24
MAX_LARGE: Final = 12288
"""Limit of large bitmaps. Each is a mapping of its own, and a process that has used up vm.max_map_count cannot go on.
Small bitmaps come from the heap."""
ISA_VARIABLE: Final = "VFIOEMU_ISA"

_ISAS: Final[dict[str, int]] = {
    "best": lib.VFE_ISA_BEST,
    "portable": lib.VFE_ISA_PORTABLE,
    "avx2": lib.VFE_ISA_AVX2,
}
_SMALL: Final = 1 << 14  # pages; with its summaries less than SMALL_BYTES of vfe_bitmap.c
_RUNS_AT_ONCE: Final = 1 << 14  # half a chunk's pages: what vfe_take_runs() asks for at least


def isa_number(isa: Isa | None) -> int:
    """Return the C number of the instruction set to use: `isa`, else the environment's, else the best.

    Raises:
        ValueError: unknown instruction set, or this CPU lacks it.
    """
    name = isa or os.environ.get(ISA_VARIABLE, "best")
    number = _ISAS.get(name)
    if number is None or not lib.vfe_isa_available(number):
        raise ValueError(f"instruction set {name!r} is unknown or not available on this CPU")
    return number


class DirtyBitmap:
    """A bitmap of `nbits` pages, all clean. Pages that were never marked cost no memory.

    Args:
        nbits: number of pages, 1 to 2^44.
        isa: instruction set; by default that of the environment variable VFIOEMU_ISA, else the best.

    Attributes:
        large: number of large bitmaps that exist.

    Raises:
        ValueError: nbits out of range, or no such instruction set.
        MemoryError: no address space left, or MAX_LARGE large bitmaps exist.
    """

    __slots__ = ("_bitmap", "_nbits")

    large: ClassVar[int] = 0

    def __init__(self, nbits: int, isa: Isa | None = None) -> None:
        if not 0 < nbits <= MAX_BITS:
            raise ValueError(f"nbits {nbits} is outside 1..2^44")
        large = nbits > _SMALL  # a mapping of its own; smaller ones are on the heap and not limited
        if large and DirtyBitmap.large >= MAX_LARGE:
            raise MemoryError(f"the limit of {MAX_LARGE} large dirty bitmaps is reached")
        bitmap = lib.vfe_bitmap_create(nbits, isa_number(isa))
        if not bitmap:
            raise MemoryError(f"no memory for a dirty bitmap of {nbits} pages")
        DirtyBitmap.large += large
        self._bitmap: BitmapPtr = ffi.gc(bitmap, _destroy_large if large else lib.vfe_bitmap_destroy)
        self._nbits = nbits

    def close(self) -> None:
        """Drop our reference; the memory is freed when no index or log refers to it any more."""
        # cffi refuses None as an argument, so a use after close() is a TypeError and no crash.
        self._bitmap = None  # type: ignore[assignment]

    @property
    def cdata(self) -> "BitmapPtr":
        """The `struct vfe_bitmap *`; it lives as long as somebody holds it."""
        return self._bitmap

    def nbits(self) -> int:
        """Return the number of pages."""
        return self._nbits

    @property
    def nbytes(self) -> int:
        """The size that the kernel would have allocated: DIRTY_BITMAP_BYTES() and a word to shift into."""
        return (self._nbits + 63) // 64 * 8 + 8

    def mark(self, page: int) -> None:
        """Mark a page that has been written."""
        self._check(page, 1)
        lib.vfe_mark(self._bitmap, page)

    def mark_range(self, first: int, count: int) -> None:
        """Mark `count` pages from `first`."""
        self._check(first, count)
        lib.vfe_mark_range(self._bitmap, first, count)

    def populate(self, pages: Iterable[int]) -> None:
        """Mark each of `pages` (the kernel's vfio_dma_populate_bitmap() with the pinned ones)."""
        numbers = pages if isinstance(pages, array) and pages.typecode == "Q" else array("Q", pages)
        if not numbers:
            return
        self._check(min(numbers), 1)
        self._check(max(numbers), 1)
        lib.vfe_mark_pages(self._bitmap, ffi.from_buffer("uint64_t[]", numbers), len(numbers))

    def fill(self) -> None:
        """Mark every page."""
        lib.vfe_mark_range(self._bitmap, 0, self._nbits)

    def clear(self) -> None:
        """Clear every mark, and the residue."""
        lib.vfe_clear(self._bitmap)

    def test(self, page: int) -> bool:
        """Return True if the page is marked."""
        self._check(page, 1)
        return lib.vfe_test(self._bitmap, page)

    def merge(self, data: Buffer, first: int = 0, count: int | None = None, src_bit: int = 0) -> None:
        """Mark the pages whose bits are set in `data`: bit src_bit + i stands for page first + i."""
        if count is None:
            count = self._nbits - first
        self._check(first, count)
        _check_room(data, src_bit, count)
        lib.vfe_merge(self._bitmap, first, count, ffi.from_buffer(data), src_bit)

    def clear_bits(self, data: Buffer, first: int = 0, count: int | None = None, src_bit: int = 0) -> bool:
        """Clear the pages whose bits are set in `data`, read as by merge(); return True if one of them was marked."""
        if count is None:
            count = self._nbits - first
        self._check(first, count)
        _check_room(data, src_bit, count)
        return lib.vfe_clear_bits(self._bitmap, first, count, ffi.from_buffer(data), src_bit)

    def first_marked(self, page: int) -> int:
        """Return the first marked page from `page` on, or nbits. Pages never marked are skipped without reading them."""
        cursor = ffi.new("uint64_t *", page)
        run = ffi.new("struct vfe_run *")
        found = lib.vfe_runs(self._bitmap, cursor, run, 1)
        return run.first if found else self._nbits

    def count(self) -> int:
        """Return the number of marked pages."""
        return lib.vfe_count(self._bitmap)

    def runs(self, limit: int | None = None) -> list[tuple[int, int]]:
        """Return the runs of marked pages as (first, count), ascending; at most `limit` of them."""
        return collect_runs(partial(lib.vfe_runs, self._bitmap), self._nbits, limit)

    def take_runs(self) -> list[tuple[int, int]]:
        """Clear all marks and return them as runs (first, count), ascending."""
        return collect_runs(partial(lib.vfe_take_runs, self._bitmap), self._nbits, None)

    def harvest_size(self, shift: int = 0) -> int:
        """Return the size in bytes that harvest() writes with this shift: whole words."""
        return (self._nbits + shift + 63) // 64 * 8

    def harvest(self, out: bytearray | memoryview, shift: int = 0, lead: int = 0) -> None:
        """Overwrite `out` with the bitmap shifted left, and clear the bitmap, as update_user_bitmap() does.

        Whole words are written; the bits past nbits in the top one are not masked. With a shift, `lead` (the user's first
        word) is ORed into the first word. Only pages are cleared: bits at or past nbits stay, and appear in later harvests.
        """
        self._harvest(out, shift, lead, residue=True)

    def harvest_clean(self, out: bytearray | memoryview, shift: int = 0, lead: int = 0) -> None:
        """Harvest without residue: none is written, none is kept."""
        self._harvest(out, shift, lead, residue=False)

    def _harvest(self, out: bytearray | memoryview, shift: int, lead: int, *, residue: bool) -> None:
        if not 0 <= shift < 64:
            raise ValueError(f"shift {shift} is outside 0..63")
        target = ffi.from_buffer(out, require_writable=True)
        if len(target) < self.harvest_size(shift):
            raise ValueError(f"buffer of {len(target)} bytes, the harvest has {self.harvest_size(shift)}")
        lib.vfe_harvest(self._bitmap, target, shift, lead, residue)

    def restore_shifted(self, out: Buffer) -> None:
        """Undo harvest() after its copy-out failed, as the kernel does: the words stay shifted, and include the lead."""
        if len(out) % 8 or len(out) > (self._nbits + 63 + 63) // 64 * 8 or len(out) * 8 < self._nbits:
            raise ValueError(f"{len(out)} bytes do not fit a harvest of {self._nbits} pages")
        lib.vfe_restore_shifted(self._bitmap, ffi.from_buffer(out), len(out) // 8)

    def unshift(self, out: Buffer, shift: int) -> None:
        """Undo harvest() by shifting back; bits of the lead over pages stay, residue in these words is dropped."""
        if not 0 < shift < 64 or len(out) != self.harvest_size(shift):
            raise ValueError(
                f"{len(out)} bytes do not fit a harvest of {self._nbits} pages with shift {shift}"
            )
        lib.vfe_unshift(self._bitmap, ffi.from_buffer(out), len(out) // 8, shift)

    def restore(self, out: Buffer, shift: int = 0) -> None:
        """Undo harvest_clean() after its copy-out failed: mark the pages of `out` again.

        Bits of the lead may mark pages that were clean; no dirty bit is lost.
        """
        self.merge(out, 0, self._nbits, shift)

    def shift(self, shift: int) -> None:
        """Shift in place, as the kernel has done when the user's first word cannot be read."""
        words = bytearray(self.harvest_size(shift))
        self.harvest(words, shift)
        self.restore_shifted(words)

    def harvest_or(
        self, out: bytearray | memoryview, first: int = 0, count: int | None = None, dst_bit: int = 0
    ) -> None:
        """OR `count` pages from `first` into the words of `out` from bit `dst_bit`, and clear them (LOGGING_REPORT)."""
        self._or_into(lib.vfe_harvest_or, out, first, count, dst_bit)

    def peek(
        self, out: bytearray | memoryview, first: int = 0, count: int | None = None, dst_bit: int = 0
    ) -> None:
        """OR pages into `out` as harvest_or() does, but clear nothing."""
        self._or_into(lib.vfe_peek, out, first, count, dst_bit)

    def _or_into(
        self,
        function: Callable[..., None],
        out: bytearray | memoryview,
        first: int,
        count: int | None,
        dst_bit: int,
    ) -> None:
        if count is None:
            count = self._nbits - first
        self._check(first, count)
        _check_room(out, dst_bit, count)
        function(self._bitmap, first, count, ffi.from_buffer(out, require_writable=True), dst_bit)

    @property
    def residue(self) -> tuple[int, int]:
        """The bits at and past nbits, as words nbits / 64 and the next: what harvest() keeps."""
        return self._bitmap.residue[0], self._bitmap.residue[1]

    @residue.setter
    def residue(self, words: tuple[int, int]) -> None:
        self._bitmap.residue[0], self._bitmap.residue[1] = words

    def harvest_scaled(
        self,
        out: bytearray | memoryview,
        first: int = 0,
        count: int | None = None,
        *,
        up: int,
        dst_bit: int = 0,
    ) -> None:
        """Harvest as harvest_or() does, into a bitmap of another page size.

        With up >= 0 a bit of `out` stands for 2^up of our pages, aligned from page 0: page p goes to bit
        dst_bit + (p >> up) - (first >> up). With up < 0 each page becomes 2^-up bits, from dst_bit on.
        """
        if count is None:
            count = self._nbits - first
        self._check(first, count)
        if not -MAX_SCALE <= up <= MAX_SCALE:
            raise ValueError(f"scale 2^{up} is outside 2^-{MAX_SCALE}..2^{MAX_SCALE}")
        if count:
            span = count << -up if up < 0 else (first + count - 1 >> up) - (first >> up) + 1
            _check_room(out, dst_bit, span)
        target = ffi.from_buffer(out, require_writable=True)
        lib.vfe_harvest_scaled(self._bitmap, first, count, target, dst_bit, up)

    def _check(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self._nbits:
            raise IndexError(f"pages {first}+{count} are outside the bitmap of {self._nbits} pages")


def buffer_runs(data: Buffer, nbits: int, limit: int | None = None) -> list[tuple[int, int]]:
    """Find the runs of ones in the first `nbits` bits of a bitmap that came from elsewhere.

    Args:
        data: the bitmap; copied unless it consists of whole 64-bit words, as bitmaps of the uAPI do.
        nbits: number of bits to look at.
        limit: greatest number of runs to return.

    Returns:
        (first, count) of each run, ascending.

    Raises:
        ValueError: `data` has fewer than `nbits` bits.
    """
    size = memoryview(data).nbytes
    if nbits > size * 8:
        raise ValueError(f"{nbits} bits do not fit in {size} bytes")
    if size % 8:
        data = bytes(data) + bytes(-size % 8)
    most = nbits // 2 + 1  # runs that nbits bits can have
    return collect_runs(
        partial(lib.vfe_buffer_runs, ffi.from_buffer(data), nbits),
        nbits,
        most if limit is None else min(limit, most),
    )


def _check_room(data: Buffer, bit: int, count: int) -> None:
    size = memoryview(data).nbytes
    if bit < 0 or bit + count > size // 8 * 64:
        raise ValueError(f"bits {bit}+{count} are outside a bitmap of {size} bytes (whole words)")


def collect_runs(
    call: "Callable[[U64Ptr, RunPtr, int], int]", nbits: int, limit: int | None
) -> list[tuple[int, int]]:
    """Call a C function that fills an array of runs until its cursor is at the end."""
    cursor = ffi.new("uint64_t *", 0)
    at_once = _RUNS_AT_ONCE if limit is None else min(_RUNS_AT_ONCE, limit)
    room = array("Q", bytes(16 * at_once))
    table = ffi.from_buffer("struct vfe_run[]", room)
    runs: list[tuple[int, int]] = []
    while cursor[0] < nbits and (limit is None or len(runs) < limit):
        most = at_once if limit is None else min(at_once, limit - len(runs))
        found = call(cursor, table, most)
        numbers = memoryview(room)[: 2 * found].tolist()
        if runs and found and sum(runs[-1]) == numbers[0]:
            first, count = runs.pop()
            numbers[:2] = [first, count + numbers[1]]
        runs.extend(zip(numbers[::2], numbers[1::2], strict=True))
    return runs


def _destroy_large(bitmap: "BitmapPtr") -> None:
    lib.vfe_bitmap_destroy(bitmap)
    DirtyBitmap.large -= 1
