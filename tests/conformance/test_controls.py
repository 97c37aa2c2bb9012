# SPDX-License-Identifier: MIT
"""The replay notices every wrong bit: negative controls."""

import copy
import dataclasses
import random

import pytest

from tests.conformance.golden import USUAL, load
from tests.releases import differing
from vfioemu.conformance.inprocess import InProcessRunner
from vfioemu.conformance.machine import machine_for
from vfioemu.conformance.replay import ANSWERS
from vfioemu.conformance.report import describe
from vfioemu.conformance.trace import Scenario

FAMILIES = ["dirty_quirks", "dirty_unmap", "group", "limits", "migration", "logging", "container", "device"]
"""Together they have answers of every kind."""

NAMES = {"newfd", "retfd"}
"""Answers of which only the presence counts: how a trace calls a new fd is its own affair."""


def spoilt(value: object, rng: random.Random) -> object:
    """A value that differs in as little as possible."""
    match value:
        case bool() | None:
            return 1
        case int():
            return value ^ 1
        case str() if len(value) % 2 == 0 and all(digit in "0123456789abcdef" for digit in value):
            data = bytearray.fromhex(value)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return data.hex()
        case str():
            return value + "X"
        case []:
            return [[0, 0]]
        case list():
            changed = copy.deepcopy(value)
            at = rng.randrange(len(changed))
            changed[at] = spoilt(changed[at], rng)
            return changed
        case {"hex": str(data), **others}:
            return {**others, "hex": spoilt(data, rng)}
        case _:
            raise AssertionError(value)


@pytest.mark.parametrize("field", [*ANSWERS, "hex"])
def test_one_wrong_bit_in_an_answer_is_reported_at_its_step(field):
    rng = random.Random(field)
    tried = 0
    for family in FAMILIES:
        traces = load(USUAL, family)
        runner = InProcessRunner(machine_for(family, traces.environment))
        for scenario in traces.scenarios:
            places = [
                number
                for number, step in enumerate(scenario.steps)
                if field in step and (field != "hex" or step["op"] == "peek")
            ]
            if not places or runner.run(scenario, traces.environment):
                continue
            number = rng.choice(places)
            step = scenario.steps[number]
            wrong = {key: value for key, value in step.items() if key != field}
            if field not in NAMES:
                wrong[field] = spoilt(step[field], rng)
            steps = (*scenario.steps[:number], wrong, *scenario.steps[number + 1 :])

            differences = runner.run(Scenario(family, scenario.name, steps), traces.environment)

            assert [d.step for d in differences][:1] == [number], f"{scenario.id}:{number}"
            assert describe(differences[0])
            tried += 1
            if tried == 5:
                return
    assert tried, f"no golden answer has {field}"


@pytest.mark.parametrize("field", ["care", "kernel_warn"])
def test_what_is_no_answer_is_not_compared(field):
    traces = load(USUAL, "dirty_quirks")
    runner = InProcessRunner(machine_for("dirty_quirks", traces.environment))
    scenario = traces.scenarios[0]
    steps = [dict(step) for step in copy.deepcopy(scenario.steps)]
    for step in steps:
        if field == "kernel_warn":
            step[field] = 7
        for entry in step.get("mem", ()):
            entry["care"] = "00"

    assert not runner.run(Scenario(scenario.family, scenario.name, tuple(steps)), traces.environment)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("dirty_quirks", {"quirks": "clean"}),
        ("rand_dirty", {"quirks": "clean"}),
        ("map", {"profile": differing("map_wrap_errno").name}),
        ("rand_map", {"profile": differing("map_wrap_errno").name}),
        ("limits", {"memlock": "off"}),
    ],
)
def test_machine_that_answers_otherwise_fails(family, change):
    traces = load(USUAL, family)
    spec = dataclasses.replace(machine_for(family, traces.environment), **change)
    runner = InProcessRunner(spec)

    failed = [s.id for s in traces.scenarios if runner.run(s, traces.environment)]

    assert failed


def test_something_left_behind_is_reported(monkeypatch):
    from vfioemu.core.files.group import GroupFile

    def forget(self):
        yield from ()

    monkeypatch.setattr(GroupFile, "release", forget)
    traces = load(USUAL, "group")
    runner = InProcessRunner(machine_for("group", traces.environment))
    scenario = next(s for s in traces.scenarios if any(step["op"] == "group" for step in s.steps))

    differences = runner.run(scenario, traces.environment)

    assert differences[-1].made == {"op": "exit"}
