# SPDX-License-Identifier: MIT
"""The kinds of emulated fds. Dispatch is by kind first: 0x3b70 to 0x3b75 mean two things each."""

from enum import StrEnum


class FdKind(StrEnum):
    """The kind of an emulated fd."""

    CONTAINER = "container"
    GROUP = "group"
    DEVICE = "device"
    DATA = "data"
    """A migration data fd."""
    DMA_BUF = "dmabuf"
    """A part of a BAR for other drivers to reach (VFIO_DEVICE_FEATURE_DMA_BUF)."""
