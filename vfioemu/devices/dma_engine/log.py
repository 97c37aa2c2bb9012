# SPDX-License-Identifier: MIT
"""A dma-engine's own log of its writes (DMA logging): the C kernel's bitmaps, one for each range.

Marks are set by the same C call that copies the data, after it. A report takes them atomically.
"""

import errno
from collections.abc import Sequence
from typing import Final

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.slices import Slices
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange
from vfioemu.native.bitmap import DirtyBitmap, buffer_runs
from vfioemu.native.log import DirtyLog

MIN_PAGE_SIZE: Final = 4 << 10
MAX_PAGE_SIZE: Final = 2 << 20
MAX_PAGES: Final = 1 << 33
"""Pages that can be logged in all: 32 TiB in 4 KiB pages."""
_PIECE: Final = 1 << 15
"""Pages that are reported at a time: a chunk of the C kernel's."""


def start(page_size: int, ranges: Sequence[LogRange]) -> DirtyLog:
    """Start a log of the page size, in bytes, that is nearest to the one asked for.

    Raises:
        IoctlError: EINVAL for a page size that is no power of two, ENOMEM for more pages than there is room for.
    """
    if page_size <= 0 or page_size & (page_size - 1):
        raise IoctlError(errno.EINVAL, f"page size {page_size:#x} is no power of two")
    page_size = min(max(page_size, MIN_PAGE_SIZE), MAX_PAGE_SIZE)
    sizes = [(range_.start, (range_.last - range_.start + 1) % (1 << 64)) for range_ in ranges]
    wanted = [(iova, size) for iova, size in sizes if size]
    if sum(size // page_size for _, size in wanted) > MAX_PAGES:
        raise IoctlError(errno.ENOMEM, f"more than {MAX_PAGES} pages to log")
    try:
        return DirtyLog(page_size.bit_length() - 1, wanted)
    except MemoryError as error:
        raise IoctlError(errno.ENOMEM, "no memory for the bitmaps of a dirty log") from error


def report(log: DirtyLog, iova: int, length: int, sink: DirtySink) -> Steps[None]:
    """Move the marks of the pages that [iova, iova+length) touches into `sink`: where there are some, piece by piece."""
    end = iova + length
    slices = Slices()
    for start_, size, bitmap in log.ranges:
        low, high = max(iova, start_), min(end, start_ + size)
        if low >= high:
            continue
        first = (low - start_) >> log.pgshift
        last = (high - 1 - start_) >> log.pgshift
        while (first := bitmap.first_marked(first)) <= last:
            count = min(_PIECE - first % _PIECE, last + 1 - first)
            _report_range(log, start_, bitmap, (first, count), sink)
            first += count
            if sink.loaded:
                yield from sink.deliver()
            if slices.done(_PIECE // 64):
                yield from slices.breathe()


def _report_range(
    log: DirtyLog, start_: int, bitmap: DirtyBitmap, pages: tuple[int, int], sink: DirtySink
) -> None:
    """Report pages (first, count) of one range: as bits where pages and bits are the same, else as addresses."""
    first, count = pages
    page_size = 1 << log.pgshift
    address = start_ + first * page_size
    if page_size == sink.page_size and address >= sink.iova and (address - sink.iova) % page_size == 0:
        bit = (address - sink.iova) >> log.pgshift
        words = bytearray(((bit & 63) + count + 63) // 64 * 8)
        bitmap.harvest_or(words, first, count, bit & 63)
        sink.merge(bit >> 6 << 3, words)
        return
    words = bytearray((count + 63) // 64 * 8)
    bitmap.harvest_or(words, first, count)
    for run, npages in buffer_runs(words, count):
        low = max(sink.iova, address + run * page_size)
        high = min(sink.iova + sink.length, address + (run + npages) * page_size)
        sink.set(low, high - low)
