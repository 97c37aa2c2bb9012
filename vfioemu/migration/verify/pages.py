# SPDX-License-Identifier: MIT
"""Comparing memory: every page, and a name for every write that is missing.

The source computes a checksum of each page after everything has stopped, the destination of each page before anything
starts. A page that differs is fetched from the destination and laid beside the source's: a stamp that only the source
has is a lost write.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vfioemu.migration.messages import PageMismatch
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock, sums
from vfioemu.migration.stream import SUM_SIZE, corrupt
from vfioemu.migration.workload.stamps import find_stamps

MAX_CONTENTS: Final = 16
"""How many pages are fetched to name the lost writes; more differ only when something is thoroughly wrong."""


class PageVerifier:
    """The destination's side: takes checksums, and knows in the end whether all pages were covered."""

    def __init__(self, blocks: Sequence[RamBlock]) -> None:
        self._blocks = blocks
        self._covered = [0] * len(blocks)
        self.verified = 0
        self.mismatched = 0
        self.mismatches: list[PageMismatch] = []

    def check(self, index: int, first: int, theirs: memoryview) -> None:
        """Hold checksums of pages from `first` on against memory; they come in order and without gaps."""
        block = self._blocks[index]
        if first != self._covered[index]:
            raise corrupt(
                f"checksums of {block.name} continue at page {first}, expected {self._covered[index]}"
            )
        count = len(theirs) // SUM_SIZE
        ours = sums(block.view, first, count)
        self._covered[index] += count
        self.verified += count
        if ours == theirs:
            return
        for i in range(count):
            if ours[i * SUM_SIZE : (i + 1) * SUM_SIZE] != theirs[i * SUM_SIZE : (i + 1) * SUM_SIZE]:
                self._differs(index, first + i)

    def require_complete(self) -> None:
        """Every page of every block was compared; a verification of nothing must not pass for one."""
        for block, covered in zip(self._blocks, self._covered, strict=True):
            if covered != block.npages:
                raise corrupt(f"checksums of {block.name} cover {covered} of {block.npages} pages")

    def _differs(self, index: int, page: int) -> None:
        self.mismatched += 1
        if len(self.mismatches) < MAX_CONTENTS:
            content = base64.b64encode(self._blocks[index].page(page)).decode()
            self.mismatches.append(PageMismatch(block=index, page=page, content=content))


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
