# SPDX-License-Identifier: MIT
"""Cases of which `make test` runs some, and `make test-full` all: many that show the same in another place."""

from collections.abc import Iterable

import pytest


def sampled(cases: Iterable[object], quick: int = 1) -> list[object]:
    """For parametrize(): the first `quick` of them as they are, the others marked as slow."""
    return [case if number < quick else _slow(case) for number, case in enumerate(cases)]


def _slow(case: object) -> object:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
