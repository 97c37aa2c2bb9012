# SPDX-License-Identifier: MIT
"""The tests of the device model of docs/howto/device.md."""

import pytest
from tick import Tick

from vfioemu.testing.bench import Bench


def test_each_write_adds_a_step() -> None:
    """What is written does not matter."""
    bench = Bench(Tick({"step": 3}))

    for _ in range(2):
        assert bench.pwrite(b"\0", 0).ret == 1

    assert bench.pread(8, 0) == (6).to_bytes(8, "little")


def test_a_step_of_nothing_is_refused() -> None:
    """By its name, with its limits."""
    with pytest.raises(ValueError, match="step: a whole number from 1 to 255, not 0"):
        Tick({"step": 0})
