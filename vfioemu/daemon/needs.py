# SPDX-License-Identifier: MIT
"""What memory a device takes, known before it is made: who makes one looks whether there is room (vfioemu/room.py)."""

from collections.abc import Mapping
from typing import Final

from vfioemu.core.model.device import Factory

PER_DEVICE: Final = 1 << 20
"""Bytes that a device takes besides its memory: the log of its DMA above all."""


def memory_of(model: Factory | None, options: Mapping[str, object]) -> int:
    """Bytes of a device with those options, which need not be right; a model that does not exist has no memory either."""
    memory = getattr(model, "memory_size", None)
    return PER_DEVICE + (memory(options) if memory is not None else 0)
