# SPDX-License-Identifier: MIT
"""All that can happen in a hand-over, with the shipped engine, hand-over, journal and resolver; and mistakes that must be found."""

import pytest

from tests.migration.planted_handovers import MISTAKES
from tests.sample import sampled
from vfioemu.migration.chaos.explorer import Bounds, Step, explore
from vfioemu.migration.chaos.world import Parts, World


def explored(bounds, **parts):
    report = explore(Parts(**parts), bounds)
    print(report)
    assert report.broken is None, str(report)
    assert report.complete
    return report


def test_nobody_and_two_never_run_the_guest_however_messages_are_lost():
    report = explored(Bounds(deaths=0, errors=0))
    assert report.states > 400
    assert set(report.ends) == {"completed", "failed", "cancelled", "in_doubt"}


@pytest.mark.full
@pytest.mark.parametrize("shared", [True, False], ids=["one directory", "two directories"])
def test_no_death_makes_two_owners(shared):
    report = explored(Bounds(deaths=1, errors=0), shared=shared)
    assert report.states > 8000
    assert "lost" in report.ends


@pytest.mark.full
def test_no_death_and_no_failing_disk_makes_two_owners():
    assert explored(Bounds(deaths=1, errors=1)).states > 18000


@pytest.mark.parametrize("mistake", sampled(MISTAKES, 3))
def test_control_each_planted_mistake_is_found(mistake):
    planted = MISTAKES[mistake]
    report = explore(planted.parts, planted.bounds)
    print(report)
    assert report.broken is not None
    assert planted.breaks in report.broken
    assert report.path
    # The counterexample is one: it can be played again.
    world = World(planted.parts)
    for step in report.path:
        assert step.move.endswith(" dies") or step.move in world.moves()
        world.make(step.move, step.fault)


def test_control_a_split_brain_is_found_in_a_moment():
    planted = MISTAKES["the source resumes when nobody answers COMMIT"]
    report = explore(planted.parts, planted.bounds)
    assert report.broken == "both sides run the guest"
    assert report.path[-1] == Step("COMMIT reaches the destination")


def test_search_that_is_cut_says_so():
    report = explore(Parts(), Bounds(states=50))
    assert not report.complete
    assert "not all states" in str(report)
