# SPDX-License-Identifier: MIT
"""Memory to map for DMA: a memfd that is mapped here and by the daemon.

A sealed one cannot shrink, so the daemon accesses it without guarding against SIGBUS.
"""

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
        sealed: seal the size; otherwise the daemon guards its accesses.

    Attributes:
        address: its address here.
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
        """Touch every page, so that no later access has to allocate one."""
        procmem.populate(self.address, self.size // mmap.PAGESIZE, writable=True)

    def discard(self) -> None:
        """Free the pages; they read as zeroes. Use `Session.discard` for memory that may be mapped for DMA."""
        self._map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Unmap the memory. Views of it must be released first.

        Raises:
            BufferError: a view still exists.
        """
        if self.fd < 0:
            return
        self.view.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1

    def abandon(self) -> None:
        """Give the memory up although views may exist; it is unmapped with the last of them."""
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
