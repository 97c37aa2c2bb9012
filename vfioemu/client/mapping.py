# SPDX-License-Identifier: MIT
"""A mapping of an emulated file; it holds a reference to the file, as a VMA does in the kernel."""

import mmap
import os
from typing import Self


class _Hold:
    """Owner of an fd, which is closed with the last reference to the object."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class Mapping(mmap.mmap):
    """Mapped memory of a file. The file stays open until the mapping is closed or its last reference goes."""

    _hold: _Hold

    @classmethod
    def of(cls, token: int, fd: int, size: int, prot: int, start: int) -> Self:
        """Map `size` bytes of `fd` from `start`, shared, and hold the file that is open as `token`.

        Raises:
            OSError: EMFILE; from mmap(2).
        """
        hold = _Hold(os.dup(token))
        mapping = cls(fd, size, mmap.MAP_SHARED, prot, offset=start)
        mapping._hold = hold
        return mapping

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the memory; BufferError while a view of it exists."""
        super().close()
        self._hold.close()
