# SPDX-License-Identifier: MIT
"""The memory of a BAR that user space may map: a memfd of ours, whose pages can be taken away and given back.

While the function does not decode memory (COMMAND, D3hot, a low power state) an access to a mapping is a SIGBUS on a
real kernel, which zaps the mappings and refuses the fault. Here the memfd is cut to nothing meanwhile: its contents are
put aside, and whoever touches a mapping gets SIGBUS. We ourselves never map it, so that nobody can do that to us.
"""

import os
from typing import Final

_PAGE: Final = 4096


class SharedBar:
    """The pages of a BAR.

    Args:
        size: of the BAR, in bytes.
        contents: what it holds in the beginning; zeros behind it.

    Attributes:
        fd: the memfd.
        size: rounded up to pages.
    """

    def __init__(self, size: int, contents: bytes = b"") -> None:
        self.size = -(-size // _PAGE) * _PAGE
        self.fd = os.memfd_create("vfioemu-bar", os.MFD_CLOEXEC)
        self._aside: bytes | None = None
        os.truncate(self.fd, self.size)
        os.pwrite(self.fd, contents[: self.size], 0)

    def read(self, offset: int, size: int) -> bytes:
        """What user space has put there."""
        if self._aside is not None:
            return self._aside[offset : offset + size].ljust(size, b"\0")
        return os.pread(self.fd, size, offset).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Put something there for user space to see."""
        if self._aside is not None:
            whole = bytearray(self._aside.ljust(self.size, b"\0"))
            whole[offset : offset + len(data)] = data
            self._aside = bytes(whole)
        else:
            os.pwrite(self.fd, data, offset)

    def revoke(self) -> None:
        """From now on an access to a mapping is a SIGBUS."""
        if self._aside is None:
            self._aside = os.pread(self.fd, self.size, 0)
            os.truncate(self.fd, 0)

    def restore(self) -> None:
        """Mappings work again, with the contents that they had."""
        if self._aside is not None:
            os.truncate(self.fd, self.size)
            os.pwrite(self.fd, self._aside, 0)
            self._aside = None

    def close(self) -> None:
        """Give it back. Pages that are mapped stay with those who map them."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()
