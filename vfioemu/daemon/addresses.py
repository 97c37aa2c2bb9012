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
class Window:
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
        self._taken: dict[str, dict[tuple[int, bool], Window]] = {}

    def place(self, name: str, windows: Mapping[int, Window], *, wide: frozenset[int]) -> dict[int, Window]:
        """Place the windows of a function at free addresses; return them by index.

        Args:
            name: the function's; a known one gets the same addresses again.
            windows: by index.
            wide: indexes of those that may lie above 4 GiB.
        """
        taken = self._taken.setdefault(name, {})
        others = [
            window for other, theirs in self._taken.items() if other != name for window in theirs.values()
        ]
        placed: dict[int, Window] = {}
        for index, window in windows.items():
            known = taken.get((index, window.io))
            if known is None or known.size != window.size:
                start = _free(window, [*others, *placed.values()], wide=index in wide)
                known = Window(start, window.size, window.flags)
            placed[index] = taken[index, window.io] = known
        return placed


def _free(window: Window, others: list[Window], *, wide: bool) -> int:
    """Find an address for a window: the one it asks for, the next free one after it, or the first free one."""
    rivals = sorted((other.start, other.start + other.size) for other in others if other.io == window.io)
    space = _IO if window.io else _HIGH if wide and window.start >= 1 << 32 else _LOW
    for begin in (window.start or space.start, space.start):
        start = -(-begin // window.size) * window.size
        for first, end in rivals:
            if first < start + window.size and start < end:
                start = -(-end // window.size) * window.size
        if start == window.start or start + window.size <= space.stop:
            return start
    return -(-_HIGH.start // window.size) * window.size if wide else window.start
