# SPDX-License-Identifier: MIT
"""Every way in which messages of the hand-over can be lost, delayed or answered into the void, one after the other."""

from itertools import product

import pytest

from tests.migration.test_engine import World, plan, take_over
from vfioemu.migration import actions as do
from vfioemu.migration.actions import Finish, Outcome
from vfioemu.migration.engine import Engine
from vfioemu.migration.handover import ASKED, Handover, Refusal, Standing, Start
from vfioemu.migration.plan import Limits, Reason

FATES = "works", "request lost", "answer lost", "request late"


def hand_over(engine, fates, notices, cancel_at):
    """One run; returns its world. `notices`: the destination sees the broken connection before anything else."""
    world = World(plan(((7,),), npages=4))
    late = []

    def decide(action):
        if type(action) is cancel_at:
            engine.cancel()
        fate = fates.get(type(action), "works")
        if fate == "works":
            return None
        if fate == "answer lost":
            world.perform(action)
        if fate == "request late":
            late.append(action)
        if notices:
            world.destination.lost("t")
        return do.Failed(world.now, Reason.PEER_LOST)

    action = engine.start(0.0)
    while not isinstance(action, Finish):
        world.log.append(action)
        event = decide(action)
        action = engine.step(event if event is not None else world.perform(action))
    for message in late:  # what was in flight arrives when the source has made up its mind
        world.perform(message)
    return world, action


def split_brain(world):
    return world.cpus and world.destination.standing("t") is Standing.STARTED


def all_schedules():
    for prepare, commit, query in product(FATES, repeat=3):
        for notices, cancel_at in product([False, True], [None, do.SendRam, do.Prepare, do.Commit, do.Query]):
            yield {do.Prepare: prepare, do.Commit: commit, do.Query: query}, notices, cancel_at


def test_no_schedule_lets_both_sides_run():
    outcomes = set()
    for schedule in all_schedules():
        world, finish = hand_over(Engine(plan(((7,),), npages=4), Limits()), *schedule)
        assert not split_brain(world), schedule
        if finish.outcome in (Outcome.FAILED, Outcome.CANCELLED):
            assert world.cpus, schedule
        if finish.outcome is Outcome.COMPLETED:
            assert world.destination.standing("t") is Standing.STARTED, schedule
        outcomes.add(finish.outcome)
    assert outcomes == {Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED, Outcome.IN_DOUBT}


class ImpatientEngine(Engine):
    """The negative control: it takes silence after COMMIT for a refusal, as QEMU without a return path does."""

    def step(self, event):
        action = super().step(event)
        if isinstance(action, do.Query):
            return super().step(do.Refused(event.now, "nobody answered"))
        return action


def test_resuming_on_silence_after_commit_is_caught_as_split_brain():
    assert any(
        split_brain(hand_over(ImpatientEngine(plan(((7,),), npages=4), Limits()), *schedule)[0])
        for schedule in all_schedules()
    )


def test_token_is_accepted_once():
    handover = Handover()
    assert handover.accept("a")
    assert not handover.accept("a")
    handover.lost("a")
    assert not handover.accept("a")


def begun(journal=None, *, upto=Standing.READY):
    """A destination that has got so far with "a"."""
    handover = Handover(journal)
    assert handover.accept("a")
    if upto is not Standing.LOADING:
        assert handover.prepared("a") is None
    if upto is Standing.STARTED:
        assert take_over(handover, "a") is None
    if upto is Standing.REFUSED:
        assert take_over(handover, "a", NO) == NO
    return handover


NO = Refusal(Reason.DEVICE_ERROR, "dma0: state 2: Input/output error")


def test_query_before_commit_refuses_for_ever():
    handover = begun()
    assert handover.query("a") is Standing.REFUSED
    assert take_over(handover, "a") == Refusal(Reason.PEER_REFUSED, ASKED)


@pytest.mark.parametrize("standing", [Standing.STARTED, Standing.REFUSED, Standing.UNKNOWN])
def test_query_of_what_is_settled_changes_nothing(standing):
    handover = Handover() if standing is Standing.UNKNOWN else begun(upto=standing)
    assert handover.query("a") is standing
    assert handover.query("a") is standing


def test_query_while_starting_is_answered_later():
    handover = begun()
    steps = handover.take_over("a")
    assert next(steps) == Start()
    assert handover.query("a") is Standing.STARTING
    with pytest.raises(StopIteration):
        steps.send(None)
    assert handover.query("a") is Standing.STARTED
