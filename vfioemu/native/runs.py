# SPDX-License-Identifier: MIT
"""Runs of pages as C and the migration stream have them: 16 bytes each, u64 first page and u64 number of pages.

A guest of gibibytes has hundreds of thousands of runs. They are made, cut and read in C; Python passes the array on.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import Buffer, DirtyBitmap, collect_runs

if TYPE_CHECKING:
    from vfioemu._kernel import RunPtr

RUN_SIZE: Final = 16
"""Bytes of a run."""
MAX_PAGE: Final = (1 << 64) - 2
_INVALID: Final = (1 << 64) - 1
_RUN: Final = struct.Struct("<QQ")


class Runs:
    """An array of runs.

    Args:
        data: the array, in whole runs; not copied. Its memory is aligned to 8 bytes.
    """

    __slots__ = ("_table", "data")

    def __init__(self, data: Buffer) -> None:
        self.data = memoryview(data)
        if self.data.nbytes % RUN_SIZE:
            raise ValueError(f"{self.data.nbytes} bytes are no whole runs of {RUN_SIZE} bytes")
        self._table: RunPtr = ffi.from_buffer("struct vfe_run[]", self.data)

    @classmethod
    def of(cls, runs: "Runs | Iterable[tuple[int, int]]") -> "Runs":
        """Make the array of (first, count) tuples; what is one already is returned as it is."""
        if isinstance(runs, Runs):
            return runs
        numbers = array("Q", [number for run in runs for number in run])
        return cls(memoryview(numbers).cast("B"))

    @property
    def cdata(self) -> "RunPtr":
        """The `struct vfe_run *`."""
        return self._table

    def __len__(self) -> int:
        return self.data.nbytes // RUN_SIZE

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(_RUN.iter_unpack(self.data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Runs) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]  # its memory may change

    def pages(self, npages: int = MAX_PAGE) -> int:
        """Count the pages of all runs.

        Args:
            npages: how many pages there are.

        Raises:
            ValueError: a run is empty, does not begin after the one before, or goes beyond `npages`.
        """
        total = lib.vfe_runs_pages(self._table, len(self), npages)
        if total == _INVALID:
            raise ValueError(f"runs are empty, out of order, twice, or outside of {npages} pages")
        return total


class RunQueue:
    """Runs that are taken in pieces from the front.

    Args:
        room: greatest number of runs.
    """

    __slots__ = ("_count", "_cursor", "_room", "_table", "pages")

    def __init__(self, room: int) -> None:
        self._room = room
        self._table: RunPtr = ffi.new("struct vfe_run[]", room)
        self._cursor = ffi.new("uint64_t[]", 2)
        self._count = 0
        self.pages = 0

    def refill(self, bitmap: DirtyBitmap) -> None:
        """Clear marks of a bitmap, and take them up as runs: as many as there is room for. The queue has to be empty."""
        at = ffi.new("uint64_t *", 0)
        self._cursor[0] = self._cursor[1] = 0
        self._count = lib.vfe_take_runs(bitmap.cdata, at, self._table, self._room)
        self.pages = lib.vfe_runs_pages(self._table, self._count, MAX_PAGE)

    def take(self, npages: int, max_runs: int) -> Runs:
        """Take up to `npages` pages in up to `max_runs` runs."""
        room = bytearray(RUN_SIZE * min(max_runs, self._count - self._cursor[0]))
        table = ffi.from_buffer("struct vfe_run[]", room)
        found = lib.vfe_runs_take(
            self._table, self._count, self._cursor, npages, table, len(room) // RUN_SIZE
        )
        taken = Runs(memoryview(room)[: RUN_SIZE * found])
        self.pages -= taken.pages()
        return taken

    def put_back(self, bitmap: DirtyBitmap) -> None:
        """Mark in a bitmap what is left, and be empty."""
        lib.vfe_runs_mark(self._table, self._count, self._cursor, bitmap.cdata)
        self.clear()

    def clear(self) -> None:
        """Forget what is left."""
        self._count = self.pages = 0
        self._cursor[0] = self._cursor[1] = 0


def differing_words(ours: Buffer, theirs: Buffer) -> list[tuple[int, int]]:
    """Compare two arrays of 64-bit words of the same length; return the runs of words that differ."""
    count = memoryview(ours).nbytes // 8
    if memoryview(theirs).nbytes != memoryview(ours).nbytes or memoryview(ours).nbytes % 8:
        raise ValueError(
            f"{memoryview(theirs).nbytes} bytes are not {memoryview(ours).nbytes} bytes, in whole words"
        )
    one, other = ffi.from_buffer(ours), ffi.from_buffer(theirs)
    return collect_runs(
        lambda at, table, most: lib.vfe_words_differing(one, other, count, at, table, most), count, None
    )
