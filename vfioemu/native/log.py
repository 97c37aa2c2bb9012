# SPDX-License-Identifier: MIT
"""A device's own dirty log (VFIO_DEVICE_FEATURE_DMA_LOGGING): ranges of IOVAs, each with a bitmap of its page size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import DirtyBitmap

if TYPE_CHECKING:
    from vfioemu._kernel import LogPtr


class DirtyLog:
    """Bitmaps over ranges of IOVAs.

    Args:
        pgshift: log2 of the page size.
        ranges: (iova, size) of each, not empty and not overlapping, in any order.

    Raises:
        ValueError: a range is empty, ends past 2^64, or overlaps another.
        MemoryError: no address space for the bitmaps.

    Attributes:
        pgshift: log2 of the page size.
        ranges: (iova, size, bitmap) of each, ascending; bit 0 is the page at `iova`.
    """

    __slots__ = ("_log", "pgshift", "ranges")

    def __init__(self, pgshift: int, ranges: Sequence[tuple[int, int]]) -> None:
        if not 0 <= pgshift < 64:
            raise ValueError(f"pgshift {pgshift} is outside 0..63")
        end = 0
        for iova, size in sorted(ranges):
            if size <= 0 or iova < end or iova + size > 1 << 64:
                raise ValueError(f"range {iova:#x}+{size:#x} is empty, ends past 2^64 or overlaps another")
            end = iova + size
        page = 1 << pgshift
        self.pgshift = pgshift
        self.ranges = tuple(
            (iova, size, DirtyBitmap((size + page - 1) >> pgshift)) for iova, size in sorted(ranges)
        )
        table = [(iova, iova + size - 1, bitmap.cdata) for iova, size, bitmap in self.ranges]
        log = lib.vfe_log_create(ffi.new("struct vfe_log_range[]", table), len(table), pgshift)
        if not log:
            raise MemoryError(f"no memory for a dirty log of {len(table)} ranges")
        self._log: LogPtr = ffi.gc(log, lib.vfe_log_destroy)

    @property
    def cdata(self) -> "LogPtr":
        """The `struct vfe_log *`."""
        return self._log

    def mark(self, iova: int, size: int) -> None:
        """Mark the pages that a write of `size` bytes at `iova` touched; bytes outside the ranges are ignored."""
        if size <= 0 or iova < 0 or iova + size > 1 << 64:
            raise ValueError(f"write of {size:#x} bytes at {iova:#x} is empty or ends past 2^64")
        lib.vfe_log_mark(self._log, iova, iova + size - 1)

    def count(self) -> int:
        """Return the number of marked pages in all ranges."""
        return sum(bitmap.count() for _, _, bitmap in self.ranges)
