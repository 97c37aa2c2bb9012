# SPDX-License-Identifier: MIT
"""Negative controls of the C fuzzers: what -DVFE_PLANT plants into the C kernel is found by its fuzz target.

The driver is csrc/fuzz_main.c, so that this runs wherever there is a C compiler: no sanitizer and no coverage helps.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.property.planted import IN_C
from tests.sample import sampled

CSRC = Path(__file__).parents[2] / "csrc"
BOUND = 300
"""Seconds; it takes few."""

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def build(target, to, *options):
    sources = [CSRC / f"fuzz_{target}.c", CSRC / "fuzz_main.c", *sorted(CSRC.glob("vfe_*.c"))]
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-g", "-pthread", *options, *sources, "-o", to],
        check=True,
        capture_output=True,
        timeout=BOUND,
    )
    return to


def run(program, *options):
    return subprocess.run([program, *options], capture_output=True, text=True, timeout=BOUND)


@pytest.mark.parametrize(("plant", "target"), sampled(IN_C.items()))
def test_planted_mistake_is_found_and_found_again(tmp_path, plant, target):
    program = build(target, tmp_path / "fuzz", f"-DVFE_PLANT={plant}")

    found = run(program, "-max_total_time=240", f"-artifact_prefix={tmp_path}/")

    assert found.returncode == 77
    assert "not so: " in found.stderr
    (saved,) = tmp_path.glob("crash-*")
    again = run(program, saved)
    assert again.returncode != 0
    assert "not so: " in again.stderr


@pytest.mark.parametrize("target", sampled(sorted(set(IN_C.values())), 2))
def test_kernel_as_it_is_passes(tmp_path, target):
    program = build(target, tmp_path / "fuzz")

    passed = run(program, "-runs=3000", "-seed=7")

    assert (passed.returncode, passed.stderr) == (0, "stat::number_of_executed_units: 3000\n")


def test_every_mistake_is_listed():
    header = (CSRC / "vfe_plant.h").read_text()

    assert set(IN_C) == set(re.findall(r"^\t(VFE_PLANT_\w+) =", header, re.MULTILINE))
