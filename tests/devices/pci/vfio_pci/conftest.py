# SPDX-License-Identifier: MIT
"""A card that remembers every access, on a bench."""

import pytest

from tests.devices.pci.rigs import ADDRESS, Recorder
from vfioemu.testing.bench import Bench


@pytest.fixture
def bench():
    return Bench(Recorder(), name=ADDRESS)
