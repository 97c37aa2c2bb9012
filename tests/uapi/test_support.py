# SPDX-License-Identifier: MIT
"""The committed support matrix is the generated one."""

import subprocess
import sys
from pathlib import Path

from vfioemu.uapi.support import matrix

COMMITTED = Path(__file__).parents[2] / "protocol" / "support.md"


def test_the_committed_matrix_is_what_the_registry_says():
    assert COMMITTED.read_text() == matrix()


def test_the_generator_prints_the_matrix():
    printed = subprocess.run(
        [sys.executable, "-m", "vfioemu.uapi.support"], check=True, capture_output=True, text=True
    ).stdout

    assert printed == matrix()
