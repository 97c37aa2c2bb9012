# SPDX-License-Identifier: MIT
"""Memory that a device shares with clients that map its region: a sealed memfd of fixed size, mapped here too."""

import fcntl
import mmap
import os
import weakref
from typing import Final

_F_ADD_SEALS: Final = 1033
_FIXED_SIZE: Final = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


class SharedPages:
    """Zeroed pages that a client can map; nobody can change their number (F_SEAL_SHRINK, F_SEAL_GROW).

    Args:
        name: as /proc/PID/maps shows it.
        size: in bytes, a multiple of 4096.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM.

    Attributes:
        fd: for clients to map, from offset 0; this object owns it.
        view: the bytes. Clients change them at any time: copy before checking.
    """

    def __init__(self, name: str, size: int) -> None:
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, _F_ADD_SEALS, _FIXED_SIZE)
            self.view = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self._close_fd = weakref.finalize(self, os.close, self.fd)

    def close(self) -> None:
        """Unmap the pages and close the fd; the mappings of clients remain."""
        self.view.close()
        self._close_fd()
