# SPDX-License-Identifier: MIT
"""The program that recorded the golden traces on a real kernel, run here: it must record the same."""

from itertools import zip_longest

import pytest

from tests.sample import sampled
from tests.system.run import oracle
from tests.system.run.helpers import HERE, compile_c
from vfioemu.conformance.machine import machine_file
from vfioemu.uapi.profiles import DEFAULT

SAMPLE = 11
"""One scenario in so many is in the quick test."""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    oracle.headers(folder)
    return compile_c(HERE / "probe" / "probe.c", folder / "probe", f"-I{folder}", "-w")


def record(run, probe, tmp_path, wanted, *options):
    """Have the probe make these scenarios, all on one machine: the differences."""
    family = wanted[0]["family"]
    devices = tmp_path / "devices"
    devices.write_text(oracle.devices(family), encoding="ascii")
    scenarios = tmp_path / "scenarios"
    scenarios.write_text("".join(oracle.script(scenario) for scenario in wanted), encoding="ascii")
    with scenarios.open() as stdin:
        done = run(probe, devices, options=[f"--machine={machine_file(family)}", *options], stdin=stdin)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    found = (
        oracle.compare(want, line) if want and line else f"{want and want['name']}: {line}"
        for want, line in zip_longest(wanted, lines)
    )
    return [difference for difference in found if difference]


def everything(kernel):
    """All scenarios of a kernel, by the machine that they need."""
    machines = {}
    for family in oracle.families(kernel):
        machines.setdefault(machine_file(family), []).extend(oracle.golden(family, kernel))
    return machines


@pytest.mark.parametrize("memory", sampled(["process_vm", "ask"]))
def test_a_sample_is_recorded_as_on_linux(run, probe, tmp_path, memory):
    for scenarios in everything(DEFAULT.name).values():
        assert record(run, probe, tmp_path, scenarios[::SAMPLE], f"--memory={memory}") == []


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [release for release in oracle.RECORDED if release != DEFAULT.name])
def test_what_another_kernel_answers_differently_is_recorded_as_there(run, probe, tmp_path, kernel):
    for scenarios in everything(kernel).values():
        assert record(run, probe, tmp_path, scenarios, f"--profile={kernel}") == []


@pytest.mark.full
@pytest.mark.parametrize("memory", ["process_vm", "ask"])
@pytest.mark.parametrize("family", oracle.families())
def test_everything_is_recorded_as_on_linux(run, probe, tmp_path, family, memory):
    assert record(run, probe, tmp_path, oracle.golden(family), f"--memory={memory}") == []


def test_a_limit_that_a_program_writes_counts_from_the_next_set_iommu_on(run, probe, tmp_path):
    wanted = [s for s in oracle.golden("limits") if any(step["op"] == "param" for step in s["steps"])]
    assert wanted
    assert record(run, probe, tmp_path, wanted * 3) == []


def test_a_wrong_answer_is_seen(run, probe, tmp_path):
    """The comparison itself, on answers that were changed in every place where it looks."""
    wanted = oracle.golden("dirty_pins")[:4]
    for scenario in wanted:
        for step in scenario["steps"]:
            for memory in step.get("mem", ())[:1]:
                first = int(memory["hex"][:2], 16) ^ 1
                memory["hex"] = f"{first:02x}{memory['hex'][2:]}"
                break
    spoilt = [s for s in wanted if any(step.get("mem") for step in s["steps"])]
    assert len(record(run, probe, tmp_path, wanted)) == len(spoilt) > 0


def test_what_the_probe_reads_is_what_it_would_record():
    """Every scenario can be written down for the probe, whatever it is called."""
    for family in oracle.families():
        for scenario in oracle.golden(family):
            text = oracle.script(scenario)
            assert text.count("\n") == len(scenario["steps"]) + 2
