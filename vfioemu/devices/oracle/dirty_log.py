# SPDX-License-Identifier: MIT
"""The oracle's log of DMA writes: what its hardware is told to have written."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from vfioemu.core.base.limits import U64_MAX
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange


class PageRuns:
    """A set of page numbers as sorted, disjoint runs: what a guest asks to mark may be 2^52 pages."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add the pages [first, last]."""
        low = bisect_left(self._last, first - 1)
        high = bisect_right(self._first, last + 1)
        if low < high:
            first, last = min(first, self._first[low]), max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]

    def take(self, first: int, last: int) -> list[tuple[int, int]]:
        """Remove the pages [first, last]; returns those that were there, as runs."""
        low, high = bisect_left(self._last, first), bisect_right(self._first, last)
        if low >= high:
            return []
        runs = list(zip(self._first[low:high], self._last[low:high], strict=True))
        left = [(runs[0][0], first - 1)] if runs[0][0] < first else []
        right = [(last + 1, runs[-1][1])] if last < runs[-1][1] else []
        self._first[low:high] = [run[0] for run in left + right]
        self._last[low:high] = [run[1] for run in left + right]
        return [(max(run[0], first), min(run[1], last)) for run in runs]


class DirtyLog:
    """The device's own log of DMA writes, in pages of the size that it logs with."""

    def __init__(self, page_size: int, ranges: Sequence[LogRange]) -> None:
        self._page_size = page_size
        self._ranges = tuple(ranges)
        self._pages = PageRuns()

    def mark(self, iova: int, size: int) -> int:
        """Mark [iova, iova+size), to which the hardware writes; return how many marks it made (do_logdirty)."""
        marks = 0
        for range_ in self._ranges:
            start = max(iova, range_.start)
            end = min((iova + size - 1) & U64_MAX, range_.last)
            if start <= end:
                first, last = start // self._page_size, end // self._page_size
                self._pages.add(first, last)
                marks += last - first + 1
        return marks

    def report(self, iova: int, length: int, sink: DirtySink) -> None:
        """Report and forget the pages of [iova, iova+length) (md_log_read_and_clear)."""
        end = (iova + length - 1) & U64_MAX
        for first, last in self._pages.take(iova // self._page_size, end // self._page_size):
            start = max(iova, first * self._page_size)
            size = (min(end, (last + 1) * self._page_size - 1) - start + 1) & U64_MAX
            sink.set_each(start, size, self._page_size)
