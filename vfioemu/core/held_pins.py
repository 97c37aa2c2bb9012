# SPDX-License-Identifier: MIT
"""Which pages one device holds pinned, so that it can give them back when a mapping goes or it is closed.

Kernel: every driver keeps such a list itself (the oracle's driver: an xarray by exact IOVA). Pins are keyed by the
exact IOVA, not by page: a pin at 0x2005 is not one at 0x2000.
"""

from collections.abc import Iterator
from typing import Final

_BUCKET_SHIFT: Final = 21
_U64: Final = (1 << 64) - 1
_PAGE_SHIFT: Final = 12
_PAGE_MASK: Final = (1 << _PAGE_SHIFT) - 1
_MAX_RUN: Final = 512


class HeldPins:
    """A multiset of IOVAs with lookup by range, in buckets of 2 MiB of address space."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[int, int]] = {}
        self.count = 0

    def add(self, iova: int) -> None:
        """Hold `iova` once more."""
        bucket = self._buckets.setdefault(iova >> _BUCKET_SHIFT, {})
        bucket[iova] = bucket.get(iova, 0) + 1
        self.count += 1

    def take(self, iova: int, most: int = 1) -> int:
        """Stop holding `iova`, up to `most` times; returns how often it was held, at most `most`."""
        key = iova >> _BUCKET_SHIFT
        bucket = self._buckets.get(key)
        if bucket is None or iova not in bucket:
            return 0
        taken = min(bucket[iova], most)
        bucket[iova] -= taken
        if not bucket[iova]:
            del bucket[iova]
            if not bucket:
                del self._buckets[key]
        self.count -= taken
        return taken

    def within(self, first: int, last: int) -> list[int]:
        """The IOVAs held in [first, last], ascending."""
        low, high = first >> _BUCKET_SHIFT, last >> _BUCKET_SHIFT
        if high - low < len(self._buckets):
            keys = [key for key in range(low, high + 1) if key in self._buckets]
        else:
            keys = sorted(key for key in self._buckets if low <= key <= high)
        return [iova for key in keys for iova in sorted(self._buckets[key]) if first <= iova <= last]

    def take_pages(self, iova: int, npages: int) -> list[tuple[int, int]]:
        """Stop holding `npages` pages from `iova` on, each once if it is held; returns (iova, npages) runs.

        The count comes from a guest and may be absurd: what is walked is what is held. Addresses wrap at 2^64, so that
        more than 2^52 pages come by the same page again.
        """
        pages: list[int] = []
        if 0 < npages <= self.count:
            for i in range(npages):
                page = (iova + (i << _PAGE_SHIFT)) & _U64
                pages += [page] * self.take(page)
        elif npages > 0:
            for distance, held in sorted(((held - iova) & _U64, held) for held in self.within(0, _U64)):
                nth = distance >> _PAGE_SHIFT
                if not distance & _PAGE_MASK and nth < npages:
                    rounds = 1 + ((npages - 1 - nth) >> (64 - _PAGE_SHIFT))
                    pages += [held] * self.take(held, rounds)
        return list(_join(pages))

    def take_range(self, first: int, last: int) -> list[tuple[int, int]]:
        """Stop holding everything in [first, last]; returns (iova, npages) runs, one for each time they were held."""
        pages: list[int] = []
        for iova in self.within(first, last):
            pages += [iova] * self.take(iova, self.count)
        return list(_join(pages))


def _join(pages: list[int]) -> Iterator[tuple[int, int]]:
    """Join pages that follow one another into runs of at most 512."""
    start, length = 0, 0
    for iova in pages:
        if length and iova == start + (length << _PAGE_SHIFT) and length < _MAX_RUN:
            length += 1
            continue
        if length:
            yield start, length
        start, length = iova, 1
    if length:
        yield start, length
