# SPDX-License-Identifier: MIT
"""Sums of a RAM block: what was noted, and what differs from it."""

from pathlib import Path

import pytest

from vfioemu.client import Memory
from vfioemu.migration.plan import PAGE
from vfioemu.migration.sums import CHUNK, PageSums
from vfioemu.native.sums import ZERO_SUM

N = 3 * CHUNK


@pytest.fixture
def block():
    with Memory(N * PAGE) as memory:
        yield memory


def test_block_and_view_have_the_same_sums_and_the_same_differences(block):
    one, other = PageSums(N), PageSums(N)
    block.view[5 * PAGE] = 1
    one.take(block, [(0, N)])
    other.zero([(0, 5), (6, N - 6)])
    other.take(block.view, [(5, 1)])
    assert one.digests() == other.digests()
    assert len(one.digests()) == 3 * 8
    block.view[CHUNK * PAGE] = 7
    block.view[N * PAGE - 1] = 7
    assert one.differing(block) == one.differing(block.view) == [(CHUNK, 1), (N - 1, 1)]
    other.take(block, [(CHUNK, 1)])
    assert [other.digests()[i : i + 8] == one.digests()[i : i + 8] for i in (0, 8, 16)] == [True, False, True]
    assert one.packed(6, 1) == ZERO_SUM.to_bytes(8, "little")
    one.close()
    other.close()


def test_tuples_may_be_in_any_order_and_overlap(block):
    one, other = PageSums(N), PageSums(N)
    one.take(block, [(7, 3), (2, 1), (5, 3), (6, 1), (9, 4)])
    other.take(block, [(2, 1), (5, 8)])
    assert one.packed(0, 20) == other.packed(0, 20)
    assert one.unset() == N - 9
    one.close()
    other.close()


def kib(name):
    return int(Path("/proc/self/smaps_rollup").read_text().split(f"\n{name}:")[1].split()[0])


def test_table_is_private_and_costs_nothing_before_it_is_used():
    before = kib("Anonymous"), kib("Pss_Shmem")
    sums = PageSums(1 << 22)
    assert sums.unset() == 1 << 22
    assert kib("Anonymous") - before[0] < 4096, "the table has 32 MiB"
    sums.zero([(0, 1 << 22)])
    assert kib("Pss_Shmem") - before[1] < 4096
    sums.close()
