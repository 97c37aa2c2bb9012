# SPDX-License-Identifier: MIT
"""The last write of a dma-engine to each page: for those who want to prove, from outside, that nothing got lost.

A journal is kept from an open of the device to the next, so it can be read after the client has gone. Writes that left no
dirty mark are in it as well: that is what proves a liar.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from vfioemu.core.base.limits import PAGE_MASK, U64_MAX
from vfioemu.native.dma import DmaBatch, Op, Status

MAX_PAGES: Final = 1 << 18
"""Pages that are remembered: beyond, those that were written first are forgotten."""
MAX_ANSWER: Final = 1 << 16
"""Pages of which one answer tells."""


class Journal:
    """The last write to each page: where its stamp begins, its sequence number, its length."""

    def __init__(self) -> None:
        self._writes: dict[int, tuple[int, int, int]] = {}
        self._sorted: list[int] | None = None

    def __len__(self) -> int:
        return len(self._writes)

    def clear(self) -> None:
        """Forget all writes."""
        self._writes.clear()
        self._sorted = None

    def note(self, batch: DmaBatch, first_seq: int) -> None:
        """Note the writes of a batch that reached memory. Write i has the number first_seq + i."""
        writes = self._writes
        before = len(writes)
        for number in range(len(batch)):
            transfer = batch[number]
            if transfer.status == Status.DONE and transfer.op != Op.READ:
                writes[transfer.iova & PAGE_MASK] = (
                    transfer.iova,
                    first_seq + number & U64_MAX,
                    transfer.size,
                )
        while len(writes) > MAX_PAGES:
            del writes[next(iter(writes))]
            before = -1
        if len(writes) != before:
            self._sorted = None

    def forget(self, pages: Iterable[int]) -> None:
        """Forget these pages: something else has been written to them."""
        for page in pages:
            if self._writes.pop(page, None) is not None:
                self._sorted = None

    def tell(self, first: int = 0, limit: int = MAX_ANSWER) -> tuple[list[tuple[int, int, int]], int | None]:
        """List (iova, sequence number, length) of the writes to pages from `first` on, ascending, at most `limit`.

        Returns:
            Those, and the page to go on with, or None at the end.
        """
        if self._sorted is None:
            self._sorted = sorted(self._writes)
        begin = bisect_left(self._sorted, first & PAGE_MASK)
        end = begin + max(1, min(limit, MAX_ANSWER))
        following = self._sorted[end] if end < len(self._sorted) else None
        return [self._writes[page] for page in self._sorted[begin:end]], following
