# SPDX-License-Identifier: MIT
"""Bitmaps as ranges, against the obvious way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.client.dirty import bitmap_size, ranges

PIECES = st.lists(
    st.tuples(st.sampled_from([b"\0", b"\xff", b"\x01", b"\x80", b"\x7e", b"\xaa"]), st.integers(1, 12)),
    max_size=6,
)


def naive(bitmap, nbits):
    found = []
    for bit in range(nbits):
        if bitmap[bit // 8] >> bit % 8 & 1:
            if found and sum(found[-1]) == bit:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((bit, 1))
    return found


@given(PIECES, st.integers(0, 70), st.integers(0, 4095))
def test_ranges_are_those_of_the_naive_walk(pieces, short, part):
    bitmap = b"".join(byte * count for byte, count in pieces)
    nbits = max(len(bitmap) * 8 - short, 0)
    size = max(nbits * 4096 - part, 0)
    assert ranges(bitmap, 1 << 32, size) == [
        ((1 << 32) + first * 4096, min(count * 4096, size - first * 4096))
        for first, count in naive(bitmap, nbits)
    ]


def test_ranges_stop_where_asked():
    assert ranges(b"\xff" * 8, 0x10000, 3 * 4096 + 100) == [(0x10000, 3 * 4096 + 100)]
    assert ranges(b"\x05", 0, 4096 * 8) == [(0, 4096), (8192, 4096)]
    assert ranges(b"\x03", 1 << 40, 2 << 21, 1 << 21) == [(1 << 40, 2 << 21)]
    assert ranges(b"", 0, 0) == []
    assert ranges(b"\x80", 0, 4096 * 64) == [(7 * 4096, 4096)]


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 8), (4096 * 64, 8), (4096 * 64 + 1, 16)])
def test_bitmap_size_is_whole_words(size, expected):
    assert bitmap_size(size, 4096) == expected
