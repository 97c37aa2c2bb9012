# SPDX-License-Identifier: MIT
"""The list of usable IOVAs, against the set of numbers that it stands for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.type1 import iova_list

pairs = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))


def numbers(ranges):
    return {n for first, last in ranges for n in range(first, last + 1)}


def in_order(ranges):
    return all(first <= last for first, last in ranges) and all(a[1] < b[0] for a, b in pairwise(ranges))


@given(start=pairs, cuts=st.lists(pairs, max_size=5))
def test_exclude_leaves_what_is_not_reserved(start, cuts):
    expected = numbers([start]) - numbers(cuts)
    if expected:
        left = iova_list.exclude([start], cuts)
        assert in_order(left)
        assert numbers(left) == expected
    else:
        with pytest.raises(IoctlError, match="EINVAL"):
            iova_list.exclude([start], cuts)


@given(start=pairs, cuts=st.lists(pairs, max_size=3), aperture=pairs)
def test_clip_leaves_what_lies_in_the_aperture(start, cuts, aperture):
    try:
        coarse = iova_list.exclude([start], cuts)
    except IoctlError:
        return
    ranges = [
        (4 * first, 4 * last + 3) for first, last in coarse
    ]  # so that no end meets one of the aperture's
    begin, end = 4 * aperture[0] + 1, 4 * aperture[1] + 2

    left = iova_list.clip(ranges, begin, end)

    assert in_order(left)
    assert numbers(left) == {n for n in numbers(ranges) if begin <= n <= end}


def test_clip_drops_a_range_of_which_one_iova_would_be_left_at_an_end():
    assert iova_list.clip([(0, 5), (8, 9)], 5, 8) == []


def test_clip_of_no_list_is_the_aperture():
    assert iova_list.clip([], 3, 9) == [(3, 9)]


def test_widen_moves_the_outer_ends_to_what_the_others_allow():
    assert iova_list.widen([(5, 6), (8, 9)], [(0, 20), (2, 30)]) == [(2, 6), (8, 20)]
    assert iova_list.widen([(5, 6)], []) == [(0, (1 << 64) - 1)]
    assert iova_list.widen([], []) == []


def test_refresh_begins_anew_between_the_outer_ends():
    assert iova_list.refresh([(0, 4), (8, 9)], [(2, 2)]) == [(0, 1), (3, 9)]
    with pytest.raises(IoctlError, match="EINVAL"):
        iova_list.refresh([], [])
