# SPDX-License-Identifier: MIT
"""The ledger of a device's writes against a list of them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.native.dma import DmaBatch, Op, Status
from vfioemu.native.ledger import WriteLedger

PAGE = 4096
TOP = 1 << 64
RANGES = [(0, 64 * PAGE), (1 << 32, 64 * PAGE), (TOP - 64 * PAGE, 64 * PAGE)]

iovas = st.sampled_from([iova for iova, _ in RANGES]).flatmap(
    lambda base: st.integers(max(0, base - PAGE), min(TOP - 1, base + 66 * PAGE))
)
writes = st.lists(st.tuples(iovas, st.integers(0, 3 * PAGE), st.booleans()), max_size=20)


def pages_of(ledger):
    return {
        iova + page * PAGE
        for iova, _, bitmap in ledger.pages.ranges
        for first, count in bitmap.runs()
        for page in range(first, first + count)
    }


def expected_pages(noted):
    inside = set()
    for iova, size, _ in noted:
        last = min(iova + size, TOP) - 1
        inside |= {page * PAGE for page in range(iova // PAGE, last // PAGE + 1)} if size else set()
    return {page for page in inside if any(base <= page < base + size for base, size in RANGES)}


@given(writes, st.integers(1, 6), st.integers(0, 25), st.booleans(), st.integers(1, 25))
def test_ledger_is_a_list_of_writes(noted, ring, since, stopped, limit):
    ledger = WriteLedger(RANGES, ring)
    for iova, size, while_stopped in noted:
        ledger.note(iova, size, stopped=while_stopped)
    made = [(seq, *write) for seq, write in enumerate([w for w in noted if w[1]], 1)]

    assert ledger.writes == len(made)
    assert ledger.stopped == sum(write[3] for write in made)
    assert pages_of(ledger) == expected_pages(noted)
    known = [write for write in made[-ring:] if write[0] > since and (write[3] or not stopped)]
    found = ledger.since(since, stopped=stopped, limit=limit)
    assert [(one.seq, one.iova, one.size, one.stopped) for one in found] == known[: min(limit, ring)]


@given(writes)
def test_begun_write_is_a_page_and_no_count(noted):
    ledger = WriteLedger(RANGES)
    for iova, size, _ in noted:
        ledger.begin(iova, size)
    assert (ledger.writes, ledger.since(0)) == (0, [])
    assert pages_of(ledger) == expected_pages(noted)


def test_batch_notes_writes_of_all_kinds_and_no_reads():
    ledger = WriteLedger(RANGES)
    batch = DmaBatch(bytearray(PAGE), 8)
    for number, op in enumerate([Op.READ, Op.WRITE, Op.HARDWARE_WRITE, Op.HIDDEN_WRITE, Op.WRITE]):
        batch.add(op, number * PAGE, 8, 0)
    ledger.begin_batch(batch)
    assert pages_of(ledger) == {PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE}
    batch.set_status(4, Status.BAD)  # never tried
    ledger.note_batch(batch, stopped=True)
    assert [one.iova for one in ledger.since(0)] == [PAGE, 2 * PAGE, 3 * PAGE]
    assert (ledger.writes, ledger.stopped) == (3, 3)


def test_time_is_the_monotonic_clock():
    ledger = WriteLedger(RANGES)
    before = time.monotonic_ns()
    ledger.note(0, 1, stopped=False)
    [one] = ledger.since(0)
    assert before <= one.when <= time.monotonic_ns()


@pytest.mark.parametrize("ranges", [[(0, 0)], [(0, 2 * PAGE), (PAGE, PAGE)], [(TOP - PAGE, 2 * PAGE)]])
def test_ranges_that_are_none_are_refused(ranges):
    with pytest.raises(ValueError, match="empty, ends past"):
        WriteLedger(ranges)


def test_ring_of_nothing_is_refused():
    with pytest.raises(ValueError, match="ring of 0"):
        WriteLedger(RANGES, 0)
