# SPDX-License-Identifier: MIT
"""Memory that a device shares with whoever maps its region: a memfd of fixed size that is mapped here too."""

import fcntl
import mmap
import os
import weakref
from typing import Final

_F_ADD_SEALS: Final = 1033
_FIXED_SIZE: Final = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


class SharedPages:
    """Zeroed pages that a client can map; nobody can change their number.

    Args:
        name: as /proc/PID/maps shows it.
        size: in bytes, a multiple of 4096.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM.

    Attributes:
        fd: to be given to who maps it, from offset 0 on; it belongs to this object.
        view: the bytes. Clients change them at any time: copy before looking.
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
        """Unmap it here and give up the fd; the mappings of clients stay as they are."""
        self.view.close()
        self._close_fd()
