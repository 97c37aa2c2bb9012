# SPDX-License-Identifier: MIT
"""Sums of a RAM block: what was noted, and what differs from it."""

import os
from pathlib import Path

import pytest

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, destination
from vfioemu.client import Memory
from vfioemu.migration.plan import PAGE, Limits
from vfioemu.migration.ram import fill
from vfioemu.migration.source import Source
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


SPARSE = 8192


def allocated(guest):
    """Pages of the first block that are there; the device writes into the other one when it runs."""
    return os.fstat(guest.ram[0].fd).st_blocks * 512 // PAGE


@pytest.mark.parametrize("verify", [True, False])
async def test_guest_that_is_mostly_zero_costs_little_on_both_sides(verify):
    """Neither the test for zero pages, nor sums, nor the audit make a hole real; 20 pages were written and are zero."""
    async with (
        fake_guest(running=False, npages=SPARSE, cpus=0, rate=1) as guest,
        destination(npages=SPARSE, cpus=0) as (address, _, arrivals),
    ):
        view = guest.ram[0].view
        fill(view[20 * PAGE :], "sparse", (95, 2, 2))
        view[: 20 * PAGE] = bytes(20 * PAGE)
        there = allocated(guest)
        assert 0 < there < SPARSE // 10
        result = await Source(guest, address, Limits(), patience=QUICK, verify=verify).migrate()
        assert result.code == 0, result.finish
        assert allocated(guest) == there
        assert allocated(arrivals[0].guest) == there - 20
        assert guest.ram[0].view == arrivals[0].guest.ram[0].view


async def test_pages_that_became_zero_are_given_back():
    """A shell that had contents there: whatever it had, the pages are holes."""

    def prepare(shell):
        for block in shell.ram:
            block.view[:] = b"\x01" * len(block.view)

    async with (
        fake_guest(running=False, npages=64, cpus=0, rate=1) as guest,
        destination(npages=64, cpus=0, prepare=prepare) as (address, _, arrivals),
    ):
        guest.ram[0].view[5 * PAGE] = 1
        assert (await Source(guest, address, Limits(), patience=QUICK).migrate()).code == 0
        assert allocated(arrivals[0].guest) == 1
        assert guest.ram[0].view == arrivals[0].guest.ram[0].view
