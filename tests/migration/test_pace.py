# SPDX-License-Identifier: MIT
"""The bandwidth is that of the link, whatever the guest has to send: an idle guest does not make it slow."""

import pytest

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import destination
from vfioemu.migration.pace import Pace
from vfioemu.migration.plan import Limits
from vfioemu.migration.source import Source

MIB = 1 << 20


def windows(limits, *sent):
    """The bandwidth after each window, in which so many bytes took so many seconds; the rest of it was idle."""
    pace, now, seen = Pace(limits, 0.0), 0.0, []
    for count, seconds in sent:
        if count:
            pace.count(count, seconds)
        now += max(seconds, limits.window)
        pace.measure(now)
        seen.append(pace.bandwidth)
    return seen


def test_idle_windows_change_nothing():
    fast = (20 * MIB, 0.1)
    assert windows(Limits(), fast, (0, 0.0), (4096, 0.0001), (40960, 0.03), (0, 0.0)) == [200 * MIB] * 5


def test_link_that_becomes_slow_is_noticed_and_one_that_becomes_fast_as_well():
    seen = windows(Limits(), (20 * MIB, 0.1), (MIB, 0.1), (100000, 0.06), (40 * MIB, 0.1))
    assert seen == pytest.approx([200 * MIB, 10 * MIB, 100000 / 0.06, 400 * MIB])


def test_limit_of_the_user_is_the_most_that_is_believed():
    limits = Limits(bandwidth=10 * MIB)
    assert windows(limits, (MIB, 0.001), (MIB, 0.001), (1000, 0.0001)) == [10 * MIB] * 3
    assert windows(limits, (MIB, 0.4))[0] == pytest.approx(2.5 * MIB)


def test_what_little_there_is_has_to_do_for_a_start():
    pace = Pace(Limits(), 0.0)
    pace.count(4096, 0.001)
    pace.measure(0.002)
    assert pace.bandwidth == pytest.approx(4096 / 0.001)


async def test_guest_with_a_device_that_is_too_large_is_told_what_it_would_really_take():
    """Nearly nothing is dirty, and the device's state does not fit: rounds go by in which nothing is sent."""
    size = 4000 * MIB
    async with fake_guest(running=True, cpu_rate=100.0, cpus=1, rate=0, npages=4096) as guest:
        device = guest.devices["dma0"]

        async def stop_copy_size():
            return size

        device.stop_copy_size = stop_copy_size
        device.running = False
        async with destination(npages=4096, cpus=1) as (address, _, _):
            result = await Source(guest, address, Limits(downtime=0.05, max_rounds=4)).migrate()
    assert result.code == 3, result.finish
    bulk = result.engine.rounds[0]
    assert bulk.ram_bytes > 16 * MIB
    # It was some hundred times less when idle windows counted: a slow machine is not that slow.
    assert result.engine.bandwidth > bulk.ram_bytes / bulk.seconds / 50
