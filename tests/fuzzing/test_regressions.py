# SPDX-License-Identifier: MIT
"""Every input that has ever failed (`python -m tests.fuzzing --keep tests/fuzzing/regressions`) passes."""

import subprocess
from pathlib import Path

import pytest

from tests.fuzzing.entry import run_input
from tests.fuzzing.program import decode, encode

SAVED = sorted((Path(__file__).parent / "regressions").iterdir())
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
def test_saved_input_passes(path):
    if path.name.startswith("guided-"):
        run_input(path.read_bytes())
        return
    program = ROOT / "build/dev/csrc" / f"fuzz_{path.name.partition('-')[0]}"
    if not program.exists():
        pytest.skip("`make test` builds the fuzz targets before this")

    assert subprocess.run([program, path], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
def test_saved_program_can_be_read(path):
    data = path.read_bytes()

    assert encode(decode(data[1:])) == data[1:] or not path.name.startswith("guided-") or data[0] & 0x80
