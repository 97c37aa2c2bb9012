# SPDX-License-Identifier: MIT
"""The kinds of emulated fds. Dispatch is by kind first: 0x3b70 to 0x3b75 mean two things each."""

from enum import StrEnum


class FdKind(StrEnum):
    """What an emulated fd is."""

    CONTAINER = "container"
    GROUP = "group"
    DEVICE = "device"
    DATA = "data"
    """A migration data fd."""
