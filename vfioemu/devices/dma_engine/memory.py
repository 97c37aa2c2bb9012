# SPDX-License-Identifier: MIT
"""The parts of a dma-engine's BARs that are memory and not registers: the ring table and BAR 4."""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from vfioemu.abi.dma_engine import BAR_SIZE, RING_ENTRIES, RING_OFFSET
from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.pci import PciHardware

BIG_BAR: Final = 4
CHUNK: Final = 16 << 10
"""Bytes of it that travel in one record."""
_ZEROS: Final = bytes(CHUNK)


class BarMemory:
    """That memory.

    Args:
        big_bar: the size of BAR 4; 0 if there is none.
        hardware: the card whose BARs they are in.
    """

    def __init__(self, big_bar: int, hardware: PciHardware) -> None:
        self._shared = hardware.bar_memory
        self._areas = [(0, RING_OFFSET, BAR_SIZE - RING_OFFSET)]
        if big_bar:
            self._areas.append((BIG_BAR, 0, big_bar))

    def ring(self, count: int) -> Sequence[int]:
        """Return the first `count` entries of the ring table, or all if there are fewer."""
        size = 8 * min(count, RING_ENTRIES)
        return struct.unpack(f"<{size // 8}Q", self._shared(0).read(RING_OFFSET, size))

    def clear(self) -> None:
        """Clear the memory: all of it is zero after power on."""
        for bar, _, _ in self._areas:  # of BAR 0 nothing else is ever stored to
            self._shared(bar).clear()

    def chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (BAR, offset in it, bytes) of all that is not zero."""
        for bar, start, size in self._areas:
            shared = self._shared(bar)
            seen = -1
            for at, length in shared.written(start, size):
                for number in range(max(at // CHUNK, seen + 1), (at + length - 1) // CHUNK + 1):
                    seen = number
                    place = max(number * CHUNK, start)
                    data = shared.read(place, min((number + 1) * CHUNK, start + size) - place)
                    if data != _ZEROS[: len(data)]:
                        yield bar, place, data

    def check(self, memory: Sequence[tuple[int, int, bytes]], errno: int) -> None:
        """Refuse what is not in these parts with `errno`."""
        areas = {bar: (offset, offset + size) for bar, offset, size in self._areas}
        for bar, offset, data in memory:
            start, end = areas.get(bar, (0, 0))
            if not start <= offset <= end - len(data):
                raise IoctlError(errno, f"{len(data)} bytes of memory at {offset:#x} of BAR {bar}")

    def load(self, memory: Sequence[tuple[int, int, bytes]]) -> None:
        """Take over what `chunks` has given somewhere else."""
        self.clear()
        for bar, offset, data in memory:
            self._shared(bar).write(offset, data)
