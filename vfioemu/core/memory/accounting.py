# SPDX-License-Identifier: MIT
"""Locked memory of each address space, and the limit that it is held against."""

import errno
from typing import TYPE_CHECKING, Literal, TypeAlias

from vfioemu.core.base.caller import AddressSpace
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_SHIFT

if TYPE_CHECKING:
    from vfioemu.core.memory.iova_map import Dma

Memlock: TypeAlias = Literal["off", "client"] | int
"""The limit of locked memory: nothing, the client's RLIMIT_MEMLOCK, or so many bytes for each address space."""


class Accounting:
    """Locked memory: vfio_lock_acct() and the limit that it is held against.

    Pages are counted in every mode, so that gauges tell the truth; the mode says what they are held against.

    Args:
        mode: ``"off"``: nothing, but whose memory it is gets to know; ``"client"``: the client's RLIMIT_MEMLOCK unless it has CAP_IPC_LOCK; a number: so
            many bytes for each address space, whatever its capabilities.
    """

    __slots__ = ("mode",)

    def __init__(self, mode: Memlock) -> None:
        self.mode = mode

    def limit(self, space: AddressSpace, ipc_lock: bool) -> int | None:
        """Return the number of 4 KiB pages that `space` may have locked; None for any number."""
        if isinstance(self.mode, int):
            return self.mode >> PAGE_SHIFT
        if self.mode == "off" or ipc_lock:
            return None
        limit = space.memlock_limit()
        return None if limit is None else limit >> PAGE_SHIFT

    def room(self, space: AddressSpace, ipc_lock: bool) -> int | None:
        """Return the number of 4 KiB pages that `space` may still lock; None for any number."""
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
