# SPDX-License-Identifier: MIT
"""Negative controls: the state machine finds what is planted into the core."""

import inspect
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.system.property import planted
from tests.system.property.test_world import Calls

SEARCH = settings(
    max_examples=1000,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    print_blob=False,
)

DEEPER = settings(SEARCH, max_examples=6000)
"""For what is rare. Hypothesis draws constants of the modules that are loaded, so which examples come depends on what else is tested."""


SLOW = {
    planted.unpinned_pages_stay_pinned,
    planted.pinned_pages_are_reported_only_once,
    planted.dma_writes_are_not_marked,
    planted.dma_marks_one_page_too_few,
    planted.a_leaving_group_dirties_nothing,
}


def marks(plant):
    """What is rare is looked for by `make test-full` only."""
    if plant in SLOW:
        return [pytest.mark.full, pytest.mark.timeout(1200)]
    return [pytest.mark.slow] if plant is planted.hot_added_groups_replay_nothing else []


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(
            plant,
            id=plant.__name__,
            marks=marks(plant),
        )
        for plant in planted.SEEN_BY_CALLS
    ],
)
def test_planted_mistake_is_found(plant, monkeypatch):
    plant(monkeypatch)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Calls, settings=DEEPER if plant in SLOW else SEARCH)


def test_documentation_lists_what_is_planted():
    page = (Path(__file__).parents[3] / "docs/testing.md").read_text(encoding="utf-8")

    assert planted.table() in page


def test_everything_that_is_planted_is_listed():
    functions: set[object] = {
        thing
        for name, thing in vars(planted).items()
        if inspect.isfunction(thing) and thing.__module__ == planted.__name__ and not name.startswith("_")
    }
    listed = {*planted.SEEN_BY_THE_FUZZER, *planted.SEEN_BY_PROGRAMS, *planted.SEEN_BY_A_TEST}

    assert functions - listed == {planted.by_name, planted.summary, planted.table}


@pytest.mark.parametrize(
    "plant",
    [*planted.SEEN_BY_THE_FUZZER, *planted.SEEN_BY_PROGRAMS, *planted.SEEN_BY_A_TEST],
    ids=lambda plant: plant.__name__,
)
def test_what_is_planted_takes_the_place_of_something(plant, monkeypatch):
    plant(monkeypatch)
