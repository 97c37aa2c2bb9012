# SPDX-License-Identifier: MIT
"""Every input that has ever failed (`python -m tests.fuzzing --keep tests/fuzzing/regressions`) passes."""

import subprocess
from pathlib import Path

import pytest

from tests.fuzzing.entry import run_input
from tests.fuzzing.program import decode, encode

SAVED = sorted((Path(__file__).parent / "regressions").iterdir())
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "path", [path for path in SAVED if path.name.startswith("guided-")], ids=lambda path: path.name
)
def test_program_passes(path):
    run_input(path.read_bytes())


@pytest.mark.parametrize(
    "path", [path for path in SAVED if not path.name.startswith("guided-")], ids=lambda path: path.name
)
def test_input_of_the_c_kernel_passes(path):
    program = ROOT / "build/dev/csrc" / f"fuzz_{path.name.partition('-')[0]}"
    if not program.exists():
        pytest.skip("`make test` builds the fuzz targets before this")

    assert subprocess.run([program, path], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
def test_saved_program_can_be_read(path):
    data = path.read_bytes()

    assert encode(decode(data[1:])) == data[1:] or not path.name.startswith("guided-") or data[0] & 0x80
