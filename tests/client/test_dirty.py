# SPDX-License-Identifier: MIT
"""Bitmaps as ranges, against the obvious way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.client.dirty import bitmap_size, ranges, runs

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


@given(PIECES, st.integers(0, 70))
def test_runs_are_those_of_the_naive_walk(pieces, short):
    bitmap = b"".join(byte * count for byte, count in pieces)
    nbits = max(len(bitmap) * 8 - short, 0)
    assert list(runs(bitmap, nbits)) == naive(bitmap, nbits)


@given(PIECES)
def test_long_runs_are_skipped_by_blocks(pieces):
    bitmap = b"".join(byte * count for byte, count in pieces)
    head, tail = bytes(9000), b"\xff" * 9001
    expected = naive(bitmap + b"\xff", len(bitmap) * 8 + 8)
    last = expected.pop()
    expected.append((last[0], last[1] + 9000 * 8))
    found = [(first - 72000, count) for first, count in runs(head + bitmap + tail, (18001 + len(bitmap)) * 8)]
    assert found == expected


def test_ranges_stop_where_asked():
    assert ranges(b"\xff" * 8, 0x10000, 3 * 4096 + 100) == [(0x10000, 3 * 4096 + 100)]
    assert ranges(b"\x05", 0, 4096 * 8) == [(0, 4096), (8192, 4096)]
    assert ranges(b"\x03", 1 << 40, 2 << 21, 1 << 21) == [(1 << 40, 2 << 21)]
    assert ranges(b"", 0, 0) == []


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 8), (4096 * 64, 8), (4096 * 64 + 1, 16)])
def test_bitmap_size_is_whole_words(size, expected):
    assert bitmap_size(size, 4096) == expected
