# SPDX-License-Identifier: MIT
"""Pinning whole mappings for the hardware IOMMU, with what it costs in locked memory."""

import errno
from bisect import bisect_right

from vfioemu.core.effects import PinUser, Steps
from vfioemu.core.errors import IoctlError
from vfioemu.core.iova_map import PROT_WRITE, Dma
from vfioemu.core.limits import PAGE_SHIFT, Accounting
from vfioemu.core.type1.state import pages


def pin_whole(accounting: Accounting, dma: Dma, size: int) -> Steps[int]:
    """Pin the first `size` bytes of a mapping and charge them: vfio_pin_pages_remote() until all is pinned.

    From then on hardware reaches `dma.pages`, wherever they are.

    Pages that devices have pinned already are charged to them. The kernel goes page by page, and looks at the page
    before it looks at the limit; who comes first decides the errno.

    Returns:
        How many pages were charged.

    Raises:
        IoctlError: EFAULT when a page is not there or not writable, ENOMEM beyond the limit; nothing is charged.
    """
    npages = pages(size)
    pinned = sorted(
        (iova - dma.iova) >> PAGE_SHIFT
        for iova in dma.pins
        if not (iova - dma.iova) & ((1 << PAGE_SHIFT) - 1) and 0 <= iova - dma.iova < size
    )
    cost = npages - len(pinned)
    room = accounting.room(dma.space, dma.ipc_lock)
    ask = npages if room is None or cost <= room else _nth_unpinned(pinned, room) + 1
    present: int = yield PinUser(dma.space, dma.vaddr, ask, bool(dma.prot & PROT_WRITE))
    if present < ask:
        raise IoctlError(errno.EFAULT, f"page {present} of {dma} cannot be pinned")
    accounting.charge(dma, cost)
    dma.pages = dma.space.pages(dma.vaddr, size)
    return cost


def unpin_whole(dma: Dma) -> None:
    """Hardware reaches the mapping no more; what was charged is the caller's affair."""
    pages, dma.pages = dma.pages, None
    if pages is not None:
        pages.release()


def _nth_unpinned(pinned: list[int], n: int) -> int:
    """The n-th page (from 0) that is not among the sorted pages `pinned`."""
    page = n
    while (behind := n + bisect_right(pinned, page)) != page:
        page = behind
    return page
