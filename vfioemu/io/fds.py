# SPDX-License-Identifier: MIT
"""Fds that clients send: telling what they are, and closing them, without ever being blocked by a hostile file.

fstat(), fstatfs() and the close() of a file on FUSE wait for its owner's daemon. So a received fd is identified by its
socket cookie, or by the link in /proc/self/fd, which the kernel makes up from names alone, and what is not ours is closed in
a worker thread.
"""

import ctypes
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from vfioemu.io.session import Session

_THREADS: Final = 16


_SO_COOKIE: Final = 57
_getsockopt: Final = ctypes.CDLL(None).getsockopt


def socket_cookie(fd: int) -> int | None:
    """The number by which the kernel tells a socket from every other that ever was; None if `fd` is none.

    Inode numbers will not do: they are reused, and whoever makes sockets for an hour gets the one he wants. Nor will a
    socket object: to make one of an fd calls getsockname(), which waits for a TCP socket's lock, and that is held by whoever
    sends from memory that he has parked.
    """
    cookie = ctypes.c_uint64()
    size = ctypes.c_uint32(ctypes.sizeof(cookie))
    if _getsockopt(fd, socket.SOL_SOCKET, _SO_COOKIE, ctypes.byref(cookie), ctypes.byref(size)):
        return None
    return cookie.value


def is_eventfd(fd: int) -> bool:
    """Whether `fd` is an eventfd.

    Names of the kernel's own begin without a slash, which no path does, so they cannot be forged.
    """
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
