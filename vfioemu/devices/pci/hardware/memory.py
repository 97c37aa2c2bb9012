# SPDX-License-Identifier: MIT
"""The memory of a BAR that user space may map: a memfd of ours, whose pages can be taken away and given back.

While the function does not decode memory (COMMAND, D3hot, a low power state) an access to a mapping is a SIGBUS on a
real kernel, which zaps the mappings and refuses the fault. Here the memfd is cut to nothing meanwhile: its contents are
put aside, from the end on, and whoever touches a mapping gets SIGBUS. We ourselves never map it, so that nobody can do that
to us.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Final

from vfioemu.core.base.limits import PAGE_SIZE

_STEP: Final = 4 << 20
"""Bytes that are put aside, or back, in one go: some milliseconds."""
FREED: Final = 64 << 20
"""Bytes whose pages are given back in one go: some milliseconds."""
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
        self.size = -(-size // PAGE_SIZE) * PAGE_SIZE
        self.fd = self._aside = -1
        self._shown = self._kept = self.size
        self.fd = os.memfd_create("vfioemu-bar", os.MFD_CLOEXEC)
        os.truncate(self.fd, self.size)
        os.pwrite(self.fd, contents[: self.size], 0)

    @property
    def files(self) -> tuple[int, ...]:
        """Give the fds of the memfds in which the pages are; none when it was closed."""
        return tuple(fd for fd in (self.fd, self._aside) if fd >= 0)

    @property
    def revoked(self) -> bool:
        """An access to any mapping is a SIGBUS now."""
        return not self._shown

    def read(self, offset: int, size: int) -> bytes:
        """Read the bytes that user space has put there."""
        return b"".join(
            os.pread(fd, count, at).ljust(count, b"\0") for fd, at, count in self._parts(offset, size)
        )

    def write(self, offset: int, data: bytes) -> None:
        """Put something there for user space to see."""
        for fd, at, count in self._parts(offset, min(len(data), max(0, self.size - offset))):
            os.pwrite(fd, data[at - offset : at - offset + count], at)

    def clear(self, offset: int = 0, size: int | None = None) -> None:
        """Make a range zero again, so that it costs nothing. Whoever touches a mapping meanwhile notices nothing else.

        Args:
            offset: of the range.
            size: how long it is; `FREED` is what can be done in one go. None: up to the end.
        """
        left = max(0, self.size - offset)
        for fd, at, count in self._parts(offset, left if size is None else min(size, left)):
            if _libc.fallocate64(fd, _PUNCH_HOLE, ctypes.c_int64(at), ctypes.c_int64(count)):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def written(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts (offset, size) of a range that something has been stored to; all others are zero."""
        for fd, at, count in self._parts(offset, size):
            yield from _data(fd, at, at + count)

    def move(self, *, shown: bool) -> bool:
        """Let mappings work, with the contents that they had, or have an access to them be a SIGBUS from now on.

        It takes as many calls as there is much in them; meanwhile mappings of the first part work, and others are served.
        Without an fd to put the contents aside, mappings go on working.

        Returns:
            True if there is more to do.
        """
        if self.fd < 0 or self._kept < self.size:
            return False  # it was closed in between, or is about to be
        return self._show() if shown else self._put_aside()

    def _show(self) -> bool:
        if self._aside < 0:
            return False
        start, _ = next(_data(self._aside, self._shown, self.size), (self.size, 0))
        end = min(start // _STEP * _STEP + _STEP, self.size)
        os.truncate(self.fd, end)
        for at, count in _data(self._aside, start, end):
            _copy(self._aside, self.fd, at, at + count)
        self._shown = end
        if end < self.size:
            return True
        os.close(self._aside)
        self._aside = -1
        return False

    def _put_aside(self) -> bool:
        if self.revoked:
            return False
        if self._aside < 0:
            try:
                self._aside = os.memfd_create("vfioemu-bar-aside", os.MFD_CLOEXEC)
            except OSError:
                return False
        if next(_data(self.fd, 0, self._shown), None) is None:
            start = 0
        else:
            start = max(self._shown - 1, 0) // _STEP * _STEP
            for at, count in _data(self.fd, start, self._shown):
                _copy(self.fd, self._aside, at, at + count)
        os.truncate(self.fd, start)
        self._shown = start
        return start > 0

    def _parts(self, offset: int, size: int) -> list[tuple[int, int, int]]:
        """List the parts of a range: fd, offset in it, size."""
        ends = min(max(self._shown, offset), offset + size)
        parts = ((self.fd, offset, ends - offset), (self._aside, ends, offset + size - ends))
        return [(fd if fd >= 0 else self.fd, at, count) for fd, at, count in parts if count]

    def release(self) -> bool:
        """Give a part of it back, from the end on; with the last part it is closed.

        It takes as many calls as there is much in it. What a program writes behind us goes with the next one.

        Returns:
            True if there is more to do.
        """
        empty = all(_is_empty(fd, self._kept) for fd in self.files)
        self._kept = 0 if empty else max(0, self._kept - FREED)
        if not self._kept:
            self.close()
            return False
        for fd in self.files:
            if os.fstat(fd).st_size > self._kept:
                os.truncate(fd, self._kept)
        return True

    def close(self) -> None:
        """Give it back. Mappings hold the function open; so who reaches it still is a device, which fails from now on.

        The next who opens the function gets memory of his own, where what that device writes would not be seen.
        """
        for fd in self.files:
            os.truncate(fd, 0)
            os.close(fd)
        self.fd = self._aside = -1

    def __del__(self) -> None:
        self.close()


def _is_empty(fd: int, end: int) -> bool:
    """Tell whether a file has no pages before `end`."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA) >= end
    except OSError as error:
        if error.errno == errno.ENXIO:
            return True
        raise


def _data(fd: int, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of the parts of a range of a file that are no holes."""
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


def _copy(source: int, target: int, at: int, end: int) -> None:
    """Copy a part of a file. Whoever has the fd may change its size meanwhile."""
    os.lseek(source, at, os.SEEK_SET)
    os.lseek(target, at, os.SEEK_SET)
    while at < end and (sent := os.sendfile(target, source, None, end - at)):
        at += sent
