# SPDX-License-Identifier: MIT
"""Examine guest pages for a migration: find those that are all zero, and make a checksum of each.

Memory may change meanwhile. Then the result is that of a mixture of old and new, and the page is dirty anyway.
"""

from array import array
from typing import Final

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import Buffer, Isa, buffer_runs, isa_number

PAGE_SIZE: Final = 4096


def zero_bitmap(
    memory: Buffer,
    first: int = 0,
    count: int | None = None,
    *,
    page_size: int = PAGE_SIZE,
    isa: Isa | None = None,
) -> bytearray:
    """Return a bitmap, in whole words, of the pages that are all zero; bit 0 is page `first`.

    Args:
        memory: contiguous; page 0 is at its beginning.
        first: the first page to look at.
        count: number of pages; by default all that follow.
        page_size: in bytes, a multiple of 64.
        isa: as for a DirtyBitmap.
    """
    count = _check(memory, first, count, page_size, 64)
    out = bytearray((count + 63) // 64 * 8)
    target = ffi.from_buffer(out, require_writable=True)
    lib.vfe_zero_pages(ffi.from_buffer(memory), page_size, first, count, target, isa_number(isa))
    return out


def zero_runs(
    memory: Buffer, first: int = 0, count: int | None = None, *, page_size: int = PAGE_SIZE
) -> list[tuple[int, int]]:
    """Return the runs of all-zero pages as (page, count), ascending; arguments as for zero_bitmap()."""
    count = _check(memory, first, count, page_size, 64)
    bits = zero_bitmap(memory, first, count, page_size=page_size)
    return [(first + page, length) for page, length in buffer_runs(bits, count)]


def page_sums(
    memory: Buffer, first: int = 0, count: int | None = None, *, page_size: int = PAGE_SIZE
) -> "array[int]":
    """Return a 64-bit checksum (XXH64, seed 0) of each page; it is fast, and no defence against malice.

    Args:
        memory: contiguous; page 0 is at its beginning.
        first: the first page.
        count: number of pages; by default all that follow.
        page_size: in bytes, a multiple of 32.
    """
    count = _check(memory, first, count, page_size, 32)
    sums = array("Q", bytes(8 * count))
    if count:
        lib.vfe_page_sums(
            ffi.from_buffer(memory), page_size, first, count, ffi.from_buffer("uint64_t[]", sums)
        )
    return sums


def _check(memory: Buffer, first: int, count: int | None, page_size: int, unit: int) -> int:
    if page_size <= 0 or page_size % unit:
        raise ValueError(f"page size {page_size} is not a positive multiple of {unit}")
    npages = memoryview(memory).nbytes // page_size
    if count is None:
        count = npages - first
    if first < 0 or count < 0 or first + count > npages:
        raise IndexError(f"pages {first}+{count} are outside the memory of {npages} pages")
    return count
