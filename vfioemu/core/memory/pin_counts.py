# SPDX-License-Identifier: MIT
"""How often each page is pinned: by bits, so that millions of pins cost no more than the memory that they pin is worth.

A pin is keyed by its exact IOVA, as in the kernel: one at 0x2005 is not one at 0x2000. An *area* is 4096 such addresses, a
page apart; its counts are binary numbers whose digits lie in planes: plane k, a Python integer, has digit k of each count. So
a page that is pinned once takes a bit, and what a run of pages costs does not depend on how many they are.
"""

from collections.abc import Iterator
from typing import Final

from vfioemu.core.base.limits import PAGE_SHIFT, U64_MAX
from vfioemu.core.base.quota import UNBOUNDED, Quota

AREA_SHIFT: Final = 12
AREA: Final = 1 << AREA_SHIFT
"""Pages of an area, 16 MiB of them."""
MAX_RUN: Final = 512
_FIELD: Final = (AREA - 1) << PAGE_SHIFT
"""Which bits of an IOVA say where in its area it is."""


class PinCounts:
    """A multiset of IOVAs.

    Args:
        quota: what its planes are counted in.
    """

    __slots__ = ("_areas", "_quota", "references")

    def __init__(self, quota: Quota = UNBOUNDED) -> None:
        self._areas: dict[int, list[int]] = {}
        self._quota = quota
        self.references = 0
        """The number of pins, repeats included."""

    def __bool__(self) -> bool:
        return bool(self._areas)

    def __len__(self) -> int:
        """Count the different IOVAs that are pinned."""
        return sum(_any(planes).bit_count() for planes in self._areas.values())

    def count(self, iova: int) -> int:
        """How often an IOVA is pinned."""
        planes = self._areas.get(iova & ~_FIELD, ())
        bit = (iova & _FIELD) >> PAGE_SHIFT
        return sum((plane >> bit & 1) << k for k, plane in enumerate(planes))

    def run(self, iova: int, npages: int) -> tuple[bool, int]:
        """Tell whether `iova` is pinned, and for how many pages from there on, at most `npages`, that is so."""
        key, bit = iova & ~_FIELD, (iova & _FIELD) >> PAGE_SHIFT
        bits = _any(self._areas.get(key, ())) >> bit
        pinned = bool(bits & 1)
        same = ~bits if pinned else bits
        length = (same & -same).bit_length() - 1 if same else AREA
        return pinned, min(length, AREA - bit, npages)

    def add(self, iova: int, npages: int) -> None:
        """Pin `npages` pages from `iova` on once more, which may pass 2^64.

        Raises:
            IoctlError: ENOMEM; nothing is pinned.
        """
        done = 0
        for key, mask, count in _pieces(iova, npages):
            planes = self._areas.get(key)
            if planes is None:
                planes = []
            carry, k, last = mask, 0, len(planes)
            while carry and k < last:
                carry &= planes[k]
                k += 1
            if carry:
                try:
                    self._quota.take(1)
                except BaseException:
                    self.references += done  # what take() takes from it
                    for _ in self.take(iova, done):
                        pass
                    raise
                planes.append(0)
                self._areas[key] = planes
            carry, k = mask, 0
            while carry:
                planes[k], carry = planes[k] ^ carry, planes[k] & carry
                k += 1
            done += count
        self.references += npages

    def take(self, iova: int, npages: int) -> Iterator[tuple[int, int, int]]:
        """Unpin pages from `iova` on, each once if it is pinned: (iova, npages, gone) for each run of at most 512.

        `gone` says how many of the run are not pinned any more. `npages` may be absurd, and addresses wrap: what is walked
        is what is pinned, and who comes by a page more than once unpins it as often. Work is done as it is asked for.
        """
        if npages <= len(self._areas) << AREA_SHIFT:
            for key, mask, _ in _pieces(iova, npages):
                yield from self._take(key, mask)
            return
        span = 1 << (64 - PAGE_SHIFT)
        for key in self._keys(iova & ((1 << PAGE_SHIFT) - 1)):
            for first in range(0, npages, span):
                mask = _within(key, iova, min(npages - first, span))
                if not mask & _any(self._areas.get(key, ())):
                    break  # a later round is no longer
                yield from self._take(key, mask)

    def take_range(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Unpin all in [first, last]: runs of at most 512, each as often as it was pinned. Work is done as it is asked for."""
        for key in self._keys_between(first, last):
            low = max(0, -(-(first - key) >> PAGE_SHIFT))
            high = min(AREA - 1, (last - key) >> PAGE_SHIFT)
            mask = (1 << high + 1) - (1 << low) if low <= high else 0
            while mask & _any(self._areas.get(key, ())):
                for iova, npages, _ in self._take(key, mask):
                    yield iova, npages

    def take_some(self, most: int) -> list[tuple[int, int]]:
        """Unpin at most `most` pages of some area, each once: the runs; none if nothing is pinned."""
        for key, planes in self._areas.items():
            mask, left = 0, most
            for bit, count in runs(_any(planes)):
                count = min(count, left)
                mask |= (1 << count) - 1 << bit
                left -= count
                if not left:
                    break
            return [(iova, npages) for iova, npages, _ in self._take(key, mask)]
        return []

    def drop(self, first: int, last: int) -> None:
        """Forget all in [first, last], at once: an area costs no more than a page of it."""
        for key in self._keys_between(first, last):
            if first <= key and key + _FIELD <= last:
                planes = self._areas.pop(key)
                self.references -= sum(plane.bit_count() << k for k, plane in enumerate(planes))
                self._quota.give(len(planes))
            else:
                for _ in self.take_range(max(first, key), min(last, key + _FIELD)):
                    pass

    def within(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the areas with pins in [first, last], ascending: (IOVA of bit 0, bits of the pinned pages)."""
        for key in self._keys_between(first, last):
            low = max(0, -(-(first - key) >> PAGE_SHIFT))
            high = min(AREA - 1, (last - key) >> PAGE_SHIFT)
            if low <= high and (bits := _any(self._areas.get(key, ())) & ((1 << high + 1) - (1 << low))):
                yield key, bits

    def clear(self) -> None:
        """Nothing is pinned."""
        self._quota.give(sum(map(len, self._areas.values())))
        self._areas.clear()
        self.references = 0

    def _take(self, key: int, mask: int) -> Iterator[tuple[int, int, int]]:
        planes = self._areas.get(key)
        if planes is None:
            return
        taken = _any(planes) & mask
        borrow = taken
        for k, plane in enumerate(planes):
            planes[k], borrow = plane ^ borrow, borrow & ~plane
        gone = taken & ~_any(planes)
        before = len(planes)
        while planes and not planes[-1]:
            planes.pop()
        self._quota.give(before - len(planes))
        if not planes:
            del self._areas[key]
        self.references -= taken.bit_count()
        for bit, count in runs(taken):
            yield key + (bit << PAGE_SHIFT), count, (gone >> bit & (1 << count) - 1).bit_count()

    def _keys(self, phase: int) -> list[int]:
        return sorted(key for key in self._areas if key & ~_FIELD & ((1 << PAGE_SHIFT) - 1) == phase)

    def _keys_between(self, first: int, last: int) -> list[int]:
        low = (first >> PAGE_SHIFT + AREA_SHIFT) << PAGE_SHIFT + AREA_SHIFT
        number = (last - low >> PAGE_SHIFT + AREA_SHIFT) + 1
        if number < len(self._areas) and all(not key & ((1 << PAGE_SHIFT) - 1) for key in self._areas):
            wanted = range(low, last + 1, AREA << PAGE_SHIFT)
            return [key for key in wanted if key in self._areas]
        return sorted(key for key in self._areas if low <= key <= last)


def runs(bits: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of ones as (first, count), ascending, none longer than 512."""
    at = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        at += skip
        length = min((~bits & bits + 1).bit_length() - 1, MAX_RUN)
        yield at, length
        bits >>= length
        at += length


def _any(planes: "list[int] | tuple[()]") -> int:
    bits = 0
    for plane in planes:
        bits |= plane
    return bits


def _pieces(iova: int, npages: int) -> Iterator[tuple[int, int, int]]:
    """Split a run of 4 KiB pages by areas: (key, mask, number of pages)."""
    while npages > 0:
        bit = (iova & _FIELD) >> PAGE_SHIFT
        count = min(npages, AREA - bit)
        yield iova & ~_FIELD, ((1 << count) - 1) << bit, count
        iova = (iova + (count << PAGE_SHIFT)) & U64_MAX
        npages -= count


def _within(key: int, iova: int, npages: int) -> int:
    """Which pages of an area are among `npages` (at most all that there are) from `iova` on, which may pass 2^64."""
    mask = 0
    for start in (iova, iova - (1 << 64)):
        low = (start - key) >> PAGE_SHIFT
        first, end = max(low, 0), min(low + npages, AREA)
        if first < end:
            mask |= (1 << end) - (1 << first)
    return mask
