# SPDX-License-Identifier: MIT
"""Every golden scenario, in process, bit for bit."""

import pytest

from tests.conformance.golden import GOLDEN, LINUX_6_12, LINUX_7_2, REQUIRED, load
from vfioemu.conformance.report import describe
from vfioemu.conformance.runner import Options, Outcome, plan, run
from vfioemu.conformance.trace import Traces

OLDER = sorted({path.stem for path in LINUX_6_12.glob("*.jsonl")})
NEWER = sorted({path.stem for path in LINUX_7_2.glob("*.jsonl")})


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


@pytest.mark.parametrize("family", OLDER)
def test_family_of_linux_6_12_is_answered_as_recorded(family):
    assert_all_pass(outcomes(load(LINUX_6_12, family)))


@pytest.mark.parametrize("family", NEWER)
def test_family_of_linux_7_2_is_answered_as_recorded(family):
    assert_all_pass(outcomes(load(LINUX_7_2, family)))


def test_no_family_is_left_out():
    assert set(REQUIRED) == {*OLDER, *NEWER}


def test_every_golden_file_can_be_read():
    files = [path for folder in (LINUX_6_12, LINUX_7_2) for path in folder.glob("*.jsonl")]

    assert sum(len(load(path.parent, path.stem).scenarios) for path in files) == 2672 + 110


def test_machine_files_are_the_ones_that_are_used():
    from vfioemu.conformance.machine import machine_file

    assert (GOLDEN / "machine.toml").samefile(machine_file("rand_map"))
    assert (GOLDEN / "machine-aw39.toml").samefile(machine_file("aw39_map"))
