# SPDX-License-Identifier: MIT
"""Zero pages and page checksums against their Python twins, and XXH64 against its published values."""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.native import twin
from vfioemu.native import pages


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_the_twin_is_xxh64(data, expected):
    assert twin.xxh64(data) == expected


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), npages=st.integers(0, 8), page_size=st.sampled_from([32, 64, 4096]))
def test_page_sums(seed, npages, page_size):
    memory = random.Random(seed).randbytes(npages * page_size + 7)
    first = seed % (npages + 1)
    count = npages - first
    assert list(pages.page_sums(memory, first, page_size=page_size)) == twin.page_sums(
        memory, first, count, page_size
    )


@settings(deadline=None)
@given(
    kinds=st.lists(st.integers(-2, 4095), max_size=150),
    isa=st.sampled_from(["best", "portable"]),
    page_size=st.sampled_from([64, 128, 4096]),
    data=st.data(),
)
def test_zero_pages(kinds, isa, page_size, data):
    """A page is all zero (-2, -1), or has one byte that is not."""
    memory = bytearray(len(kinds) * page_size)
    for page, kind in enumerate(kinds):
        if kind >= 0:
            memory[page * page_size + kind % page_size] = 1 << kind % 8
    first = data.draw(st.integers(0, len(kinds)))
    count = data.draw(st.integers(0, len(kinds) - first))
    expected = twin.zero_bitmap(memory, first, count, page_size)
    assert pages.zero_bitmap(memory, first, count, page_size=page_size, isa=isa) == expected
    runs = [(first + page, length) for page, length in twin.runs_of(int.from_bytes(expected, "little"))]
    assert pages.zero_runs(memory, first, count, page_size=page_size) == runs


def test_pages_outside_are_refused():
    memory = bytearray(8192)
    for first, count in ((0, 3), (3, 0), (-1, 1), (1, -1), (1, 2)):
        with pytest.raises(IndexError):
            pages.zero_bitmap(memory, first, count)
        with pytest.raises(IndexError):
            pages.page_sums(memory, first, count)


@pytest.mark.parametrize("page_size", [0, -64, 100])
def test_odd_page_sizes_are_refused(page_size):
    with pytest.raises(ValueError, match="page size"):
        pages.zero_bitmap(bytearray(800), page_size=page_size)
    with pytest.raises(ValueError, match="page size"):
        pages.page_sums(bytearray(800), page_size=page_size)
