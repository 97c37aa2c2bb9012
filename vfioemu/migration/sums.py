# SPDX-License-Identifier: MIT
"""The sums of a RAM block: what each page was when it was sent, or received.

Both sides have one of these for each block, always: it is the integrity of the stream. The source enters a page when it sends
it, the destination when it has received it. In the end, while the guest stands still, they compare digests of the tables, which is
a matter of microseconds, and nobody has to read the guest's memory for it.

A sum finds what was lost or changed on the way. It is no defence against malice.
"""

from collections.abc import Iterable
from typing import Final, Protocol

from vfioemu.migration.stream import Run
from vfioemu.native.runs import Runs
from vfioemu.native.sums import NO_FILE, SumTable

CHUNK: Final = 4096
"""Pages of one digest: 8 GiB have 512."""


def chunks_of(npages: int) -> int:
    """Count the digests of so many pages."""
    return (npages + CHUNK - 1) // CHUNK


class Pages(Protocol):
    """A RAM block, as far as sums need it."""

    @property
    def view(self) -> memoryview:
        """All of its bytes."""

    @property
    def fd(self) -> int:
        """Its memfd."""


class PageSums(SumTable):
    """A sum of 8 bytes for each page of a block, outside of the Python heap. None is known in the beginning."""

    def take(self, memory: Pages | memoryview, runs: Runs | Iterable[Run]) -> None:
        """Sum these pages from memory.

        Args:
            memory: the block; or a view of all of it, holes of which are then read.
            runs: an array of them ascends; tuples may be in any order, and overlap.
        """
        view, fd = _memory(memory)
        self.sum(view, fd, _ascending(runs))

    def zero(self, runs: Runs | Iterable[Run]) -> None:
        """Note that these pages are zero, without a look at them."""
        self.set_zero(_ascending(runs))

    def differing(self, memory: Pages | memoryview) -> list[Run]:
        """Sum all of memory anew, but for its holes, and return the pages whose sum is not what is noted here."""
        return self.compare(*_memory(memory))

    def digests(self, chunk: int = CHUNK) -> bytes:
        """Return a digest of 8 bytes for each `chunk` pages; the last one may be of fewer."""
        return self.chunk_digests(chunk)


def _ascending(runs: Runs | Iterable[Run]) -> Runs:
    if isinstance(runs, Runs):
        return runs
    merged: list[Run] = []
    for first, length in sorted(runs):
        if merged and first <= sum(merged[-1]):
            before, _ = merged[-1]
            merged[-1] = (before, max(sum(merged[-1]), first + length) - before)
        else:
            merged.append((first, length))
    return Runs.of(merged)


def _memory(memory: Pages | memoryview) -> tuple[memoryview, int]:
    if isinstance(memory, memoryview):
        return memory, NO_FILE
    return memory.view, memory.fd
