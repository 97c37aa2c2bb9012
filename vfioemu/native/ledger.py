# SPDX-License-Identifier: MIT
"""The ledger of a device's writes into guest memory: pages, a counter, and the last writes one by one (csrc/vfe_ledger.h).

A verification reads it beside dirty tracking, to find what that has missed; nothing of the uAPI does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from vfioemu._kernel import ffi, lib
from vfioemu.native.dma import DmaBatch
from vfioemu.native.log import DirtyLog

if TYPE_CHECKING:
    from vfioemu._kernel import LedgerPtr

PGSHIFT: Final = 12
RING: Final = 4096
"""Writes that are remembered one by one."""


class Written(NamedTuple):
    """One write: `seq` counts the device's from 1, `when` is CLOCK_MONOTONIC in nanoseconds."""

    seq: int
    iova: int
    size: int
    when: int
    stopped: bool


class WriteLedger:
    """The ledger of one device.

    Args:
        ranges: (iova, size) of each range of which pages are noted; not empty and not overlapping.
        ring: number of writes that are remembered one by one.

    Raises:
        ValueError: a range is empty, ends past 2^64, or overlaps another.
        MemoryError: no memory for it.

    Attributes:
        pages: the pages that were written since somebody took them, as a dirty log.
    """

    __slots__ = ("_ledger", "_room", "pages")

    def __init__(self, ranges: Sequence[tuple[int, int]], ring: int = RING) -> None:
        if ring < 1:
            raise ValueError(f"a ring of {ring} writes")
        self.pages = DirtyLog(PGSHIFT, ranges)
        ledger = lib.vfe_ledger_create(self.pages.cdata, ring)
        if not ledger:
            raise MemoryError(f"no memory for a ledger of {ring} writes")
        self._ledger: LedgerPtr = ffi.gc(ledger, lib.vfe_ledger_destroy)
        self._room = ring

    @property
    def writes(self) -> int:
        """The number of writes so far."""
        return self._ledger.writes

    @property
    def stopped(self) -> int:
        """The number of those that were made in a state in which the device may not write."""
        return self._ledger.stopped

    def begin(self, iova: int, size: int) -> None:
        """Mark the pages of a write that is about to be made: who reads the ledger meanwhile is told of it."""
        if 0 < size and 0 <= iova < 1 << 64:
            self.pages.mark(iova, min(size, (1 << 64) - iova))

    def note(self, iova: int, size: int, *, stopped: bool) -> None:
        """Note a write that has been made, in full or in part."""
        if 0 < size < 1 << 64 and 0 <= iova < 1 << 64:
            lib.vfe_ledger_note(self._ledger, iova, size, stopped)

    def begin_batch(self, batch: DmaBatch) -> None:
        """Mark the pages of the writes of a batch that is about to be made."""
        descriptors, _ = batch.cdata
        lib.vfe_ledger_mark_batch(self._ledger, descriptors, len(batch))

    def note_batch(self, batch: DmaBatch, *, stopped: bool) -> None:
        """Note the writes of a batch that has been made; of what failed some may have been written."""
        descriptors, _ = batch.cdata
        lib.vfe_ledger_note_batch(self._ledger, descriptors, len(batch), stopped)

    def since(self, seq: int, *, stopped: bool = False, limit: int = RING) -> list[Written]:
        """Return the writes after number `seq`, oldest first, as far as they are remembered.

        Args:
            seq: 0 for all.
            stopped: only those made in a state in which the device may not write.
            limit: greatest number of them.
        """
        most = max(0, min(limit, self._room))
        out = ffi.new("struct vfe_written[]", most)
        found = lib.vfe_ledger_since(self._ledger, min(max(0, seq), (1 << 64) - 1), stopped, out, most)
        return [
            Written(one.seq, one.iova, one.size, one.when, bool(one.stopped))
            for one in (out[i] for i in range(found))
        ]
