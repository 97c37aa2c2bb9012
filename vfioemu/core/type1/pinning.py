# SPDX-License-Identifier: MIT
"""Pinning whole mappings for the hardware IOMMU, with what it costs in locked memory."""

import errno
from collections.abc import Iterable

from vfioemu.core.base.effects import PinUser, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_SHIFT
from vfioemu.core.base.locks import Lock
from vfioemu.core.memory.iova_map import PROT_WRITE, Dma
from vfioemu.core.memory.pin_counts import runs
from vfioemu.core.type1.state import Iommu, pages


class Mapped:
    """A mapping as what holds pinned pages."""

    __slots__ = ("_dma", "_iommu")

    def __init__(self, iommu: Iommu, dma: Dma) -> None:
        self._iommu = iommu
        self._dma = dma

    def __str__(self) -> str:
        return str(self._dma)

    @property
    def lock(self) -> Lock:
        """The container's."""
        return self._iommu.lock

    def moved(self) -> None:
        """DMA through the C index has to find them anew."""
        if self._dma.indexed:
            self._iommu.expose_anew(self._dma)

    def written(self, offset: int, size: int) -> None:
        """Mark the range dirty in the bitmap again; a device's own log is its own, and cannot be told."""
        self._iommu.mark(self._dma, offset, size)


def pin_whole(iommu: Iommu, dma: Dma, size: int) -> Steps[int]:
    """Pin the first `size` bytes of a mapping and charge them: vfio_pin_pages_remote() until all is pinned.

    From then on hardware reaches `dma.pages`, wherever they are.

    Pages that devices have pinned already are charged to them. The kernel goes page by page, and looks at the page
    before it looks at the limit; who comes first decides the errno.

    Returns:
        How many pages were charged.

    Raises:
        IoctlError: EFAULT when a page is not there or not writable, ENOMEM beyond the limit, or in too many pieces; nothing is
            charged.
    """
    accounting = iommu.accounting
    npages = pages(size)
    pinned = [
        ((start - dma.iova) >> PAGE_SHIFT, bits)
        for start, bits in dma.pins.within(dma.iova, dma.iova + size - 1)
        if not (start - dma.iova) & ((1 << PAGE_SHIFT) - 1)
    ]
    free = pages(dma.space.reserved(dma.vaddr, size))  # of devices: `rsvd`
    cost = max(0, npages - free - sum(bits.bit_count() for _, bits in pinned))
    room = accounting.room(dma.space, dma.ipc_lock)
    ask = npages if room is None or cost <= room or free else _nth_unpinned(pinned, room) + 1
    present: int = yield PinUser(dma.space, dma.vaddr, ask, bool(dma.prot & PROT_WRITE))
    if present < ask:
        raise IoctlError(errno.EFAULT, f"page {present} of {dma} cannot be pinned")
    accounting.charge(dma, cost)
    try:
        dma.pages = dma.space.pages(dma.vaddr, size, Mapped(iommu, dma))
    except IoctlError:
        accounting.charge(dma, -cost)
        raise
    return cost


def unpin_whole(dma: Dma) -> None:
    """Hardware reaches the mapping no more; what was charged is the caller's affair."""
    pages, dma.pages = dma.pages, None
    if pages is not None:
        pages.release()


def _nth_unpinned(pinned: Iterable[tuple[int, int]], n: int) -> int:
    """Find the n-th page (from 0) that is not among `pinned`: ascending (page, bits of those from there on)."""
    page = n
    for first, bits in pinned:
        for at, count in runs(bits):
            if first + at > page:
                return page
            page += count
    return page
