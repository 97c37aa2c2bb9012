# SPDX-License-Identifier: MIT
"""Estimate the memory of a device before it is made, to check that there is enough (vfioemu/room.py)."""

from collections.abc import Mapping
from typing import Final

from vfioemu.core.model.device import Factory

PER_DEVICE: Final = 1 << 20
"""Bytes that a device takes besides its own memory, mostly for its DMA log."""


def memory_of(model: Factory | None, options: Mapping[str, object]) -> int:
    """Return the bytes that a device with these options takes; wrong options and an unknown model are no error here."""
    memory = getattr(model, "memory_size", None)
    return PER_DEVICE + (memory(options) if memory is not None else 0)
