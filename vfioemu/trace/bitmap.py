# SPDX-License-Identifier: MIT
"""Dirty bitmaps as people read them: how many pages, and which."""

from vfioemu.native.bitmap import buffer_runs
from vfioemu.trace.image import Bytes


def clipped(bits: Bytes, size: int) -> bytes:
    """The first `size` bits; what lies beyond in the last byte is no page."""
    whole, rest = divmod(size, 8)
    kept = bytes(memoryview(bits)[: whole + bool(rest)])
    if rest and len(kept) > whole:
        kept = kept[:whole] + bytes([kept[whole] & ((1 << rest) - 1)])
    return kept


def summary(bits: Bytes, iova: int, pgsize: int, limit: int) -> dict[str, object]:
    """``{"dirty": pages, "count": ranges, "ranges": [[iova, size], ...]}``, with at most `limit` ranges."""
    number = int.from_bytes(bits, "little")
    return {
        "dirty": number.bit_count(),
        "count": (number & ~(number << 1)).bit_count(),
        "ranges": [
            [iova + first * pgsize, pages * pgsize]
            for first, pages in buffer_runs(bits, len(bits) * 8, limit)
        ],
    }
