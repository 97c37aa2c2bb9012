# SPDX-License-Identifier: MIT
"""Negative controls of the C fuzzers: each mistake that is planted into a copy of the C kernel is found by its fuzz target.

The driver is csrc/fuzz_main.c, so that this runs wherever there is a C compiler: no sanitizer and no coverage helps.
"""

import shutil
import subprocess

import pytest

from tests.native.mutants import MUTANTS, copy_sources, plant
from tests.sample import sampled

BOUND = 300
"""Seconds; it takes few."""

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def sources(tmp_path):
    copy_sources(tmp_path / "csrc")
    return tmp_path / "csrc"


def build(target, sources, to):
    files = [sources / f"fuzz_{target}.c", sources / "fuzz_main.c", *sorted(sources.glob("vfe_*.c"))]
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-g", "-pthread", *files, "-o", to],
        check=True,
        capture_output=True,
        timeout=BOUND,
    )
    return to


def run(program, *options):
    return subprocess.run([program, *options], capture_output=True, text=True, timeout=BOUND)


@needs_compiler
@pytest.mark.parametrize("mutant", sampled(MUTANTS), ids=lambda mutant: mutant.name)
def test_mutant_is_found_and_found_again(tmp_path, sources, mutant):
    plant(mutant, sources)
    program = build(mutant.target, sources, tmp_path / "fuzz")

    found = run(program, "-max_total_time=240", f"-artifact_prefix={tmp_path}/")

    assert found.returncode == 77
    assert "not so: " in found.stderr
    (saved,) = tmp_path.glob("crash-*")
    again = run(program, saved)
    assert again.returncode != 0
    assert "not so: " in again.stderr


@needs_compiler
@pytest.mark.parametrize("target", sampled(sorted({mutant.target for mutant in MUTANTS}), 2))
def test_kernel_as_it_is_passes(tmp_path, sources, target):
    program = build(target, sources, tmp_path / "fuzz")

    passed = run(program, "-runs=3000", "-seed=7")

    assert (passed.returncode, passed.stderr) == (0, "stat::number_of_executed_units: 3000\n")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_applies_to_the_code_as_it_is(sources, mutant):
    plant(mutant, sources)

    text = (sources / mutant.file).read_text()
    assert mutant.wrong in text


def test_mutant_that_does_not_apply_is_refused(sources):
    mutant = MUTANTS[0]
    (sources / mutant.file).write_text("")

    with pytest.raises(LookupError, match="0 times, not once"):
        plant(mutant, sources)
    (sources / mutant.file).write_text(mutant.right * 2)
    with pytest.raises(LookupError, match="2 times, not once"):
        plant(mutant, sources)


def test_each_fuzz_target_has_a_mutant(sources):
    targets = {file.stem.removeprefix("fuzz_") for file in sources.glob("fuzz_*.c")} - {"main"}

    assert {mutant.target for mutant in MUTANTS} == targets
