# SPDX-License-Identifier: MIT
"""Which pages a dma-engine pins, and when it gives them back.

A device whose group counts by its pins may write to pinned pages only: what it has written before its first pin would
be forgotten with that pin. So a device that begins to pin pins everything first that it has used so far.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_SIZE
from vfioemu.core.memory.pin_counts import PinCounts
from vfioemu.core.model.host import Host
from vfioemu.native.bitmap import DirtyBitmap

T = TypeVar("T")

PROT_WRITE: Final = 2
MAX_RUN: Final = 512
RECENT: Final = 1 << 16
_CHUNK_SHIFT: Final = 24
_CHUNK: Final = 1 << _CHUNK_SHIFT


class UsedPages:
    """Every page that has been written, in bitmaps of 64 GiB of address space each."""

    def __init__(self) -> None:
        self._chunks: dict[int, DirtyBitmap] = {}

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def mark(self, pages: Iterable[int]) -> None:
        """Note the pages at these IOVAs."""
        by_chunk: dict[int, list[int]] = {}
        for page in pages:
            number = page // PAGE_SIZE
            by_chunk.setdefault(number >> _CHUNK_SHIFT, []).append(number & (_CHUNK - 1))
        for key, numbers in by_chunk.items():
            if key not in self._chunks:
                self._chunks[key] = DirtyBitmap(_CHUNK)
            self._chunks[key].populate(numbers)

    def take(self) -> Iterator[tuple[int, int]]:
        """List (iova, npages) of every run, ascending, and forget them."""
        chunks, self._chunks = self._chunks, {}
        for key in sorted(chunks):
            for first, count in chunks[key].runs():
                yield ((key << _CHUNK_SHIFT) + first) * PAGE_SIZE, count

    def clear(self) -> None:
        """Forget all."""
        self._chunks.clear()


class HeldPages:
    """The pages that the device has pinned because it writes to them, oldest first. Each is pinned once.

    They may be millions. So only of the last 65536 it is known in which order they came.

    A mapping that is being removed must not be pinned anew by a device that was just told to let go of it: UNMAP_DMA
    would never come to its end. So what the device is busy with (`during`) leaves a range alone that was given back
    meanwhile; until the device begins something new, whoever is unmapping has asked for the container's lock.
    """

    def __init__(self) -> None:
        self._old = PinCounts()
        self._recent: dict[int, None] = {}
        self._leaving: list[tuple[int, int]] = []
        self._busy = False

    def __len__(self) -> int:
        return self._old.references + len(self._recent)

    def __contains__(self, page: int) -> bool:
        return page in self._recent or self._old.count(page) > 0

    def during(self, steps: Steps[T]) -> Steps[T]:
        """Run `steps`, in which pages are acquired. Never two at a time."""
        self._busy = True
        try:
            return (yield from steps)
        finally:
            self._busy = False
            self._leaving.clear()

    def clear(self) -> None:
        """Forget all pins, which are gone."""
        self._old.clear()
        self._recent.clear()

    def acquire(self, host: Host, pages: Iterable[int]) -> Steps[list[int]]:
        """Pin those of `pages` that are not pinned; returns those that may be written, in their order."""
        pages = list(pages)
        for first, count in _runs(sorted({page for page in pages if page not in self})):
            if not self._is_leaving(first, count):
                yield from self._pin(host, first, count)
        return [page for page in pages if page in self]

    def acquire_used(self, host: Host, used: UsedPages) -> Steps[None]:
        """Pin all of `used` that can be pinned; what is being unmapped now stays there."""
        for first, count in list(used.take()):
            for at in range(0, count, MAX_RUN):
                start, length = first + at * PAGE_SIZE, min(MAX_RUN, count - at)
                if self._is_leaving(start, length):
                    used.mark(range(start, start + length * PAGE_SIZE, PAGE_SIZE))
                else:
                    yield from self._pin(host, start, length)

    def trim(self, host: Host, most: int) -> Steps[None]:
        """Give the oldest back until `most` are left."""
        while (excess := len(self) - most) > 0:
            taken = self._old.take_some(excess)
            if not taken:
                oldest = [page for page, _ in zip(self._recent, range(excess), strict=False)]
                for page in oldest:
                    del self._recent[page]
                taken = list(_runs(sorted(oldest)))
            for first, count in taken:
                yield from host.unpin(first, count)

    def forget(self, iova: int, size: int) -> None:
        """Forget the pins in the range, `size` bytes from `iova`: it is being unmapped."""
        first, last = iova - iova % PAGE_SIZE, iova + size - 1
        if self._busy:
            self._leaving.append((iova, last))
        for page in [page for page in self._recent if first <= page <= last]:
            del self._recent[page]
        self._old.drop(first, last)

    def _is_leaving(self, first: int, count: int) -> bool:
        return any(first <= last and iova < first + count * PAGE_SIZE for iova, last in self._leaving)

    def _pin(self, host: Host, first: int, count: int) -> Steps[None]:
        """Pin a run, or else those of its pages that can be pinned."""
        try:
            yield from host.pin(first, count, PROT_WRITE)
        except IoctlError:
            if count > 1 and not self._is_leaving(first, count):
                for i in range(count):
                    yield from self._pin(host, first + i * PAGE_SIZE, 1)
            return
        for i in range(count):
            self._recent[first + i * PAGE_SIZE] = None
        while len(self._recent) > RECENT:
            page = next(iter(self._recent))
            del self._recent[page]
            self._old.add(page, 1)


def _runs(pages: list[int]) -> Iterator[tuple[int, int]]:
    """Join ascending pages into runs of at most 512."""
    start, count = 0, 0
    for page in pages:
        if count and page == start + count * PAGE_SIZE and count < MAX_RUN:
            count += 1
            continue
        if count:
            yield start, count
        start, count = page, 1
    if count:
        yield start, count
