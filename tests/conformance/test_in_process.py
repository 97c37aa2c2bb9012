# SPDX-License-Identifier: MIT
"""Every golden scenario, in process, bit for bit."""

import pytest

from tests.conformance.golden import GOLDEN, RECORDED, REQUIRED, load
from vfioemu.conformance.report import describe
from vfioemu.conformance.runner import Options, Outcome, plan, run
from vfioemu.conformance.trace import Traces

FAMILIES = [(folder, path.stem) for folder in RECORDED for path in sorted(folder.glob("*.jsonl"))]


def outcomes(traces: Traces) -> list[Outcome]:
    options = Options()
    return list(run(plan([traces], options), options))


def assert_all_pass(results: list[Outcome]) -> None:
    assert results
    text = [
        f"{result.scenario}\n{result.crash or ''}" + "\n".join(map(describe, result.differences))
        for result in results
        if not result.passed
    ]
    assert not text, f"{len(text)} of {len(results)} failed\n" + "\n".join(text[:5])


@pytest.mark.parametrize(
    ("folder", "family"), FAMILIES, ids=[f"{folder.name}-{family}" for folder, family in FAMILIES]
)
def test_family_is_answered_as_recorded(folder, family):
    assert_all_pass(outcomes(load(folder, family)))


def test_no_family_is_left_out():
    assert set(REQUIRED) == {family for _, family in FAMILIES}
    assert {*RECORDED} == {*GOLDEN.glob("linux-*")}


def test_every_golden_file_can_be_read():
    assert sum(len(load(folder, family).scenarios) for folder, family in FAMILIES) == 2672 + 110


def test_machine_files_are_the_ones_that_are_used():
    from vfioemu.conformance.machine import machine_file

    assert (GOLDEN / "machine.toml").samefile(machine_file("rand_map"))
    assert (GOLDEN / "machine-aw39.toml").samefile(machine_file("aw39_map"))
