# SPDX-License-Identifier: MIT
"""The engine in virtual time, held against closed forms and against what a QEMU-shaped loop does."""

from itertools import pairwise

import pytest

from vfioemu.migration import actions as do
from vfioemu.migration.actions import Outcome
from vfioemu.migration.engine import Engine
from vfioemu.migration.plan import Block, ContainerPlan, DevicePlan, Limits, Plan, Reason
from vfioemu.migration.virtual import VirtualGuest, run

MIB = 1 << 20
GIB = 1 << 30
LINK = 128 * MIB


def migrate(size, *, limits=None, **guest):
    device = DevicePlan(name="d", migration=7, logging=True)
    plan = Plan(
        blocks=(Block(name="ram", npages=size // 4096),),
        containers=(ContainerPlan(name="c", devices=(device,), dirty_pages=True),),
    )
    engine = Engine(plan, limits or Limits(bandwidth=LINK, downtime=0.3))
    virtual = VirtualGuest(bandwidth=guest.pop("bandwidth", LINK), **guest)
    return run(engine, virtual), engine, virtual


def test_idle_guest_is_sent_once():
    finish, engine, guest = migrate(GIB)
    assert finish.outcome is Outcome.COMPLETED
    assert guest.sent == GIB
    assert 7.5 < guest.now < 8.5
    assert engine.timeline.started - engine.timeline.paused <= 0.3


@pytest.mark.parametrize(
    ("rho", "total", "amount"), [(0.4, 11.7, 1.50), (0.6, 15.1, 1.92), (0.9, 27.6, 3.49)]
)
def test_uniform_writes_agree_with_the_simulated_qemu_loop(rho, total, amount):
    finish, engine, guest = migrate(
        GIB,
        limits=Limits(bandwidth=LINK, downtime=0.3, max_rounds=1000),
        write_rate=rho * LINK / 4096,
        working_set=GIB // 4096,
    )
    assert finish.outcome is Outcome.COMPLETED
    assert guest.now == pytest.approx(total, rel=0.1)
    assert guest.sent / GIB == pytest.approx(amount, rel=0.1)
    assert engine.timeline.started - engine.timeline.paused <= 0.3 * 1.001


def test_writing_faster_than_the_link_never_converges():
    finish, _, guest = migrate(
        GIB,
        write_rate=1.2 * LINK / 4096,
        working_set=GIB // 4096,
        limits=Limits(bandwidth=LINK, max_rounds=20),
    )
    assert (finish.outcome, finish.reason) == (Outcome.FAILED, Reason.NOT_CONVERGING)
    assert finish.source_runs
    assert guest.running
    assert "downtime" in finish.detail


@pytest.mark.parametrize(("mib", "converges"), [(38, True), (39, False)])
def test_all_dirty_device_converges_up_to_the_knife_edge(mib, converges):
    """128 MiB/s x 300 ms = 38.4 MiB."""
    finish, _, _ = migrate(mib * MIB, always_dirty=mib * MIB // 4096)
    assert (finish.outcome is Outcome.COMPLETED) == converges


def test_time_limit_ends_what_rounds_do_not():
    finish, _, guest = migrate(
        GIB,
        write_rate=2 * LINK / 4096,
        working_set=GIB // 4096,
        limits=Limits(bandwidth=LINK, max_rounds=10**6, max_seconds=30.0),
    )
    assert finish.reason is Reason.NOT_CONVERGING
    assert 30 < guest.now < 45


def test_device_state_that_cannot_fit_is_named():
    finish, _, _ = migrate(64 * MIB, device_bytes=GIB)
    assert finish.reason is Reason.DEVICE_STATE_TOO_LARGE


def test_bandwidth_limit_holds_in_every_window():
    _, _, guest = migrate(GIB, bandwidth=10 * LINK)
    sent = [action.limit for action in guest.history if isinstance(action, do.SendRam) and not action.final]
    assert max(sent) <= LINK // 10
    assert guest.now > 7.3


def test_unlimited_guest_on_a_fast_link_needs_no_first_window():
    """A small guest that keeps writing must not be judged against a threshold of zero."""
    finish, engine, _ = migrate(
        16 * MIB, bandwidth=4 * GIB, limits=Limits(), write_rate=10_000, working_set=4096
    )
    assert finish.outcome is Outcome.COMPLETED
    assert len(engine.rounds) < 5


def test_a_device_that_dirties_a_ring_again_and_again_converges():
    """A window is sent before somebody looks again, as in QEMU, also by a source that sends in small pieces.

    To sync in the middle of a window, as soon as the rest is below the threshold, leaves half of the old each time, and finds all
    of the ring dirty again.
    """
    guest = VirtualGuest(bandwidth=GIB, always_dirty=268)

    def small_pieces(action):
        if not isinstance(action, do.SendRam) or action.final:
            return None
        pages = min(guest.dirty, action.limit / 4096, 64)
        guest.dirty -= pages
        guest.carry(pages * 4096)
        return do.RamSent(guest.now, int(pages * 4096), int(guest.dirty))

    plan = Plan(blocks=(Block(name="ram", npages=2048),), containers=())
    engine = Engine(plan, Limits(bandwidth=16 * MIB, downtime=0.1, max_rounds=20))
    guest.working_set, guest.write_rate = 2048, 1000.0

    finish = run(engine, guest, small_pieces)

    assert finish.outcome is Outcome.COMPLETED, finish
    lasted = [after.began - before.began for before, after in pairwise(engine.rounds)]
    assert len(lasted) >= 2
    assert min(lasted) > 0.9 * engine.limits.window
