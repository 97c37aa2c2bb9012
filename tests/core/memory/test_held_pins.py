# SPDX-License-Identifier: MIT
"""Pins held by a device, against a Counter of exact IOVAs."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.memory.held_pins import HeldPins

PAGE = 4096
TOP = 1 << 64

IOVAS = st.builds(
    lambda page, low: (page * PAGE + low) % TOP,
    st.integers(0, 40) | st.integers(510, 520) | st.integers((TOP >> 12) - 3, (TOP >> 12) - 1),
    st.sampled_from([0, 0, 0, 5]),
)
COUNTS = st.integers(-3, 700) | st.sampled_from([1 << 40, (1 << 52) + 3, (1 << 63) - 1])
ADD = st.tuples(st.just("add"), IOVAS, st.integers(1, 3))
TAKE = st.tuples(st.just("pages"), IOVAS, COUNTS)
RANGE = st.tuples(st.just("range"), IOVAS, IOVAS)


def flat(taken):
    runs = list(taken)
    assert all(count <= 512 for _, count in runs)
    return Counter((iova + i * PAGE) % TOP for iova, count in runs for i in range(count))


def pages_of(model, iova, npages):
    """What unpinning `npages` pages from `iova` on takes: each held page as often as the walk comes by."""
    taken = Counter()
    for held, times in model.items():
        distance = (held - iova) % TOP
        nth = distance // PAGE
        if distance % PAGE == 0 and nth < npages:
            rounds = 1 + (npages - 1 - nth) // (TOP // PAGE)
            taken[held] = min(times, rounds)
    return taken


@given(st.lists(ADD | TAKE | RANGE, max_size=40))
def test_any_sequence_holds_what_a_counter_holds(steps):
    pins = HeldPins()
    model = Counter()

    for kind, first, second in steps:
        if kind == "add":
            for _ in range(second):
                pins.add(first)
            model[first] += second
        elif kind == "pages":
            expected = pages_of(model, first, second)
            assert flat(pins.take_pages(first, second)) == expected
            model -= expected
        else:
            low, high = sorted((first, second))
            expected = Counter({iova: n for iova, n in model.items() if low <= iova <= high})
            assert flat(pins.take_range(low, high)) == expected
            model -= expected
        assert pins.count == model.total()
        assert pins.within(0, TOP - 1) == sorted(model)


def test_pages_in_a_row_come_as_runs_of_at_most_512():
    pins = HeldPins()
    for page in range(600):
        pins.add(page * PAGE)

    assert list(pins.take_range(0, TOP - 1)) == [(0, 512), (512 * PAGE, 88)]
