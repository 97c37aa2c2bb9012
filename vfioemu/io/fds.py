# SPDX-License-Identifier: MIT
"""Fds that clients send: telling what they are, and closing them, without ever being blocked by a hostile file.

fstat(), fstatfs() and the close() of a file on FUSE wait for its owner's daemon. So a received fd is identified by the
link in /proc/self/fd, which the kernel makes up from names alone, and what is not ours is closed in a worker thread.
"""

import os
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from vfioemu.io.session import Session

_THREADS: Final = 16


def socket_inode(fd: int) -> int | None:
    """The inode of a socket; None if `fd` is none.

    Names of the kernel's own begin without a slash, which no path does, so they cannot be forged.
    """
    link = os.readlink(f"/proc/self/fd/{fd}")
    if link.startswith("socket:[") and link.endswith("]"):
        return int(link[8:-1])
    return None


def is_eventfd(fd: int) -> bool:
    """Whether `fd` is an eventfd."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"


class Graveyard:
    """Closes foreign fds where it does not matter how long that takes."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(_THREADS)

    def bury(self, fd: int, session: "Session | None" = None) -> None:
        """Close `fd` some time. `session` is who sent it; how many of its burials are under way is counted there."""
        if session is not None:
            session.burial_begins()
        self._nursery.start_soon(self._bury, fd, session)

    async def _bury(self, fd: int, session: "Session | None") -> None:
        try:
            await trio.to_thread.run_sync(os.close, fd, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            if session is not None:
                session.burial_ends()
