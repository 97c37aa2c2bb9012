# SPDX-License-Identifier: MIT
"""How much of a client's memory is mapped here: counted for a process and for all, and refused beyond the limits."""

import errno
import os

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.unmapping import unmapping


class Usage:
    """Counts mapped windows and their bytes, of a process or of all.

    Exhausting vm.max_map_count or address space is fatal to the daemon, which cannot even raise an exception then. So clients are
    limited first.
    """

    __slots__ = ("_gone", "kept", "leaving", "size", "total", "windows")

    def __init__(self, total: "Usage | None" = None) -> None:
        self.total = total
        self.windows = 0
        self.leaving = 0
        self.size = 0
        self.kept = 0
        self._gone: trio.Event | None = None

    def refuse_kept(self, size: int, limits: Limits) -> None:
        """ENOSPC if no more may be kept of what the process takes away."""
        if self.kept + size > limits.max_kept:
            raise IoctlError(errno.ENOSPC, f"{self.kept:#x} bytes are kept for the process already")
        if self.total is not None and self.total.kept + size > limits.max_all_kept:
            raise IoctlError(errno.ENOSPC, f"{self.total.kept:#x} bytes are kept for all processes already")

    def add_kept(self, size: int) -> None:
        """Count bytes that are kept: so many more, or fewer."""
        self.kept += size
        if self.total is not None:
            self.total.add_kept(size)

    def refuse(self, size: int, limits: Limits) -> None:
        """ENOSPC if there is no room for another window."""
        if self.windows >= limits.max_windows or self.size + size > limits.max_shared:
            raise IoctlError(
                errno.ENOSPC, f"the process shares {self.windows} windows of {self.size:#x} bytes already"
            )
        if (total := self.total) is not None and (
            total.windows >= limits.max_all_windows or total.size + size > limits.max_all_shared
        ):
            raise IoctlError(
                errno.ENOSPC, f"all share {total.windows} windows of {total.size:#x} bytes already"
            )

    def add(self, windows: int, size: int) -> None:
        """Count a window, or take it back."""
        self.windows += windows
        self.size += size
        if self.total is not None:
            self.total.add(windows, size)

    def unmap(self, address: int, size: int, fd: int) -> None:
        """Unmap a window, and close its fd if it has one; it counts until it has gone, which may take a thread 150 ms for each GiB."""
        self.leaving += 1

        def gone() -> None:
            self.leaving -= 1
            self.add(-1, -size)
            if fd >= 0:
                self.add_fds(-1)
            if self._gone is not None:
                self._gone.set()
                self._gone = None

        unmapping.unmap(address, size, fd, gone)

    async def settled(self) -> None:
        """Wait until whatever goes has gone."""
        while self.leaving:
            if self._gone is None:
                self._gone = trio.Event()
            await self._gone.wait()

    def add_fds(self, number: int) -> None:
        """Count fds of ours that exist for it; nobody is limited here, but see Account."""

    def no_fd(self) -> str:
        """Say why it gets no further fd of ours; nothing if it does."""
        return ""


def close_counted(fd: int, usage: Usage) -> None:
    """Close an fd of ours that counted for somebody."""
    os.close(fd)
    usage.add_fds(-1)
