# SPDX-License-Identifier: MIT
"""Pages between memory and a nonblocking stream socket, all runs of a frame in one call (csrc/vfe_move.h); and holes in files."""

import errno
import os
from typing import TYPE_CHECKING

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import Buffer
from vfioemu.native.runs import Runs
from vfioemu.native.sums import PAGE_SIZE, SumTable

if TYPE_CHECKING:
    from vfioemu._kernel import BytesPtr, ConstBytesPtr


class PagesOut:
    """A head and pages on their way into a socket. It keeps the memory from being unmapped until drop().

    Args:
        head: bytes that go first.
        memory: all of the memory.
        runs: which pages of it, ascending.
    """

    def __init__(self, head: bytes, memory: Buffer, runs: Runs) -> None:
        self._memory: ConstBytesPtr | None = ffi.from_buffer(memory)
        self._head = ffi.from_buffer(head)
        self._runs = runs
        self._cursor = ffi.new("uint64_t[]", 3)
        runs.pages(len(self._memory) // PAGE_SIZE)

    @property
    def moved(self) -> int:
        """Bytes that were sent."""
        return self._cursor[0]

    def step(self, fd: int, timeout: int) -> bool:
        """Send for up to `timeout` milliseconds; return whether all is sent.

        Raises:
            OSError: from sendmsg(2); EBADF after drop().
        """
        if self._memory is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return _done(
            lib.vfe_push(
                fd,
                self._head,
                len(self._head),
                self._memory,
                PAGE_SIZE,
                self._runs.cdata,
                len(self._runs),
                self._cursor,
                timeout,
            )
        )

    def drop(self) -> None:
        """Let go of the memory."""
        self._memory = None


class PagesIn:
    """Pages on their way from a socket into memory, where each is summed. It keeps the memory from being unmapped until drop().

    Args:
        memory: all of the memory.
        runs: which pages of it, ascending.
        sums: the table of that memory.
    """

    def __init__(self, memory: bytearray | memoryview, runs: Runs, sums: SumTable) -> None:
        sums.address(memory)
        runs.pages(sums.npages)
        self._memory: BytesPtr | None = ffi.from_buffer(memory, require_writable=True)
        self._runs = runs
        self._sums = sums
        self._cursor = ffi.new("uint64_t[]", 3)

    @property
    def moved(self) -> int:
        """Bytes that were received."""
        return self._cursor[0]

    def step(self, fd: int, timeout: int) -> bool:
        """Receive for up to `timeout` milliseconds; return whether all has come.

        Raises:
            OSError: from recvmsg(2); EPIPE at the end of the stream; EBADF after drop().
        """
        if self._memory is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return _done(
            lib.vfe_pull(
                fd,
                self._memory,
                PAGE_SIZE,
                self._runs.cdata,
                len(self._runs),
                self._cursor,
                self._sums.cdata,
                timeout,
            )
        )

    def drop(self) -> None:
        """Let go of the memory."""
        self._memory = None


def punch(fd: int, runs: Runs) -> None:
    """Make holes of the pages of `runs` in a memfd; what is a hole already is not touched.

    Raises:
        OSError: from fallocate(2).
    """
    if number := lib.vfe_punch(fd, PAGE_SIZE, runs.cdata, len(runs)):
        raise OSError(number, os.strerror(number))


def _done(status: int) -> bool:
    if status not in (0, errno.EAGAIN):
        raise OSError(status, os.strerror(status))
    return status == 0
