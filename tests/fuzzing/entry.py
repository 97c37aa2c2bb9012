# SPDX-License-Identifier: MIT
"""What one input of the coverage-guided fuzzer does: the first byte says what the others are.

===  =======  ==================================================================
bit  set      otherwise
===  =======  ==================================================================
0    "clean"  the machine has the quirks that were recorded
7    a storm  a program (program.py); of a storm (storm.py) the bytes make the choices
===  =======  ==================================================================
"""

from collections import Counter
from typing import Final

from tests.fuzzing.choices import Choices
from tests.fuzzing.play import Play
from tests.fuzzing.program import decode
from tests.fuzzing.storm import EXPECTED, Storm
from vfioemu.core.base.profile import Quirks

CLEAN, STORM = 0x01, 0x80
MAX_ROUNDS: Final = 30


def run_input(data: bytes, calls: Counter[tuple[str, str]] | None = None) -> None:
    """Run any bytes.

    Raises:
        AssertionError: what is wrong.
        Exception: a crash of ours.
    """
    header = data[0] if data else 0
    quirks: Quirks = "clean" if header & CLEAN else "recorded"
    if header & STORM:
        _storm(data[1:], quirks)
    else:
        Play(quirks, calls).play(decode(data[1:]))


def _storm(data: bytes, quirks: Quirks) -> None:
    choices = Choices(data)
    storm = Storm(choices, quirks)
    rounds = 0
    while choices.left and rounds < MAX_ROUNDS:
        rounds += 1
        stale = storm.round()
        assert not stale, f"pages {stale} were written and not reported"
    assert storm.errors <= EXPECTED, f"a call failed with {sorted(storm.errors - EXPECTED)}"
    storm.end()
