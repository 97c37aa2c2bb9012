# SPDX-License-Identifier: MIT
"""The outage is all of the time in which the guest stands still, and its parts add up to it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.migration.test_engine import World, drive, plan, plans
from vfioemu.cli.display import TextDisplay
from vfioemu.migration import actions as do
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.engine import Engine
from vfioemu.migration.outage import Timeline
from vfioemu.migration.plan import Limits, Reason

moments = st.floats(0, 1e6) | st.floats(0, 1e-3)


def microseconds(seconds):
    return round(seconds * 1e6)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["stop", "ram", "state", "verify", "sums"]), moments)),
    pause=moments,
    end=st.sampled_from(["started", "resumed", None]),
    last=moments,
)
def test_parts_add_up_to_the_outage_whatever_its_steps(steps, pause, end, last):
    timeline = Timeline(paused=pause)
    now = pause
    for step, seconds in steps:
        now += seconds
        timeline.mark(step, now)
    if end is None:
        assert timeline.outage is None
        assert list(timeline.parts) == list(dict.fromkeys(step for step, _ in steps))
        return
    setattr(timeline, end, now + last)
    assert sum(map(microseconds, timeline.parts.values())) == microseconds(timeline.outage)
    assert timeline.outage == pytest.approx(now + last - pause, abs=1e-6)
    assert all(seconds >= 0 for seconds in timeline.parts.values())
    assert list(timeline.parts)[-1] == {"started": "commit", "resumed": "resume"}[end]


@given(plan=plans(), data=st.data())
def test_nothing_between_pause_and_started_is_left_out(plan, data):
    """Each action takes a time of its own; the outage is the sum of all that come after the pause."""
    world = World(plan)
    engine = Engine(plan, Limits(max_outage=0))
    spent = []

    def decide(action):
        took = data.draw(st.integers(0, 3_000_000), label=type(action).__name__) / 1e6
        stands = engine.timeline.paused is not None and engine.timeline.started is None
        before = world.now
        event = world.perform(action)
        world.now = before + took
        event = type(event)(**{name: getattr(event, name) for name in event.__slots__} | {"now": world.now})
        if stands:
            spent.append(took)
        return event

    finish = drive(engine, world, decide)
    assert finish.outcome is Outcome.COMPLETED
    parts, outage = engine.timeline.parts, engine.timeline.outage
    assert microseconds(outage) == pytest.approx(microseconds(sum(spent)), abs=2)
    assert sum(map(microseconds, parts.values())) == microseconds(outage)
    ledger = ["ledger"] if plan.verify else []
    assert list(parts) == ["stop", "sync", "ram", "state", "verify", "prepare", *ledger, "note", "commit"]


def stop_that_takes(seconds, limits, at=do.Prepare):
    """A migration in which one action of the stopped phase takes so long."""
    world = World(plan())
    engine = Engine(world.plan, limits)

    def decide(action):
        if isinstance(action, at) and engine.timeline.paused is not None:
            world.now += seconds

    return drive(engine, world, decide), engine


@pytest.mark.parametrize("at", [do.SetState, do.Sync, do.SendCpus, do.SendSums, do.Prepare])
def test_stop_that_takes_too_long_is_ended_and_the_source_goes_on(at):
    finish, engine = stop_that_takes(2.0, Limits(max_outage=1.5), at)
    assert (finish.outcome, finish.reason) == (Outcome.FAILED, Reason.OUTAGE_TOO_LONG)
    assert finish.source_runs
    assert "may for 1.5 s (--max-outage)" in finish.detail
    assert list(engine.timeline.parts)[-1] == "resume"
    assert engine.timeline.outage >= 2.0


@pytest.mark.parametrize("limits", [Limits(max_outage=30), Limits(max_outage=0), Limits()])
def test_stop_that_takes_less_is_not_ended(limits):
    finish, engine = stop_that_takes(5.0, limits)
    assert finish.outcome is Outcome.COMPLETED
    assert engine.timeline.outage > 5.0


@pytest.mark.parametrize(
    ("outage", "above", "line"),
    [
        (0.0241, False, " outage 24.1 ms (limit 100 ms) = stop 4.1 + commit 20.0"),
        (0.5, True, " outage 500.0 ms, ABOVE THE LIMIT of 100 ms = stop 4.1 + commit 20.0"),
    ],
)
def test_outage_is_said_first_and_held_against_its_limit(outage, above, line, capsys):
    end = events.End(
        code=0,
        outcome=Outcome.COMPLETED,
        outage=outage,
        outage_parts={"stop": 0.0041, "commit": 0.02},
        downtime=0.1,
        above_limit=above,
    )
    with TextDisplay() as display:
        display.show(end)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == line
    assert out[1].startswith(" completed in ")
    assert msgspec.json.decode(msgspec.json.encode(end))["outage"] == outage
