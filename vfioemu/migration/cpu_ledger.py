# SPDX-License-Identifier: MIT
"""The ledger of what CPUs write into one block of RAM: a second bitmap, which no sync reads, and the last writes by name.

A dirty bitmap says which pages have to be sent. Whether it says so of every page that was written cannot be seen from it, so a
verification notes each write a second time, here.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from vfioemu.native.bitmap import DirtyBitmap

RING: Final = 4096
"""Writes that are remembered by name; of older ones only the page is known."""


@dataclass(frozen=True, slots=True)
class CpuWrite:
    """One write.

    Attributes:
        number: counts the writes of a ledger, from 1.
        cpu: who wrote.
        seq: the CPU's own sequence number.
        page: of the block.
        when: time.monotonic().
    """

    number: int
    cpu: str
    seq: int
    page: int
    when: float


class CpuLedger:
    """The ledger of one block.

    Args:
        npages: of the block.

    Attributes:
        bits: the pages that were written since somebody took them.
        count: how many writes were noted.
    """

    def __init__(self, npages: int) -> None:
        self.bits = DirtyBitmap(npages)
        self.count = 0
        self._ring: deque[CpuWrite] = deque(maxlen=RING)

    def note(self, page: int, cpu: str, seq: int) -> None:
        """Note a write that has been made."""
        self.count += 1
        self._ring.append(CpuWrite(self.count, cpu, seq, page, time.monotonic()))
        self.bits.mark(page)

    def since(self, number: int) -> list[CpuWrite]:
        """Return the writes after that one, as far as they are remembered."""
        return [write for write in self._ring if write.number > number]

    def close(self) -> None:
        """Give up its memory."""
        self.bits.close()
