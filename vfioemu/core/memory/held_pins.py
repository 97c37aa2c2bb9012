# SPDX-License-Identifier: MIT
"""Which pages one device holds pinned, so that it can give them back when a mapping goes or it is closed.

Kernel: every driver keeps such a list itself (the oracle's driver: an xarray by exact IOVA).
"""

from collections.abc import Iterator

from vfioemu.core.base.limits import PAGE_SHIFT
from vfioemu.core.memory.pin_counts import PinCounts, runs


class HeldPins:
    """A multiset of IOVAs with lookup by range. What is taken is taken as the iterator goes on: it may be a lot."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = PinCounts()

    @property
    def count(self) -> int:
        """Count the pins, repeats included."""
        return self._counts.references

    def add(self, iova: int, npages: int = 1) -> None:
        """Hold `npages` pages from `iova` on once more; addresses wrap at 2^64."""
        self._counts.add(iova, npages)

    def within(self, first: int, last: int) -> list[int]:
        """Return the IOVAs held in [first, last], ascending."""
        return sorted(
            start + (bit + i << PAGE_SHIFT)
            for start, bits in self._counts.within(first, last)
            for bit, count in runs(bits)
            for i in range(count)
        )

    def take_pages(self, iova: int, npages: int) -> Iterator[tuple[int, int]]:
        """Stop holding `npages` pages from `iova` on, each once if it is held: (iova, npages) runs of at most 512.

        The count comes from a guest and may be absurd: what is walked is what is held. Addresses wrap at 2^64, so that
        more than 2^52 pages come by the same page again.
        """
        return ((start, count) for start, count, _ in self._counts.take(iova, npages))

    def take_range(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Stop holding everything in [first, last]: (iova, npages) runs, one for each time they were held."""
        return self._counts.take_range(first, last)
