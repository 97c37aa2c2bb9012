# SPDX-License-Identifier: MIT
"""Assign addresses to the BARs of all functions, as firmware does: those that the models ask for, without overlaps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_IO: Final = range(0xC000, 0x10000)
_LOW: Final = range(0x80000000, 0xFEC00000)
"""32-bit memory, up to the I/O APIC."""
_HIGH: Final = range(0xC000000000, 1 << 52)


@dataclass(frozen=True, slots=True)
class BarRange:
    """Address range that a BAR decodes.

    Attributes:
        start: its address; 0 if none was asked for.
        size: in bytes, a power of two.
        flags: IORESOURCE_*, as sysfs `resource` shows them.
    """

    start: int
    size: int
    flags: int

    @property
    def io(self) -> bool:
        """True for I/O ports."""
        return bool(self.flags & 0x100)


class Addresses:
    """The addresses of a machine."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[tuple[int, bool], BarRange]] = {}

    def place(self, name: str, bars: Mapping[int, BarRange], *, wide: frozenset[int]) -> dict[int, BarRange]:
        """Place the BARs of a function at free addresses; return them by index.

        Args:
            name: the function's; a known one gets the same addresses again.
            bars: by index.
            wide: indexes of those that may lie above 4 GiB.
        """
        taken = self._taken.setdefault(name, {})
        others = [bar for other, theirs in self._taken.items() if other != name for bar in theirs.values()]
        placed: dict[int, BarRange] = {}
        for index, bar in bars.items():
            known = taken.get((index, bar.io))
            if known is None or known.size != bar.size:
                start = _free(bar, [*others, *placed.values()], wide=index in wide)
                known = BarRange(start, bar.size, bar.flags)
            placed[index] = taken[index, bar.io] = known
        return placed


def _free(bar: BarRange, others: list[BarRange], *, wide: bool) -> int:
    """Find an address for a BAR: the one it asks for, the next free one after it, or the first free one."""
    rivals = sorted((other.start, other.start + other.size) for other in others if other.io == bar.io)
    space = _IO if bar.io else _HIGH if wide and bar.start >= 1 << 32 else _LOW
    for begin in (bar.start or space.start, space.start):
        start = -(-begin // bar.size) * bar.size
        for first, end in rivals:
            if first < start + bar.size and start < end:
                start = -(-end // bar.size) * bar.size
        if start == bar.start or start + bar.size <= space.stop:
            return start
    return -(-_HIGH.start // bar.size) * bar.size if wide else bar.start
