# SPDX-License-Identifier: MIT
"""Guest RAM: what is in it, and which pages of it still have to be sent."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from vfioemu.migration.cpu_ledger import CpuLedger
from vfioemu.migration.plan import PAGE
from vfioemu.migration.stream import Run
from vfioemu.migration.sums import PageSums
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.native.move import punch
from vfioemu.native.runs import RunQueue, Runs
from vfioemu.native.sums import Sorting

_QUEUED: Final = 1 << 14
"""Runs that a page map takes from its bitmap at once."""


class SharedMemory(Protocol):
    """A sealed memfd that is mapped here: `vfioemu.client.Memory`."""

    @property
    def address(self) -> int:
        """Where it is mapped."""

    @property
    def view(self) -> memoryview:
        """Its bytes, writable."""

    @property
    def fd(self) -> int:
        """Its memfd."""


class PageMap:
    """Pages of one RAM block that have to be sent.

    Pages that were taken for sending but not sent yet wait in a queue in front of the bitmap; they are dirty still.
    """

    def __init__(self, npages: int) -> None:
        self.npages = npages
        self._bits = DirtyBitmap(npages)
        self._queue = RunQueue(_QUEUED)

    def __len__(self) -> int:
        return self._queue.pages + self._bits.count()

    def fill(self) -> None:
        """All pages: the bulk round."""
        self._queue.clear()
        self._bits.fill()

    def merge(self, data: bytes | bytearray | memoryview) -> int:
        """OR a bitmap of the whole block into it; how many pages that added."""
        self._unqueue()
        before = self._bits.count()
        self._bits.merge(data, 0, self.npages)
        return self._bits.count() - before

    def merge_all(self) -> int:
        """OR a bitmap of ones into it; return how many pages that added."""
        before = len(self)
        self.fill()
        return self.npages - before

    def take(self, npages: int, max_runs: int) -> Runs:
        """Up to `npages` pages in up to `max_runs` runs, which are clean from now on: read them after this call."""
        if not self._queue.pages:
            self._queue.refill(self._bits)
        return self._queue.take(npages, max_runs)

    def put_back(self, sorting: Sorting) -> None:
        """Make dirty again what was taken, and is not sorted."""
        sorting.put_back(self._bits)

    def _unqueue(self) -> None:
        self._queue.put_back(self._bits)

    def marked(self) -> bytearray:
        """Return a bitmap, in whole words, of the pages that have to be sent."""
        self._unqueue()
        out = bytearray((self.npages + 63) // 64 * 8)
        self._bits.peek(out)
        return out

    def close(self) -> None:
        """Give up its memory."""
        self._bits.close()


class RamBlock:
    """One block of guest RAM.

    Attributes:
        name: of the block.
        base: its guest physical address, and its IOVA.
        npages: its size.
        memory: where it lives.
        log: pages written by CPUs while `logging`.
        pending: pages that have to be sent.
        sums: what each page was when it was sent, or received.
        ledger: what CPUs write, noted apart from `log` while a verification wants it; else None.
    """

    def __init__(self, name: str, base: int, npages: int, memory: SharedMemory) -> None:
        self.name = name
        self.base = base
        self.npages = npages
        self.memory = memory
        self.log = DirtyBitmap(npages)
        self.logging = False
        self.pending = PageMap(npages)
        self.sums = PageSums(npages)
        self.ledger: CpuLedger | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.npages * PAGE

    @property
    def view(self) -> memoryview:
        """Its bytes, writable."""
        return self.memory.view

    @property
    def fd(self) -> int:
        """Its memfd."""
        return self.memory.fd

    @property
    def bitmap_size(self) -> int:
        """Bytes of a bitmap of it, in whole words."""
        return (self.npages + 63) // 64 * 8

    def write(self, offset: int, data: bytes, cpu: str = "", seq: int = 0) -> None:
        """Write as a CPU does: the data first, the mark after it; never over the end of a page.

        Args:
            offset: in bytes.
            data: what is written.
            cpu: who writes.
            seq: the CPU's number of this write.
        """
        self.memory.view[offset : offset + len(data)] = data
        if self.logging:
            self.log.mark(offset // PAGE)
        if self.ledger is not None:
            self.ledger.note(offset // PAGE, cpu, seq)

    def page(self, page: int) -> bytes:
        """Return the contents of a page."""
        return bytes(self.memory.view[page * PAGE : (page + 1) * PAGE])

    def harvest_log(self) -> int:
        """Move the CPUs' dirty pages to `pending`; how many that added."""
        out = bytearray(self.bitmap_size)
        self.log.harvest(out)
        return self.pending.merge(out)

    def zero(self, runs: Runs | Iterable[Run]) -> None:
        """Make pages zero: holes of the memfd, so that a guest that does little costs little here.

        Raises:
            OSError: from fallocate(2).
        """
        runs = Runs.of(runs)
        self.sums.zero(runs)
        punch(self.fd, runs)

    def close(self) -> None:
        """Give up the bitmaps and the sums."""
        self.log.close()
        self.pending.close()
        self.sums.close()
        if self.ledger is not None:
            self.ledger.close()
            self.ledger = None


_TEXT: Final = (
    b"It is a truth universally acknowledged, that a single guest in possession of a good memory must be in want of "
    b"a destination. "
)


FILLED: Final = 2048


"""Pages that `filling` makes at a time."""


def fill(view: memoryview, seed: str, shares: Sequence[int]) -> None:
    """Give RAM contents that look like a guest's: zero pages, text, random bytes, and counting words.

    Args:
        view: the memory, all zero.
        seed: the same seed makes the same contents.
        shares: out of 100, how many pages are zero, text and random; the rest counts.
    """
    for _ in filling(view, seed, shares):
        pass


def filling(view: memoryview, seed: str, shares: Sequence[int]) -> Iterator[int]:
    """Do what `fill` does, in small steps; the number of pages that are done after each."""
    rng = random.Random(seed)
    zero, text, noise = shares
    npages = len(view) // PAGE
    for page in range(npages):
        if page and not page % FILLED:
            yield page
        kind = rng.randrange(100)
        if kind < zero:
            continue
        if kind < zero + text:
            content = (f"page {page} of {seed}. ".encode() + _TEXT * 40)[:PAGE]
        elif kind < zero + text + noise:
            content = rng.randbytes(PAGE)
        else:
            content = (page * 0x0001_0001_0001 + 1).to_bytes(8, "little") * (PAGE // 8)
        view[page * PAGE : (page + 1) * PAGE] = content
    yield npages
