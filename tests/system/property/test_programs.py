# SPDX-License-Identifier: MIT
"""Programs: any bytes are one, golden traces and mutations of nothing pass, and planted mistakes are found."""

import importlib.util
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing.entry import run_input
from tests.fuzzing.golden import programs
from tests.fuzzing.mutate import Mutator
from tests.fuzzing.play import Play
from tests.fuzzing.program import MAX_STEPS, decode, encode
from tests.fuzzing.shrink import failure, shrink
from tests.sample import sampled
from tests.system.property import planted

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "protocol/golden/linux-6.12"
QUICK = [
    planted.the_lock_is_dropped_while_pages_are_pinned,
    planted.a_closed_device_keeps_a_pin,
    planted.dma_marks_one_page_too_few,
    planted.a_lock_is_kept_after_an_error,
]
"""What is found soon even by mutations that nothing guides."""
RUNS = 30000
"""Inputs of a search that something guides: ten minutes where two run at a time, if nothing is found; mostly it takes seconds."""
SEEDS = range(1, 4)
"""A search is not the same twice: what the first one misses, which takes luck, is looked for again."""
PATIENCE = 3600


def inputs(seed, count):
    """Mutations of an empty corpus that nothing guides; the same for the same seed."""
    rng = random.Random(seed)
    pool = [b""]
    for _ in range(count):
        data = rng.choice(pool)
        for _ in range(rng.choice([1, 2, 6])):
            data = Mutator(rng.getrandbits(32)).mutate(data, 4096)
        pool = [*pool, data][-100:]
        yield data


@given(st.binary(max_size=300))
def test_any_bytes_are_a_program(data):
    steps = decode(data)

    assert decode(encode(steps)) == steps


@given(st.integers(0, 1 << 32), st.binary(max_size=200), st.integers(0, 400))
def test_mutations_are_programs_that_fit(seed, data, size):
    mutated = Mutator(seed).mutate(data, size)

    assert len(mutated) <= size
    decode(mutated[1:])


def test_golden_traces_are_programs_that_pass():
    calls, exact = Counter(), 0
    chosen = list(programs(GOLDEN))[::40]
    for _, steps in chosen:
        play = Play(calls=calls)
        play.play(steps[:MAX_STEPS])
        exact += play.exact

    assert exact > len(chosen) / 2
    assert calls["VFIO_IOMMU_DIRTY_PAGES", "ok"] > 10
    assert calls["VFIO_DEVICE_FEATURE", "ok"] > 10


@pytest.mark.full
def test_all_golden_traces_are_programs_that_pass():
    for name, steps in programs(GOLDEN):
        assert failure(b"\0" + encode(steps[:MAX_STEPS])) is None, name


@pytest.mark.slow
def test_mutations_of_nothing_pass():
    for data in inputs(seed=3, count=150):
        run_input(data)


@pytest.mark.parametrize("plant", sampled(QUICK), ids=lambda plant: plant.__name__)
def test_planted_mistake_is_found_without_guidance(plant, monkeypatch):
    plant(monkeypatch)

    assert any(failure(data) is not None for data in inputs(seed=1, count=3000))


def test_what_fails_is_made_short(monkeypatch):
    planted.dma_marks_one_page_too_few(monkeypatch)
    found = next(data for data in inputs(seed=1, count=3000) if failure(data) is not None)

    short = shrink(found + encode(decode(found[1:])), seconds=60)

    assert failure(short) == failure(found)
    assert len(decode(short[1:])) <= len(decode(found[1:]))


GUIDED = """
import sys
from tests.system.property import planted
from tests.fuzzing.guided import main
main(sys.argv[2:], lambda: planted.by_name(sys.argv[1])(planted.Patch()))
"""


@pytest.mark.full
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("plant", planted.SEEN_BY_PROGRAMS, ids=lambda plant: plant.__name__)
def test_planted_mistake_is_found_from_an_empty_corpus(plant, tmp_path):
    errors = ""
    for seed in SEEDS:
        corpus = tmp_path / f"corpus-{seed}"
        corpus.mkdir()
        options = [
            f"-runs={RUNS}",
            "-max_len=4096",
            f"-seed={seed}",
            f"-artifact_prefix={tmp_path}/",
            str(corpus),
        ]
        done = subprocess.run(
            [sys.executable, "-c", GUIDED, plant.__name__, *options],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        errors = done.stderr[-2000:]
        if done.returncode != 0:
            break
    else:
        pytest.fail(f"not found: {errors}")

    assert list(tmp_path.glob("crash-*")), errors
