# SPDX-License-Identifier: MIT
"""The model's mappings: who is pinned, and which page is dirty."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Protocol

PAGE: Final = 4096
READ, WRITE, VADDR = 1, 2, 4


class Refusal(Exception):
    """The call must fail with this errno."""

    def __init__(self, err: str) -> None:
        super().__init__(err)
        self.err = err


class Space(Protocol):
    """The memory of a process, as far as devices reach it; `alive` until the process ends."""

    alive: bool

    def accessible(self, vaddr: int, size: int, *, write: bool) -> int:
        """How many bytes from vaddr on may be read or written."""

    def dma_write(self, vaddr: int, data: bytes) -> None:
        """A device wrote here."""

    def expected(self, vaddr: int, size: int) -> bytes:
        """What must be there."""


class UserBitmap(Protocol):
    """Where a caller wants dirty bits.

    Attributes:
        pgsize: what the caller says a bit stands for.
        size: in bytes.
        valid: whether these are user addresses at all.
    """

    pgsize: int
    size: int
    valid: bool

    def load(self, offset: int) -> int:
        """The 64-bit word at a byte offset; EFAULT."""

    def store(self, offset: int, data: bytes) -> None:
        """Write bytes as far as possible; EFAULT."""


@dataclass(eq=False, kw_only=True)
class Mapping:
    """One entry of MAP_DMA."""

    iova: int
    size: int
    vaddr: int
    prot: int
    space: Space
    iommu_mapped: bool
    vaddr_valid: bool = True
    pins: Counter[int] = field(default_factory=Counter)
    bitmap: int | None = None

    @property
    def npages(self) -> int:
        """Pages of the mapping."""
        return self.size // PAGE

    @property
    def locked(self) -> int:
        """Locked pages that it accounts for."""
        return self.npages if self.iommu_mapped else len(self.pins)

    def mark(self, iova: int, size: int) -> None:
        """The pages of [iova, iova+size) are dirty, if anybody wants to know."""
        if self.bitmap is not None:
            for page in range((iova - self.iova) // PAGE, (iova - self.iova + size - 1) // PAGE + 1):
                self.bitmap |= 1 << page

    def mark_pinned(self) -> None:
        """All pinned pages are dirty."""
        for iova in self.pins:
            self.mark(iova, 1)

    def mark_all(self) -> None:
        """Every page is dirty."""
        if self.bitmap is not None:
            self.bitmap |= (1 << self.npages) - 1

    def unpin(self, page: int) -> None:
        """One pin less of a page."""
        self.pins[page] -= 1
        if self.pins[page] <= 0:
            del self.pins[page]
