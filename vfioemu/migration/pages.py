# SPDX-License-Identifier: MIT
"""The way of pages from the source's memory into frames: taken, sorted, summed, sent.

While a piece is sent, the next one is sorted in a worker thread: into pages with contents and pages of zeros, each with its sum.
All of it works on arrays of runs, in C; here is a step for each piece, never for a page or a run. Holes of the memfd are
zeros, and are not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from vfioemu.migration import stream
from vfioemu.migration.background import background
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.native.runs import Runs
from vfioemu.native.sums import Sorted, Sorting

TAKEN: Final = stream.MAX_RAM // PAGE
"""Pages that are taken from a page map at once; what of them is not sent is put back."""
TAKEN_RUNS: Final = 1 << 14
PIECE: Final = (16 << 20) // PAGE
"""Pages with contents in one frame."""


class Way(Protocol):
    """Where frames go."""

    @property
    def most_pages(self) -> int:
        """Pages that one frame should have at most, so that it is over soon."""

    async def send(self, kind: FrameType, body: bytes) -> None:
        """Send a small frame."""

    async def send_pages(self, index: int, block: RamBlock, runs: Runs) -> None:
        """Send pages of a block, and which ones they are."""


@dataclass(slots=True)
class PagesSent:
    """What was sent.

    Attributes:
        zero_pages: pages of zeros, which were named only.
        seconds: how long something was being sent. To look at pages tells nothing about the link.
    """

    zero_pages: int = 0
    seconds: float = 0.0


_Piece = tuple[int, Sorted]


async def send_pages(ram: Sequence[RamBlock], ways: Sequence[Way], limit: int, deadline: float) -> PagesSent:
    """Send dirty pages.

    Args:
        ram: the blocks; frames name them by their place here.
        ways: where to; each takes the next piece when it has sent one.
        limit: pages with contents; 0 = all.
        deadline: no piece is begun afterwards.
    """
    sent = PagesSent()
    busy = _Busy(sent)
    most = min(PIECE, *(way.most_pages for way in ways))
    ready, pieces = trio.open_memory_channel[_Piece](len(ways))
    async with background() as nursery:
        nursery.start_soon(_sort, ram, ready, limit, most, deadline)
        if len(ways) == 1:
            await _send(ram, ways[0], pieces, sent, busy)
        else:
            await _send_all(ram, ways, pieces, sent, busy)
    return sent


class _Busy:
    """Counts the time in which at least one way sends."""

    def __init__(self, sent: PagesSent) -> None:
        self._sent = sent
        self._count = 0
        self._since = 0.0

    def __enter__(self) -> None:
        if not self._count:
            self._since = trio.current_time()
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._sent.seconds += trio.current_time() - self._since


async def _send_all(
    ram: Sequence[RamBlock],
    ways: Sequence[Way],
    pieces: "trio.MemoryReceiveChannel[_Piece]",
    sent: PagesSent,
    busy: _Busy,
) -> None:
    """Send pieces on all ways; the first that fails ends the others."""
    failed: list[StreamError] = []

    async def one(way: Way) -> None:
        try:
            await _send(ram, way, pieces, sent, busy)
        except StreamError as error:
            failed.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for way in ways:
            nursery.start_soon(one, way)
    if failed:
        raise failed[0]


async def _send(
    ram: Sequence[RamBlock],
    way: Way,
    pieces: "trio.MemoryReceiveChannel[_Piece]",
    sent: PagesSent,
    busy: _Busy,
) -> None:
    async for index, piece in pieces:
        with busy:
            if len(piece.zero):
                sent.zero_pages += piece.zero.pages()
                await way.send(FrameType.ZERO, stream.pack_runs(index, piece.zero))
            if len(piece.full):
                await way.send_pages(index, ram[index], piece.full)


async def _sort(
    ram: Sequence[RamBlock], ready: "trio.MemorySendChannel[_Piece]", limit: int, most: int, deadline: float
) -> None:
    """Take pages that are dirty, and sort them."""
    left = limit or sum(block.npages for block in ram)
    async with ready:
        for index, block in enumerate(ram):
            while left > 0 and trio.current_time() < deadline:
                runs = block.pending.take(TAKEN, TAKEN_RUNS)
                if not len(runs):
                    break
                sorting = Sorting(block.sums, block.view, block.fd, runs)
                try:
                    while not sorting.done and left > 0 and trio.current_time() < deadline:
                        piece = await trio.to_thread.run_sync(sorting.step, stream.MAX_RUNS, min(most, left))
                        left -= piece.pages
                        await ready.send((index, piece))
                finally:
                    block.pending.put_back(sorting)
