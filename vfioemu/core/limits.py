# SPDX-License-Identifier: MIT
"""Every bound of the container side, and who has how much memory locked."""

import errno
from typing import TYPE_CHECKING, Final, Literal

from vfioemu.core.caller import AddressSpace
from vfioemu.core.errors import IoctlError

if TYPE_CHECKING:
    from vfioemu.core.iova_map import Dma

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = (1 << 64) - PAGE_SIZE
U64_MAX: Final = (1 << 64) - 1

DMA_ENTRY_LIMIT: Final = 65535
"""Module parameter dma_entry_limit: U16_MAX."""

DIRTY_BITMAP_PAGES_MAX: Final = (1 << 31) - 1
"""INT_MAX: bitmap_set() counts in int."""

DIRTY_BITMAP_SIZE_MAX: Final = 1 << 28
"""DIRTY_BITMAP_BYTES(DIRTY_BITMAP_PAGES_MAX)."""

PIN_PAGES_MAX: Final = PAGE_SIZE // 8
"""VFIO_PIN_PAGES_MAX_ENTRIES: as many pages in one vfio_pin_pages() as one page holds pointers to."""

DMA_UNMAP_RETRIES: Final = 10
"""How often a device may leave pins behind in its dma_unmap(); after that the kernel has a BUG_ON()."""

DEVICE_NAME_MAX: Final = PAGE_SIZE
"""GET_DEVICE_FD: strndup_user(arg, PAGE_SIZE), the NUL included."""

TASK_SIZE_MAX: Final = 0x7FFF_FFFF_F000
"""End of a user's addresses: x86-64 with 4-level paging."""


def access_ok(addr: int, size: int) -> bool:
    """Whether [addr, addr+size) are addresses that a user may have at all (access_ok())."""
    return size <= TASK_SIZE_MAX and addr <= TASK_SIZE_MAX - size


def dirty_bitmap_bytes(npages: int) -> int:
    """DIRTY_BITMAP_BYTES(): a bit per page, in whole 64-bit words."""
    return (npages + 63) // 64 * 8


class Accounting:
    """Locked memory: vfio_lock_acct() and the limit that it is held against.

    Pages are counted in every mode, so that gauges tell the truth; the mode says what they are held against.

    Args:
        mode: ``"off"``: nothing, but whose memory it is gets to know; ``"client"``: the client's RLIMIT_MEMLOCK unless it has CAP_IPC_LOCK; a number: so
            many bytes for each address space, whatever its capabilities.
    """

    __slots__ = ("mode",)

    def __init__(self, mode: Literal["off", "client"] | int) -> None:
        self.mode = mode

    def limit(self, space: AddressSpace, ipc_lock: bool) -> int | None:
        """How many pages `space` may have locked; None for any number."""
        if isinstance(self.mode, int):
            return self.mode >> PAGE_SHIFT
        if self.mode == "off" or ipc_lock:
            return None
        limit = space.memlock_limit()
        return None if limit is None else limit >> PAGE_SHIFT

    def room(self, space: AddressSpace, ipc_lock: bool) -> int | None:
        """How many more pages `space` may lock; None for any number."""
        limit = self.limit(space, ipc_lock)
        return None if limit is None else max(0, limit - space.locked_pages)

    def charge(self, dma: "Dma", npages: int) -> None:
        """Count `npages` more (or fewer) pages as locked for a mapping; ENOMEM beyond the limit.

        Kernel: vfio_lock_acct(), mm_lock_acct(), __account_locked_vm().
        """
        if npages > 0:
            room = self.room(dma.space, dma.ipc_lock)
            if room is not None and npages > room:
                raise IoctlError(errno.ENOMEM, f"RLIMIT_MEMLOCK: {npages} pages more, room for {room}")
        dma.space.locked_pages += npages
        dma.locked += npages
        if npages > 0 and self.mode == "off" and not dma.ipc_lock:
            limit = dma.space.memlock_limit()
            if limit is not None and dma.space.locked_pages > limit >> PAGE_SHIFT:
                dma.space.beyond_memlock(dma.space.locked_pages, limit)

    def move(self, dma: "Dma", space: AddressSpace, ipc_lock: bool) -> None:
        """Charge a mapping's pages to another address space, and free the old one of them; ENOMEM.

        Kernel: vfio_change_dma_owner().
        """
        if space is not dma.space:
            room = self.room(space, ipc_lock)
            if dma.locked and room is not None and dma.locked > room:
                raise IoctlError(errno.ENOMEM, f"RLIMIT_MEMLOCK: {dma.locked} pages more, room for {room}")
            space.locked_pages += dma.locked
            dma.space.locked_pages -= dma.locked
            dma.space = space
            dma.ipc_lock = ipc_lock
