# SPDX-License-Identifier: MIT
"""The audit: whether the memory of a guest that was given up still is what was sent of it.

The guest stands, so nothing may change its memory between the checksums and the end. A page that has changed was written late; a write
that the ledger has explains it, and is told by its name. What nobody accounts for is told by the stamps that are in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.stream import Run
from vfioemu.migration.workload.stamps import find_stamps

MAX_TOLD: Final = 16
"""Pages that are described; others are counted."""


@dataclass(frozen=True, slots=True)
class Found:
    """What an audit has found.

    Attributes:
        pages: how many are the guest's.
        different: how many are not what was sent.
        unexplained: block number and page of those that nobody accounts for.
    """

    pages: int
    different: int
    unexplained: Sequence[tuple[int, int]]


class Audit:
    """What is known of pages that have changed since they were summed.

    Args:
        ram: the RAM blocks, with the sums of what was sent.
    """

    def __init__(self, ram: Sequence[RamBlock]) -> None:
        self._ram = ram
        self._explained: set[tuple[int, int]] = set()

    def explain(self, pages: Sequence[list[Run]]) -> None:
        """Note pages that were written late, and were told of."""
        for index, runs in enumerate(pages):
            for first, length in runs:
                self._explained.update((index, page) for page in range(first, first + length))

    def hold(self) -> Found:
        """Sum all memory, but for its holes, and hold it against the sums of what was sent."""
        differing = [
            (index, page)
            for index, block in enumerate(self._ram)
            for first, length in block.sums.differing(block)
            for page in range(first, first + length)
        ]
        unexplained = [page for page in differing if page not in self._explained]
        return Found(sum(block.npages for block in self._ram), len(differing), unexplained)


def describe(block: RamBlock, page: int, devices: Mapping[int, str]) -> str:
    """Say what is in a page that nobody accounts for.

    Args:
        block: where.
        page: of the block.
        devices: names by DEVICE_ID.
    """
    stamps = find_stamps(block.page(page))
    what = ", ".join(stamp.tell(devices) for stamp in stamps) or "no stamp"
    return f"{block.name} page {page}, iova {block.base + page * PAGE:#x}, holds {what}"
