# SPDX-License-Identifier: MIT
"""Summarize dirty bitmaps for people: the number of pages, and the ranges."""

from vfioemu.native.bitmap import buffer_runs
from vfioemu.trace.image import Bytes


def clipped(bits: Bytes, size: int) -> bytes:
    """Return the first `size` bits; the rest of the last byte is cleared, as it stands for no pages."""
    whole, rest = divmod(size, 8)
    kept = bytes(memoryview(bits)[: whole + bool(rest)])
    if rest and len(kept) > whole:
        kept = kept[:whole] + bytes([kept[whole] & ((1 << rest) - 1)])
    return kept


def summary(bits: Bytes, iova: int, pgsize: int, limit: int) -> dict[str, object]:
    """Return ``{"dirty": pages, "count": ranges, "ranges": [[iova, size], ...]}`` with at most `limit` ranges."""
    number = int.from_bytes(bits, "little")
    return {
        "dirty": number.bit_count(),
        "count": (number & ~(number << 1)).bit_count(),
        "ranges": [
            [iova + first * pgsize, pages * pgsize]
            for first, pages in buffer_runs(bits, len(bits) * 8, limit)
        ],
    }
