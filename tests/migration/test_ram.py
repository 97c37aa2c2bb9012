# SPDX-License-Identifier: MIT
"""Page maps against a set of pages; zero pages, and what a guest is filled with."""

import os

from hypothesis import given
from hypothesis import strategies as st

from vfioemu.client import Memory
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import PageMap, RamBlock, fill

N = 300
pages = st.sets(st.integers(0, N - 1))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("merge"), pages),
        st.tuples(st.just("take"), st.integers(1, N), st.integers(1, 20)),
        st.tuples(st.just("fill")),
        st.tuples(st.just("merge_all")),
    ),
    max_size=12,
)


def bitmap(dirty):
    return sum(1 << page for page in dirty).to_bytes((N + 63) // 64 * 8, "little")


def of_runs(runs):
    return [page for first, length in runs for page in range(first, first + length)]


@given(steps)
def test_page_map_is_a_set_that_gives_each_page_out_once(steps):
    page_map, model = PageMap(N), set()
    for step in steps:
        match step:
            case "merge", new:
                assert page_map.merge(bitmap(new)) == len(new - model)
                model |= new
            case ("fill",):
                page_map.fill()
                model = set(range(N))
            case ("merge_all",):
                assert page_map.merge_all() == N - len(model)
                model = set(range(N))
            case "take", npages, max_runs:
                runs = page_map.take(npages, max_runs)
                taken = of_runs(runs)
                assert len(runs) <= max_runs
                assert len(taken) == len(set(taken)) <= npages
                assert bool(taken) == bool(model)
                assert set(taken) <= model
                model -= set(taken)
        assert len(page_map) == len(model)
    assert set(of_runs(page_map.take(N, N))) == model
    page_map.close()


@given(st.sets(st.integers(0, 99)), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=4))
def test_zero_makes_holes_and_knows_the_sums(written, gaps):
    runs, at = [], 0
    for gap, length in gaps:
        if at + gap < 100:
            runs.append((at + gap, min(length, 100 - at - gap)))
            at = sum(runs[-1])
    with Memory(100 * PAGE) as memory:
        block = RamBlock("r", 0, 100, memory)
        for page in written:
            block.view[page * PAGE] = 1
        block.zero(runs)
        left = written - set(of_runs(runs))
        assert os.fstat(memory.fd).st_blocks * 512 == len(left) * PAGE
        assert {page for page in range(100) if block.page(page) != bytes(PAGE)} == left
        assert block.sums.unset() == 100 - len(of_runs(runs))
        block.close()


def test_zero_pages_of_a_new_guest_are_holes():
    with Memory(1000 * PAGE) as memory:
        fill(memory.view, "a", (95, 2, 2))
        allocated = os.fstat(memory.fd).st_blocks * 512
        content = bytes(memory.view)  # this reads the holes
        there = sum(any(content[page * PAGE : (page + 1) * PAGE]) for page in range(1000))
        assert allocated == there * PAGE < 100 * PAGE


def test_contents_are_the_same_for_the_same_seed_and_of_all_kinds():
    one, two, other = (bytearray(200 * PAGE) for _ in range(3))
    fill(memoryview(one), "a", (30, 30, 20))
    fill(memoryview(two), "a", (30, 30, 20))
    fill(memoryview(other), "b", (30, 30, 20))
    assert one == two != other
    distinct = {bytes(one[page * PAGE : (page + 1) * PAGE]) for page in range(200)}
    assert bytes(PAGE) in distinct
    assert len(distinct) > 100
