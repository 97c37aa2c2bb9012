# SPDX-License-Identifier: MIT
"""Copies of memory that a client has taken away, kept for the hardware that holds it (memory/keeping.py makes them)."""

import mmap
import weakref
from typing import Final, NamedTuple

from vfioemu.core.base.effects import Buffer
from vfioemu.io.base.usage import Usage
from vfioemu.io.memory.pages import ClientPages, FileId, Piece

_NORESERVE: Final = 0x4000  # mmap.MAP_NORESERVE, of Python 3.12
_JOURNAL: Final = 4096
"""Writes that are remembered one by one."""


class Kept:
    """What is kept: as large as the part that goes, with as much memory as there are pages in it.

    Args:
        size: bytes.
        usage: who pays.
    """

    __slots__ = ("__weakref__", "_map", "file", "journal", "local", "offset", "vaddr")

    def __init__(self, size: int, usage: Usage) -> None:
        self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        self.local = self.vaddr = self.offset = 0
        self.file: FileId | None = None
        self.journal: list[tuple[int, int]] | None = []
        usage.add(1, size)
        weakref.finalize(self, usage.add, -1, -size)
        usage.add_kept(size)
        weakref.finalize(self, usage.add_kept, -size)

    def read(self, at: int, size: int) -> bytes:
        """Return bytes at an offset."""
        return self._map[at : at + size]

    def write(self, at: int, data: Buffer) -> None:
        """Change them, and remember where, in case that they have to be given back."""
        view = memoryview(data).cast("B")
        self._map[at : at + len(view)] = view
        if self.journal is not None:
            self.journal.append((at, len(view)))
            if len(self.journal) > _JOURNAL:
                self.journal = [(0, len(self._map))]

    def take_written(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return what was written in [start, end), as (first, last), and forget it: other pages may be of the same memory."""
        written = []
        left = []
        for at, count in self.journal or ():
            first, last = max(at, start), min(at + count, end)
            if first >= last:
                left.append((at, count))
                continue
            written.append((first, last))
            left += [(a, b - a) for a, b in ((at, first), (last, at + count)) if a < b]
        if self.journal is not None:
            self.journal = left
        return written

    def fill(self, at: int, data: bytes) -> None:
        """Copy in what was there; zeros cost nothing."""
        if data.count(0) != len(data):
            self._map[at : at + len(data)] = data


class Left(NamedTuple):
    """A part of pinned pages that is about to go.

    Attributes:
        file: of which file; None: from an address.
        at: where in the file, or the address.
        pages: of which pages.
        old: where it was.
        new: where it is kept.
    """

    file: FileId | None
    at: int
    pages: "weakref.ref[ClientPages]"
    old: Piece
    new: Piece
