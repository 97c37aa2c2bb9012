# SPDX-License-Identifier: MIT
"""Memory to map for DMA: a memfd, mapped here, which the daemon maps too; sealed, its accesses need no guard."""

import fcntl
import mmap
import os
from typing import Final, Self

from vfioemu.syscalls import procmem

_F_ADD_SEALS: Final = 1033
_SEAL_SHRINK: Final = 2
_SEAL_GROW: Final = 4


class Memory:
    """Page-aligned shared memory.

    Args:
        size: in bytes, a multiple of the page size.
        sealed: seal it against changing its size; without, the daemon guards its accesses.

    Attributes:
        address: where it is.
        view: its bytes; a memoryview keeps the memory mapped.
        fd: the memfd.
    """

    def __init__(self, size: int, *, sealed: bool = True, name: str = "vfioemu") -> None:
        if size <= 0 or size % mmap.PAGESIZE:
            raise ValueError(f"size {size:#x} is not a multiple of {mmap.PAGESIZE}")
        self.size = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            if sealed:
                fcntl.fcntl(self.fd, _F_ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW)
            self._map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self.view = memoryview(self._map)
        self.address = procmem.address_of(self.view)[0]

    def __len__(self) -> int:
        return self.size

    def populate(self) -> None:
        """Touch every page, so that none has to be made present later."""
        procmem.populate(self.address, self.size // mmap.PAGESIZE, writable=True)

    def discard(self) -> None:
        """Give the pages back; the memory reads as zeroes. `Session.discard` is for what may be mapped for DMA."""
        self._map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Unmap it. Views of it must be gone.

        Raises:
            BufferError: somebody else still has a view.
        """
        if self.fd < 0:
            return
        self.view.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1

    def abandon(self) -> None:
        """Give it up whoever has a view of it: it is unmapped when the last view goes."""
        if self.fd < 0:
            return
        self.view = memoryview(b"")
        del self._map
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
