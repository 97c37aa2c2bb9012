# SPDX-License-Identifier: MIT
"""The bandwidth is that of the link, whatever the guest has to send: an idle guest does not make it slow."""

import pytest

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import destination
from tests.sample import sampled
from vfioemu.migration import actions as do
from vfioemu.migration.engine import Engine, Phase
from vfioemu.migration.pace import Pace
from vfioemu.migration.plan import PAGE, Block, ContainerPlan, DevicePlan, Limits, Plan
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


# A limit of the user, in virtual time.


KIB = 1 << 10


class Metered:
    """A guest whose device always has state to send; counts the bytes of each moment."""

    def __init__(self, limits, *, state, slow=0.0, late=0.0):
        device = DevicePlan(name="d", migration=7, logging=True)
        container = ContainerPlan(name="c", devices=(device,), dirty_pages=True)
        plan = Plan(blocks=(Block(name="ram", npages=1 << 30),), containers=(container,))
        self.engine = Engine(plan, limits)
        self.state = state
        self.slow = slow
        self.late = late
        self.now = 0.0
        self.sent = {"ram": 0, "state": 0}

    def run(self, seconds):
        """Run for so long; the bytes per second of it."""
        action = self.engine.start(self.now)
        began, before = None, 0
        while began is None or self.now < began + seconds:
            if self.engine.phase is Phase.PRECOPY and began is None:
                began, before = self.now, sum(self.sent.values())
            action = self.engine.step(self.perform(action))
        return (sum(self.sent.values()) - before) / (self.now - began)

    def perform(self, action):
        match action:
            case do.Wait(seconds):
                assert seconds > 0
                self.now += seconds + self.late
            case do.Sync():
                return do.Synced(self.now, 1 << 30, 0)
            case do.SendRam(limit):
                pages = max(1, limit // PAGE)
                return self.send("ram", pages * (PAGE + 16) + 60, do.RamSent, 1 << 30)
            case do.SendDevice(_, limit):
                count = min(limit, self.state)
                return self.send("state", count + 40 if count else 0, do.DeviceSent, self.state)
            case _:
                pass
        return do.Done(self.now)

    def send(self, what, count, event, left):
        self.now += self.slow
        self.sent[what] += count
        return event(self.now, count, left)


@pytest.mark.parametrize("state", [0, 100 * MIB], ids=["ram", "ram and state"])
@pytest.mark.parametrize("late", [0.0, 0.003, 0.05], ids=lambda late: f"waits last {late} s too long")
@pytest.mark.parametrize(
    "limit", sampled([KIB, 10 * MIB, 3 * KIB, 10 * KIB, 39 * KIB, 100 * KIB, MIB, 128 * MIB, 4096 * MIB], 2)
)
def test_limit_is_kept_to_5_percent(limit, late, state):
    metered = Metered(Limits(bandwidth=limit, max_seconds=0), state=state, slow=0.0001, late=late)
    rate = metered.run(200 if limit < 100 * KIB else 20)
    assert rate == pytest.approx(limit, rel=0.05)
    assert bool(metered.sent["state"]) == bool(state)
    assert metered.sent["ram"] >= 0.3 * sum(metered.sent.values()), "RAM starves"


def test_time_that_was_not_used_is_no_licence_for_a_burst():
    pace = Pace(Limits(bandwidth=MIB), 0.0)
    pace.count(MIB // 10, 0.01)
    assert pace.wait(100.0, idle=False) == 0
    assert pace.budget == pytest.approx(MIB / 10, rel=0.01)
    sent = 0
    while not pace.wait(100.0, idle=False):
        sent += pace.budget
        pace.count(pace.budget, 0.0)
    assert sent <= 0.2 * MIB + 2 * PAGE


def test_control_a_page_at_least_in_each_window_would_not_keep_it():
    """What was wrong: 1 KiB/s sent 40 KiB/s, since a page was sent in each window of 100 ms."""
    pace = Pace(Limits(bandwidth=KIB), 0.0)
    pace.count(PAGE, 0.001)
    assert pace.wait(0.001, idle=False) == pytest.approx(PAGE / KIB, rel=0.05)
