# SPDX-License-Identifier: MIT
"""The fuzzer: it passes, it finds what is planted, and a failing seed fails again."""

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fuzzing.campaign import Summary, campaign, run_one
from tests.fuzzing.command_line import command
from tests.fuzzing.engines import Plan, plant_corpus
from tests.fuzzing.program import decode, encode
from tests.fuzzing.run import Run
from tests.fuzzing.shrink import failure
from tests.sample import sampled
from tests.system.property import planted
from tests.system.property.test_programs import inputs
from vfioemu.uapi.registry import IOCTLS

RUNS = 150


def failures(seeds):
    for seed in seeds:
        yield from run_one(seed).failures


def test_arbitrary_bytes_get_the_answers_of_the_model():
    total = Summary()
    for seed in range(RUNS):
        total.add(run_one(seed))

    assert not total.failures, total.failures[0].why
    assert total.runs == RUNS
    reached = {name.split()[1] for name, _ in total.calls}
    assert {row.name for row in IOCTLS} <= reached
    succeeded = {name.split()[1] for name, answer in total.calls if answer == "ok"}
    assert {row.name for row in IOCTLS} - succeeded <= {
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",  # the walk's PCI function is on the root bus
        "VFIO_DEVICE_PCI_HOT_RESET",
        "VFIO_DEVICE_IOEVENTFD",
    }


@pytest.mark.full
def test_arbitrary_bytes_for_a_minute():
    total = Summary()
    for summary in campaign(1 << 20, 60.0, jobs=2):
        total.add(summary)

    assert not total.failures, total.failures[0]
    assert total.runs > RUNS


@pytest.mark.parametrize("plant", sampled(planted.SEEN_BY_THE_FUZZER, 3), ids=lambda plant: plant.__name__)
def test_planted_mistake_is_found(plant, monkeypatch):
    plant(monkeypatch)

    assert next(failures(range(4 * RUNS)), None) is not None


def test_seed_decides_everything():
    def trace(seed):
        calls = Counter()
        Run(seed, calls).play()
        return calls

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


@pytest.mark.slow
def test_failing_seed_is_printed_and_fails_again(monkeypatch):
    planted.unpinned_pages_stay_pinned(monkeypatch)

    found = CliRunner().invoke(
        command,
        ["--engine", "walk", "--seconds", "3", "--from-seed", "0", "-j", "2"],
        standalone_mode=False,
    )
    seed = found.output.partition("python -m tests.fuzzing --seed ")[2].split()[0]
    again = CliRunner().invoke(command, ["--seed", seed], standalone_mode=False)

    assert (found.return_value, again.return_value) == (1, 1)
    assert f"seed {seed}: " in again.output
    assert again.output.endswith("0 runs passed, 1 failed\n")


def test_good_run_says_what_was_called():
    done = CliRunner().invoke(command, ["--seed", "2", "--calls"], standalone_mode=False)

    assert done.return_value == 0
    assert "container VFIO_GET_API_VERSION: ok\n" in done.output
    assert done.output.endswith("1 runs passed, 0 failed\n")


def test_saved_input_fails_again_and_is_kept(tmp_path, monkeypatch):
    planted.a_closed_device_keeps_a_pin(monkeypatch)
    data = next(data for data in inputs(seed=1, count=3000) if failure(data) is not None)
    saved = tmp_path / "guided-0123"
    saved.write_bytes(data)

    done = CliRunner().invoke(
        command, ["--input", str(saved), "--keep", str(tmp_path / "kept")], standalone_mode=False
    )

    assert done.return_value == 1
    assert f"again: python -m tests.fuzzing --input {saved}" in done.output
    assert (tmp_path / "kept/guided-0123").read_bytes() == data


def test_engine_that_cannot_run_says_why(tmp_path):
    alone = CliRunner().invoke(
        command, ["--engine", "kernel", "--targets", str(tmp_path)], standalone_mode=False
    )
    with_others = [str(report) for report in plan_without_targets(tmp_path).run(["kernel"])]

    assert "there are no programs fuzz_*" in str(alone.exception)
    assert alone.exception.exit_code == 77
    assert with_others == [
        f"kernel: skipped: there are no programs fuzz_* in {tmp_path} (make fuzz builds them)"
    ]


def test_input_for_a_target_that_is_not_there(tmp_path):
    saved = tmp_path / "bitmap-0123"
    saved.write_bytes(b"")

    done = CliRunner().invoke(
        command, ["--input", str(saved), "--targets", str(tmp_path)], standalone_mode=False
    )

    assert str(done.exception).startswith(f"bitmap-0123 is for {tmp_path}/fuzz_bitmap, which is not there")
    assert done.exception.exit_code == 77


def plan_without_targets(folder):
    return Plan(seconds=1, jobs=1, seed=1, work=folder, golden=None, targets=folder)


def test_corpus_begins_with_golden_traces(tmp_path):
    written = plant_corpus(Path(__file__).parents[3] / "protocol/golden/linux-6.12", tmp_path, limit=60)

    assert 30 < written <= 60
    for path in tmp_path.iterdir():
        assert encode(decode(path.read_bytes()[1:])) == path.read_bytes()[1:]
