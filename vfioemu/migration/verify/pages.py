# SPDX-License-Identifier: MIT
"""Comparing memory: every page, and a name for every write that is missing.

Both sides have a sum of each page, made when it was sent or received (sums.py). They compare digests of them; only of a chunk
whose digest differs the sums are sent. A page that differs is fetched from the destination and laid beside the source's: a
stamp that only the source has is a lost write.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vfioemu.migration.messages import MAX_CHUNKS, Differ, PageMismatch
from vfioemu.migration.peer import Peer
from vfioemu.migration.plan import PAGE, Reason
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.stream import MAX_SUMS, FrameType, StreamError, corrupt, decode, pack_sums
from vfioemu.migration.sums import CHUNK, chunks_of
from vfioemu.migration.workload.stamps import find_stamps
from vfioemu.native.runs import differing_words
from vfioemu.native.sums import SUM_SIZE

MAX_CONTENTS: Final = 16
"""How many pages are fetched to name the lost writes; more differ only when something is thoroughly wrong."""


async def send_sums(ram: Sequence[RamBlock], peer: Peer) -> None:
    """Send the digests of all sums of the source."""
    for index, block in enumerate(ram):
        if unset := block.sums.unset():
            raise StreamError(Reason.STREAM_CORRUPT, f"{unset} pages of {block.name} were never sent")
        digests = block.sums.digests()
        step = MAX_SUMS * SUM_SIZE
        for at in range(0, len(digests), step):
            await peer.send(FrameType.SUMS, pack_sums(index, at // SUM_SIZE, digests[at : at + step]))


async def send_page_sums(ram: Sequence[RamBlock], peer: Peer, body: bytes) -> None:
    """Send the sums of the pages of chunks of which the destination has other digests; `body` is that of its DIFFER."""
    for index, chunk in decode(body, Differ).chunks:
        if index >= len(ram) or chunk >= chunks_of(ram[index].npages):
            raise corrupt(f"the destination asks for chunk {chunk} of block {index}")
        first = chunk * CHUNK
        packed = ram[index].sums.packed(first, min(CHUNK, ram[index].npages - first))
        await peer.send(FrameType.PAGE_SUMS, pack_sums(index, first, packed))


class PageVerifier:
    """The destination's side: holds the source's sums against its own, and knows in the end whether all pages were covered.

    Attributes:
        verified: pages whose digests have come.
        mismatched: pages that are not what the source has sent.
        mismatches: the first of them.
    """

    def __init__(self, blocks: Sequence[RamBlock]) -> None:
        self._blocks = blocks
        self._covered = [0] * len(blocks)
        self._chunks: list[tuple[int, int]] = []
        self._asked: list[tuple[int, int]] = []
        self.verified = 0
        self.mismatched = 0
        self.mismatches: list[PageMismatch] = []

    def digests(self, index: int, first: int, theirs: memoryview) -> None:
        """Hold digests of chunks from `first` on against ours; they come in order and without gaps."""
        block = self._blocks[index]
        if first != self._covered[index]:
            raise corrupt(
                f"checksums of {block.name} continue at chunk {first}, expected {self._covered[index]}"
            )
        if not first and (unset := block.sums.unset()):
            raise corrupt(f"{unset} pages of {block.name} have never come")
        count = len(theirs) // SUM_SIZE
        ours = block.sums.digests()[first * SUM_SIZE : (first + count) * SUM_SIZE]
        self._covered[index] += count
        self.verified += min(count * CHUNK, block.npages - first * CHUNK)
        self._chunks += [
            (index, first + chunk)
            for at, length in differing_words(ours, theirs)
            for chunk in range(at, at + length)
        ]

    @property
    def asked(self) -> int:
        """How many chunks the sums of whose pages have still to come."""
        return len(self._asked)

    def differ(self) -> Differ:
        """Say of which chunks the sums of the pages are wanted."""
        self._asked, rest = self._chunks[:MAX_CHUNKS], self._chunks[MAX_CHUNKS:]
        self.mismatched += sum(
            min(CHUNK, self._blocks[index].npages - chunk * CHUNK) for index, chunk in rest
        )
        return Differ(chunks=self._asked, more=len(rest))

    def page_sums(self, index: int, first: int, theirs: memoryview) -> None:
        """Hold sums of the pages of a chunk that was asked for against ours."""
        block = self._blocks[index]
        if not self._asked or self._asked[0] != (index, first // CHUNK) or first % CHUNK:
            raise corrupt(f"checksums of pages of {block.name} from {first} on, which nobody asked for")
        count = min(CHUNK, block.npages - first)
        if len(theirs) != count * SUM_SIZE:
            raise corrupt(f"checksums of {len(theirs) // SUM_SIZE} of {count} pages of a chunk")
        self._asked = self._asked[1:]
        different = differing_words(block.sums.packed(first, count), theirs)
        if not different:
            raise corrupt(f"a digest of {block.name} that is not that of its checksums")
        for at, length in different:
            self.mismatched += length
            for page in range(first + at, first + at + length)[: MAX_CONTENTS - len(self.mismatches)]:
                content = base64.b64encode(block.page(page)).decode()
                self.mismatches.append(PageMismatch(block=index, page=page, content=content))

    def require_complete(self) -> None:
        """Every page of every block was compared; a verification of nothing must not pass for one."""
        for block, covered in zip(self._blocks, self._covered, strict=True):
            if covered != chunks_of(block.npages):
                raise corrupt(
                    f"checksums of {block.name} cover {covered} of {chunks_of(block.npages)} chunks"
                )


@dataclass(frozen=True, slots=True)
class Lost:
    """A lost write, or a page that differs without a stamp that says why.

    Attributes:
        origin: who wrote; empty when no stamp tells.
        iova: where.
        held: what the destination has there.
    """

    origin: str
    seq: int | None
    iova: int
    block: str
    page: int
    held: str

    def __str__(self) -> str:
        where = f"{self.block} page {self.page}"
        if not self.origin:
            return f"{where}, iova {self.iova:#x}: no stamp tells what was lost; the destination holds {self.held}"
        return (
            f"{self.origin} seq {self.seq} iova {self.iova:#x} ({where}); the destination holds {self.held}"
        )


def name_lost_writes(
    blocks: Sequence[RamBlock], mismatches: Sequence[PageMismatch], devices: Mapping[int, str]
) -> list[Lost]:
    """Find, at the source, what is missing from the pages that the destination says are different.

    Args:
        blocks: the source's RAM.
        mismatches: what the destination holds.
        devices: names by DEVICE_ID.
    """
    lost: list[Lost] = []
    for mismatch in mismatches:
        if mismatch.block >= len(blocks) or mismatch.page >= blocks[mismatch.block].npages:
            raise corrupt(f"a mismatch of page {mismatch.page} of block {mismatch.block}")
        try:
            theirs = base64.b64decode(mismatch.content, validate=True)
        except binascii.Error:
            raise corrupt("the content of a page is no base64") from None
        if len(theirs) == PAGE:
            lost.extend(lost_in_page(blocks[mismatch.block], mismatch.page, theirs, devices))
    return lost


def lost_in_page(block: RamBlock, page: int, theirs: bytes, devices: Mapping[int, str]) -> list[Lost]:
    """Compare one page with what the destination holds of it."""
    ours = block.page(page)
    held = {stamp.offset: stamp for stamp in find_stamps(theirs)}
    lost = []
    for stamp in find_stamps(ours):
        there = held.get(stamp.offset)
        if there != stamp:
            holds = there.tell(devices) if there is not None else _bytes(theirs, stamp.offset)
            lost.append(Lost(stamp.origin(devices), stamp.seq, stamp.iova, block.name, page, holds))
    if lost:
        return lost
    at = next((i for i in range(PAGE) if ours[i] != theirs[i]), 0)
    return [Lost("", None, block.base + page * PAGE + at, block.name, page, _bytes(theirs, at))]


def _bytes(page: bytes, at: int) -> str:
    if not any(page):
        return "a zero page"
    return f"bytes {page[at : at + 16].hex(' ')} at {at:#x}"
