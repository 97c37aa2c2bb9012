# SPDX-License-Identifier: MIT
"""The memory of a BAR that user space may map: a memfd of ours, whose pages can be taken away and given back.

While the function does not decode memory (COMMAND, D3hot, a low power state) an access to a mapping is a SIGBUS on a
real kernel, which zaps the mappings and refuses the fault. Here the memfd is cut to nothing meanwhile: its contents are
put aside, and whoever touches a mapping gets SIGBUS. We ourselves never map it, so that nobody can do that to us.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Final

_PAGE: Final = 4096
_PUNCH_HOLE: Final = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


class SharedBar:
    """The pages of a BAR.

    Args:
        size: of the BAR, in bytes.
        contents: what it holds in the beginning; zeros behind it.

    Raises:
        OSError: EMFILE, ENFILE.

    Attributes:
        fd: the memfd.
        size: rounded up to pages.
    """

    def __init__(self, size: int, contents: bytes = b"") -> None:
        self.size = -(-size // _PAGE) * _PAGE
        self.fd = self._aside = -1
        self.fd = os.memfd_create("vfioemu-bar", os.MFD_CLOEXEC)
        os.truncate(self.fd, self.size)
        os.pwrite(self.fd, contents[: self.size], 0)

    @property
    def revoked(self) -> bool:
        """An access to a mapping is a SIGBUS now."""
        return self._aside >= 0

    def read(self, offset: int, size: int) -> bytes:
        """What user space has put there."""
        return os.pread(self._aside if self.revoked else self.fd, size, offset).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Put something there for user space to see."""
        os.pwrite(self._aside if self.revoked else self.fd, data[: max(0, self.size - offset)], offset)

    def clear(self) -> None:
        """All of it is zero again, and costs nothing. Whoever touches a mapping meanwhile notices nothing else."""
        fd = self._aside if self.revoked else self.fd
        if _libc.fallocate64(fd, _PUNCH_HOLE, ctypes.c_int64(0), ctypes.c_int64(self.size)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def written(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Which parts (offset, size) of a range something has been stored to; all others are zero."""
        fd = self._aside if self.revoked else self.fd
        at, end = offset, offset + size
        while at < end:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
                at = min(os.lseek(fd, start, os.SEEK_HOLE), end)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data behind that
                    return
                raise
            if start < at:
                yield start, at - start

    def revoke(self) -> None:
        """From now on an access to a mapping is a SIGBUS; not so if we have no fd left to put the contents aside."""
        if self.revoked:
            return
        try:
            aside = os.memfd_create("vfioemu-bar-aside", os.MFD_CLOEXEC)
        except OSError:
            return
        _copy(self.fd, aside, self.size)
        self._aside = aside
        os.truncate(self.fd, 0)

    def restore(self) -> None:
        """Mappings work again, with the contents that they had."""
        if self.revoked:
            os.truncate(self.fd, self.size)
            _copy(self._aside, self.fd, self.size)
            os.close(self._aside)
            self._aside = -1

    def close(self) -> None:
        """Give it back. Pages that are mapped stay with those who map them."""
        for fd in (self.fd, self._aside):
            if fd >= 0:
                os.close(fd)
        self.fd = self._aside = -1

    def __del__(self) -> None:
        self.close()


def _copy(source: int, target: int, size: int) -> None:
    """Copy what has been written; holes cost nothing. Whoever has the fd may change its size meanwhile."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind that
                return
            raise
        os.lseek(target, at, os.SEEK_SET)
        while at < end and (sent := os.sendfile(target, source, at, end - at)):
            at += sent
        if at < end:
            return
