# SPDX-License-Identifier: MIT
"""A table with the sum of each page of a memory, and the walks over runs of pages that fill it (csrc/vfe_sums.h).

A call walks a whole list of runs without the GIL. With the fd of the memfd behind the memory, holes of it are not read: they are
pages of zeros, and a read through a mapping would allocate them.

Memory may change meanwhile. Then a sum is that of a mixture of old and new, and the page is dirty anyway.
"""

import mmap
from typing import TYPE_CHECKING, Final, NamedTuple

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import Buffer, DirtyBitmap, Isa, collect_runs, isa_number
from vfioemu.native.runs import RUN_SIZE, Runs

if TYPE_CHECKING:
    from vfioemu._kernel import ConstBytesPtr, U64Ptr

PAGE_SIZE: Final = 4096
SUM_SIZE: Final = 8
UNSET: Final = 0
"""Entry of a page that was never summed."""
ZERO_SUM: Final = lib.vfe_zero_sum(PAGE_SIZE)
"""Entry of a page of zeros."""
NO_FILE: Final = -1
"""Instead of an fd: nothing is a hole."""


class SumTable:
    """The sums of `npages` pages of 4096 bytes, none of them known; entries that are not known cost no memory.

    Args:
        npages: at least 1.
    """

    def __init__(self, npages: int) -> None:
        if npages <= 0:
            raise ValueError(f"a table of {npages} pages")
        self.npages = npages
        # Private: what is shared and anonymous counts as shared memory, and that is for guests.
        self._map = mmap.mmap(-1, npages * SUM_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._table: U64Ptr = ffi.from_buffer("uint64_t[]", self._map)

    @property
    def cdata(self) -> "U64Ptr":
        """The table, for C."""
        return self._table

    def clear(self) -> None:
        """Forget all sums."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def set_zero(self, runs: Runs) -> None:
        """Enter the sum of a page of zeros for each page of `runs`."""
        runs.pages(self.npages)
        lib.vfe_sums_set(self._table, runs.cdata, len(runs), ZERO_SUM)

    def sum(self, memory: Buffer, fd: int, runs: Runs) -> None:
        """Compute the sums of the pages of `runs` from memory.

        Args:
            memory: all of the memory.
            fd: the file that is mapped there, or NO_FILE.
            runs: ascending.
        """
        runs.pages(self.npages)
        lib.vfe_sums_take(self.address(memory), fd, PAGE_SIZE, runs.cdata, len(runs), self._table)

    def compare(self, memory: Buffer, fd: int) -> list[tuple[int, int]]:
        """Sum all pages of memory anew; return the runs of pages whose sum is not that of the table."""
        address = self.address(memory)
        return collect_runs(
            lambda at, found, most: lib.vfe_sums_differing(
                address, fd, PAGE_SIZE, self.npages, self._table, at, found, most
            ),
            self.npages,
            None,
        )

    def chunk_digests(self, chunk: int) -> bytes:
        """Return the XXH64, 8 bytes each, of each `chunk` entries of the table; the last ones may be fewer."""
        out = bytearray((self.npages + chunk - 1) // chunk * SUM_SIZE)
        lib.vfe_sums_digests(self._table, self.npages, chunk, ffi.from_buffer("uint64_t[]", out))
        return bytes(out)

    def unset(self) -> int:
        """Count the pages that were never summed."""
        return lib.vfe_sums_unset(self._table, self.npages)

    def packed(self, first: int, count: int) -> bytes:
        """Return `count` entries from `first`, 8 bytes each."""
        if first < 0 or count < 0 or first + count > self.npages:
            raise IndexError(f"sums of pages {first}+{count} are outside of {self.npages} pages")
        return self._map[first * SUM_SIZE : (first + count) * SUM_SIZE]

    def address(self, memory: Buffer) -> "ConstBytesPtr":
        """Check that a memory has the pages of this table, and return it for C."""
        pointer = ffi.from_buffer(memory)
        if len(pointer) < self.npages * PAGE_SIZE:
            raise ValueError(f"{len(pointer)} bytes of memory are not {self.npages} pages")
        return pointer

    def close(self) -> None:
        """Give up the memory; a use afterwards is a TypeError."""
        self._table = None  # type: ignore[assignment]  # cffi refuses it as an argument
        self._map.close()


class Sorted(NamedTuple):
    """A piece of a list of runs: pages with contents, how many they are, and pages that are all zero."""

    full: Runs
    pages: int
    zero: Runs


class Sorting:
    """A list of runs that is sorted into pages with contents and zero pages, in pieces; their sums go into a table.

    Args:
        table: where the sums go.
        memory: all of the memory.
        fd: the file that is mapped there, or NO_FILE.
        runs: ascending.
        isa: as for a DirtyBitmap.

    Attributes:
        done: nothing is left. Until then it keeps a view of the memory.
    """

    def __init__(
        self, table: SumTable, memory: Buffer, fd: int, runs: Runs, *, isa: Isa | None = None
    ) -> None:
        runs.pages(table.npages)
        self.done = not len(runs)
        self._table = table
        self._memory: ConstBytesPtr | None = table.address(memory)
        self._fd = fd
        self._runs = runs
        self._cursor = ffi.new("uint64_t[]", 2)
        self._isa = isa_number(isa)

    def step(self, max_runs: int, max_pages: int) -> Sorted:
        """Sort a piece: at most `max_runs` of either kind, and `max_pages` with contents."""
        if max_runs < 1 or max_pages < 1:
            raise ValueError(f"a piece of {max_runs} runs and {max_pages} pages")
        if self._memory is None:
            raise ValueError("all of it has been sorted")
        full, zero = bytearray(RUN_SIZE * max_runs), bytearray(RUN_SIZE * max_runs)
        counts = ffi.new("uint64_t[]", 3)
        self.done = lib.vfe_sums_sort(
            self._memory,
            self._fd,
            PAGE_SIZE,
            self._runs.cdata,
            len(self._runs),
            self._cursor,
            self._table.cdata,
            ffi.from_buffer("struct vfe_run[]", full),
            ffi.from_buffer("struct vfe_run[]", zero),
            max_runs,
            max_pages,
            counts,
            self._isa,
        )
        if self.done:
            self._memory = None  # it keeps the memory from being unmapped
        return Sorted(_first(full, counts[0]), counts[2], _first(zero, counts[1]))

    def put_back(self, bitmap: DirtyBitmap) -> None:
        """Mark in a bitmap what is left, and let go of the memory: nothing is left then."""
        lib.vfe_runs_mark(self._runs.cdata, len(self._runs), self._cursor, bitmap.cdata)
        self._cursor[0], self._cursor[1] = len(self._runs), 0
        self._memory = None
        self.done = True


def _first(room: bytearray, count: int) -> Runs:
    return Runs(memoryview(room)[: RUN_SIZE * count])
