# SPDX-License-Identifier: MIT
"""A mapping of an emulated file, which is a reference to it, as a VMA is in the kernel."""

import mmap
import os
from typing import Self


class _Hold:
    """An fd that goes with whoever refers to it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class Mapping(mmap.mmap):
    """Mapped memory of a file: it stays open, whoever closes it, until `close`, or until nobody has the mapping any more."""

    _hold: _Hold

    @classmethod
    def of(cls, token: int, fd: int, size: int, prot: int, start: int) -> Self:
        """Map `size` bytes of `fd` from `start` on, shared, and hold the file that is open as `token`.

        Raises:
            OSError: EMFILE, what mmap(2) says.
        """
        hold = _Hold(os.dup(token))
        mapping = cls(fd, size, mmap.MAP_SHARED, prot, offset=start)
        mapping._hold = hold
        return mapping

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap it; BufferError while somebody has a view of it."""
        super().close()
        self._hold.close()
