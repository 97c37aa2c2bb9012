# SPDX-License-Identifier: MIT
"""No mark is lost, whoever marks and whoever harvests: csrc/test_loss.c, and what it must have printed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
LINE = re.compile(
    r"(?P<writer>.+?) +(?P<harvester>overwrite|shifted|or|or in parts|runs) +(?P<shape>\w+) +(?P<isa>best|portable)"
    r" +(?P<marks>\d+) marks +\d+ harvests +(?P<gates>\d+) gates +(?P<lost>\d+) lost"
)
WRITERS, HARVESTERS, SHAPES, ISAS = 5, 5, 4, 2


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the extension has been compiled, so there is a compiler"
    target = tmp_path_factory.mktemp("loss") / "test_loss"
    sources = [CSRC / "test_loss.c", *sorted(CSRC.glob("vfe_*.c"))]
    subprocess.run([compiler, "-std=gnu11", "-O2", "-pthread", "-o", target, *sources], check=True)
    return target


def run(program, marks):
    """Run it and give its lines: those of the real bitmap, and those of the controls."""
    done = subprocess.run([program, str(marks)], stdout=subprocess.PIPE, text=True, check=False)
    lines = [match.groupdict() for match in map(LINE.fullmatch, done.stdout.splitlines()) if match]
    assert done.returncode == 0, done.stdout
    return (
        [line for line in lines if "WRONG" not in line["writer"]],
        [line for line in lines if "WRONG" in line["writer"]],
    )


def check(program, marks):
    right, wrong = run(program, marks)
    assert len(right) == WRITERS * HARVESTERS * SHAPES * ISAS
    assert {line["lost"] for line in right} == {"0"}
    assert sum(int(line["marks"]) for line in right) >= marks
    assert sum(int(line["gates"]) for line in right) > 0, "no harvester ever had a chunk for itself"
    assert len(wrong) == 3
    if len(os.sched_getaffinity(0)) > 1:
        assert all(int(line["lost"]) for line in wrong)


@pytest.mark.slow  # csrc/test_loss.c itself is among the C tests of `make test`
def test_a_few_hundred_thousand_marks(program):
    check(program, 200_000)


@pytest.mark.full
def test_twenty_million_marks(program):
    check(program, 20_000_000)
