# SPDX-License-Identifier: MIT
"""Runs and tables of sums against the plainest Python, over memory with holes."""

import os
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.native import twin
from vfioemu.client import Memory
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.native.runs import RunQueue, Runs, differing_words
from vfioemu.native.sums import NO_FILE, UNSET, ZERO_SUM, Sorting, SumTable

PAGE = 4096
N = 60
ROOM = 1 << 14
pages = st.sets(st.integers(0, N - 1))


def runs_of(chosen):
    """The runs of a set of pages, ascending."""
    return twin.runs_of(sum(1 << page for page in chosen))


def of_runs(runs):
    return [page for first, length in runs for page in range(first, first + length)]


def allocated(memory):
    return os.fstat(memory.fd).st_blocks * 512 // PAGE


@settings(deadline=None)
@given(chosen=pages, data=pages, zeros=pages, max_runs=st.integers(1, 9), max_pages=st.integers(1, N))
@pytest.mark.parametrize("isa", ["best", "portable"])
def test_sorting_finds_each_page_once_sums_it_and_leaves_holes(isa, chosen, data, zeros, max_runs, max_pages):
    table = SumTable(N)
    with Memory(N * PAGE) as memory:
        for page in data | zeros:
            memory.view[page * PAGE + page] = page in data
        there = allocated(memory)
        full, zero = [], []
        sorting = Sorting(table, memory.view, memory.fd, Runs.of(runs_of(chosen)), isa=isa)
        while not sorting.done:
            piece = sorting.step(max_runs, max_pages)
            assert len(piece.full) <= max_runs >= len(piece.zero)
            assert piece.full.pages() == piece.pages <= max_pages
            full += of_runs(piece.full)
            zero += of_runs(piece.zero)
        del sorting
        assert (sorted(full), sorted(zero)) == (sorted(chosen & data), sorted(chosen - data))
        assert len(set(full)) + len(set(zero)) == len(chosen)
        assert allocated(memory) == there
        content = bytes(memory.view)
    wanted = [sum_of(content, page) if page in chosen else UNSET for page in range(N)]
    assert entries(table) == wanted
    assert table.unset() == N - len(chosen)
    table.close()


_known = {}


def sum_of(content, page):
    data = content[page * PAGE : (page + 1) * PAGE]
    if data not in _known:
        _known[data] = twin.xxh64(data)
    return _known[data]


def entries(table):
    return list(memoryview(table.packed(0, table.npages)).cast("Q"))


@given(first=pages, second=pages)
def test_what_was_written_or_discarded_after_it_was_summed_differs(first, second):
    table = SumTable(N)
    with Memory(N * PAGE) as memory:
        for page in first:
            memory.view[page * PAGE] = 1
        table.sum(memory.view, memory.fd, Runs.of([(0, N)]))
        assert table.compare(memory.view, memory.fd) == []
        for page in second:
            memory.view[page * PAGE] ^= 3
        assert of_runs(table.compare(memory.view, memory.fd)) == sorted(second)
        assert allocated(memory) == len(first | second)
        assert of_runs(table.compare(memory.view, NO_FILE)) == sorted(second)
    table.close()


@given(chunk=st.integers(1, N + 1), pages=st.integers(1, N))
def test_digests_are_those_of_the_entries(chunk, pages):
    table = SumTable(pages)
    table.set_zero(Runs.of([(0, pages)]))
    words = [ZERO_SUM.to_bytes(8, "little") * min(chunk, pages - first) for first in range(0, pages, chunk)]
    assert table.chunk_digests(chunk) == b"".join(twin.xxh64(word).to_bytes(8, "little") for word in words)
    table.close()


def test_sum_of_a_zero_page_is_the_constant():
    assert twin.xxh64(bytes(PAGE)) == ZERO_SUM != UNSET


def test_table_that_is_cleared_knows_nothing():
    table = SumTable(N)
    table.set_zero(Runs.of([(3, 5)]))
    assert table.unset() == N - 5
    table.clear()
    assert table.unset() == N
    table.close()


@given(st.data())
def test_runs_that_make_no_sense_are_refused(data):
    table = SumTable(N)
    memory = bytearray(N * PAGE)
    for runs in ([(N, 1)], [(0, N + 1)], [(4, 2), (5, 1)], [(4, 1), (2, 1)], [(3, 0)], [(1, 2**64 - 1)]):
        for use in (
            table.set_zero,
            lambda runs: table.sum(memory, NO_FILE, runs),
            lambda runs: Sorting(table, memory, NO_FILE, runs),
        ):
            with pytest.raises(ValueError, match="runs are empty, out of order"):
                use(Runs.of(runs))
    with pytest.raises(ValueError, match="are not 60 pages"):
        table.sum(memoryview(memory)[:-1], NO_FILE, Runs.of([]))
    with pytest.raises(IndexError):
        table.packed(1, N)
    with pytest.raises(ValueError, match="no whole runs"):
        Runs(bytes(17))
    table.close()
    with pytest.raises(TypeError):
        table.unset()


@given(st.lists(st.one_of(st.tuples(st.integers(0, N), st.integers(1, 20)), pages), max_size=12))
def test_queue_gives_each_page_out_once(steps):
    bitmap, queue, model = DirtyBitmap(N), RunQueue(ROOM), set()
    for step in steps:
        if isinstance(step, set):
            queue.put_back(bitmap)
            bitmap.populate(step)
            model |= step
            continue
        if not queue.pages:
            queue.refill(bitmap)
        taken = queue.take(*step)
        assert len(taken) <= step[1]
        got = of_runs(taken)
        assert len(got) == len(set(got)) <= step[0]
        assert set(got) <= model
        model -= set(got)
        assert queue.pages + bitmap.count() == len(model)
    queue.put_back(bitmap)
    assert of_runs(bitmap.runs()) == sorted(model)


@given(st.sets(st.integers(0, 99)), st.integers(0, 2**32))
def test_words_that_differ(changed, seed):
    ours = bytearray(random.Random(seed).randbytes(800))
    theirs = bytearray(ours)
    for word in changed:
        theirs[word * 8 + word % 8] ^= 1
    assert of_runs(differing_words(ours, bytes(theirs))) == sorted(changed)
    with pytest.raises(ValueError, match="whole words"):
        differing_words(ours, theirs[:-8])
