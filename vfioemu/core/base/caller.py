# SPDX-License-Identifier: MIT
"""The maker of a system call: the kernel's `current`, as far as VFIO looks at it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfioemu.core.base.quota import Quotas

if TYPE_CHECKING:
    from vfioemu.core.base.pages import Holder, Pages


class AddressSpace:
    """The kernel's mm_struct: the memory in which a vaddr of MAP_DMA means something, and what it has locked.

    Drivers subclass it: the daemon's knows a process, the in-memory one a page table. Its identity is what counts:
    a mapping keeps the address space of whoever made it, whoever asks for DMA later.

    Attributes:
        locked_pages: pages charged by MAP_DMA and pins (VmLck / 4 KiB); kept by core/base/limits.py only.
        changes: how often it has taken back a window: an address of one that is older may be wrong.
        quotas: what its containers may take of our own memory.
    """

    def __init__(self) -> None:
        self.locked_pages = 0
        self.changes = 0
        self.quotas = Quotas.of()

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes as it is now; None where accounting is off."""
        return None

    def reserved(self, vaddr: int, size: int) -> int:
        """Count the bytes of a range that are mappings of devices' memory: there is no struct page, so nothing is charged."""
        return 0

    def beyond_memlock(self, npages: int, limit: int) -> None:
        """Note that locking `npages` 4 KiB pages exceeds `limit` bytes: Linux would refuse with ENOMEM, and we do not."""

    def gone(self) -> bool:
        """Tell whether its last user has exited (mmget_not_zero() fails): there is nothing left to pin."""
        return False

    def window(self, vaddr: int, size: int) -> int | None:
        """Return the address *in this process* of memory that we map ourselves for [vaddr, vaddr+size), or None.

        Only memory that the owner handed over (io/memory/windows.py) has a window. It lives until the owner takes it back and
        nobody holds it any more.
        """
        return None

    def pages(self, vaddr: int, size: int, holder: "Holder") -> "Pages":
        """Hold the memory of [vaddr, vaddr+size) for an IOMMU, whatever becomes of the addresses (core/base/pages.py)."""
        raise NotImplementedError

    def hold(self, vaddr: int, size: int) -> object:
        """Return an object that keeps the window of [vaddr, vaddr+size) alive for as long as it is referred to."""
        return None


@dataclass(frozen=True, slots=True)
class Caller:
    """One calling thread.

    Attributes:
        space: its address space; arguments are read there, and MAP_DMA remembers it.
        pid: for logs only.
        ipc_lock: it has CAP_IPC_LOCK, so RLIMIT_MEMLOCK does not bind it.
    """

    space: AddressSpace
    pid: int = 0
    ipc_lock: bool = True
