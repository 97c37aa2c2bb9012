# SPDX-License-Identifier: MIT
"""Dirty bitmaps as people read them: how many pages, and which."""

import itertools
import re
from collections.abc import Iterator

from vfioemu.trace.image import Bytes

_SET = re.compile(rb"\xff+|[^\0\xff]{1,64}")
"""What is worth a look: full bytes, however many, and some others. A long number would be shifted again and again."""


def runs(bits: Bytes) -> Iterator[tuple[int, int]]:
    """(first bit, how many) of each run of set bits, ascending; the empty stretches cost next to nothing."""
    start = end = -1
    for match in _SET.finditer(bits):
        base = match.start() * 8
        if match.group()[0] == 0xFF:
            ones = (match.end() - match.start()) * 8
            if base == end:
                end += ones
            else:
                if end > start:
                    yield start, end - start
                start, end = base, base + ones
            continue
        word = int.from_bytes(match.group(), "little")
        while word:
            skip = (word & -word).bit_length() - 1
            word >>= skip
            base += skip
            ones = (~word & (word + 1)).bit_length() - 1
            word >>= ones
            if base == end:
                end = base + ones
            else:
                if end > start:
                    yield start, end - start
                start, end = base, base + ones
            base += ones
    if end > start:
        yield start, end - start


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
            [iova + first * pgsize, pages * pgsize] for first, pages in itertools.islice(runs(bits), limit)
        ],
    }
