# SPDX-License-Identifier: MIT
"""Long work in slices: loops that a caller can make as long as he likes give way now and then, by `Breathe`.

A slice is measured in work, not in time: the core has no clock, and the same calls have the same effects on any machine.
Locks stay held meanwhile, so whoever wants the same container waits, and what the kernel does under iommu->lock stays one
step to everybody; all others are served.
"""

from typing import Final

from vfioemu.core.base.effects import Breathe, Steps

SLICE: Final = 1 << 12
"""Units of work that are done in one go. A unit takes some tenths of a microsecond: a page of a list, a word of a bitmap."""
MAPPING: Final = 32
"""Work: something that is done to a mapping."""
_BREATHE: Final = Breathe()


class Slices:
    """Counts the work of one handler: ``if slices.done(MAPPING): yield from slices.breathe()``."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = SLICE

    def done(self, work: int) -> bool:
        """So much has been done, or is about to be: whether it is time to breathe."""
        self._left -= work
        return self._left < 0

    def breathe(self) -> Steps[None]:
        """Let others be served."""
        self._left = SLICE
        yield _BREATHE
