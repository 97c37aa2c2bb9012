# SPDX-License-Identifier: MIT
"""Counts of pins, against a Counter of exact IOVAs; what they cost, and that they have an end."""

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.quota import Quota
from vfioemu.core.memory.pin_counts import AREA, PinCounts

PAGE = 4096
TOP = 1 << 64
IOVAS = st.builds(
    lambda page, low: (page * PAGE + low) % TOP,
    st.integers(0, 9) | st.integers(AREA - 4, AREA + 4) | st.integers((TOP >> 12) - 3, (TOP >> 12) - 1),
    st.sampled_from([0, 0, 0, 5]),
)
COUNTS = st.integers(1, 12) | st.just(AREA + 3)
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "take", "range", "drop"]), IOVAS, COUNTS), max_size=25
)


def pages(iova, npages):
    return [(iova + i * PAGE) % TOP for i in range(npages)]


@given(STEPS)
def test_any_sequence_counts_as_a_counter_does(steps):
    quota = Quota("areas")
    counts, model = PinCounts(quota), Counter()

    for what, iova, npages in steps:
        if what == "add":
            counts.add(iova, npages)
            model.update(pages(iova, npages))
        elif what == "take":
            found = [page for page in pages(iova, npages) if model[page]]
            runs = list(counts.take(iova, npages))
            assert Counter(page for start, count, _ in runs for page in pages(start, count)) == Counter(found)
            model -= Counter(found)
            assert sum(gone for _, _, gone in runs) == sum(not model[page] for page in found)
        else:
            last = iova + npages * PAGE
            expected = Counter({page: n for page, n in model.items() if iova <= page <= last})
            if what == "drop":
                counts.drop(iova, last)
            else:
                taken = list(counts.take_range(iova, last))
                assert Counter(page for start, count in taken for page in pages(start, count)) == expected
            model -= expected
        assert counts.references == model.total()
        assert len(counts) == len(model)
        assert bool(counts) == bool(model)
        for page in [iova, *model]:
            assert counts.count(page) == model[page]
        pinned, length = counts.run(iova, npages)
        assert 0 < length <= npages
        assert all((model[page] > 0) == pinned for page in pages(iova, length))
    counts.clear()
    assert quota.used == 0


def test_a_refused_pin_leaves_nothing_behind():
    counts = PinCounts(Quota("areas", 2))
    counts.add(0, AREA)

    with pytest.raises(IoctlError, match="areas: 1 more, all clients together may have 2"):
        counts.add((AREA - 1) * PAGE, 3)

    assert (counts.references, len(counts), counts.count((AREA - 1) * PAGE)) == (AREA, AREA, 1)
    counts.add(AREA * PAGE, 1)  # of the two areas, one is left


def test_a_million_pins_in_a_row_cost_little():
    tracemalloc.start()
    try:
        counts = PinCounts()
        for first in range(0, 1 << 20, 512):
            counts.add(first * PAGE, 512)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(counts) == 1 << 20
    assert size < 1 << 19  # half a byte for each; a dictionary takes some 100


def test_some_are_as_many_as_asked_for():
    counts = PinCounts()
    counts.add(3 * PAGE, 2)
    counts.add(9 * PAGE, 3)

    assert counts.take_some(4) == [(3 * PAGE, 2), (9 * PAGE, 2)]
    assert counts.take_some(4) == [(11 * PAGE, 1)]
    assert counts.take_some(4) == []
