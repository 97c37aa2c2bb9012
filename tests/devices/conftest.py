# SPDX-License-Identifier: MIT
"""A device on a bench."""

import pytest

from tests.devices.driver import on_bench


@pytest.fixture(scope="session")
def device_on_bench():
    """A function that puts a model on a bench and gives its driver."""
    return on_bench
