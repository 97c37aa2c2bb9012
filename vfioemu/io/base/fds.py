# SPDX-License-Identifier: MIT
"""Fds that clients send: telling what they are, and closing them, without ever being blocked by a hostile file.

fstat(), fstatfs() and the close() of a file on FUSE wait for its owner's daemon. So a received fd is identified by its
socket cookie, or by the link in /proc/self/fd, which the kernel makes up from names alone, and what is not ours is closed in
a worker thread.
"""

import contextlib
import ctypes
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.accounts import Account

log: Final = logging.getLogger(__name__)

_THREADS: Final = 16
"""Of each user."""
_PAUSE: Final = 1.0
_SO_COOKIE: Final = 57
_getsockopt: Final = ctypes.CDLL(None).getsockopt


def socket_cookie(fd: int) -> int | None:
    """Return the number by which the kernel tells a socket from every other that ever was; None if `fd` is no socket.

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
    """Tell whether `fd` is an eventfd.

    Names of the kernel's own begin without a slash, which no path does, so they cannot be forged.
    """
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"


def duplicate(fd: int) -> int:
    """Copy one of our own fds, for a client; IoctlError EMFILE, ENFILE."""
    try:
        return os.dup(fd)
    except OSError as error:
        raise IoctlError(error.errno or errno.EMFILE, "the daemon has no fd left") from error


class Closer:
    """Closes foreign fds, and looks at them, where it does not matter how long that takes.

    Each user has threads of his own: those that somebody's files hold up are not missed by anybody else.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._threads: dict[int, trio.CapacityLimiter] = {}
        self._pending: dict[int, int] = {}

    def pending(self, uid: int) -> int:
        """Count the fds of a user that have not been closed yet."""
        return self._pending.get(uid, 0)

    def close_later(self, fd: int, account: Account) -> None:
        """Close `fd` some time; how many are under way is counted with whoever sent it."""
        self._begin(_nothing, fd, account)

    async def ask(self, question: Callable[[int], bool], fd: int, account: Account, patience: float) -> bool:
        """Ask in a thread whether the answer is yes; no answer within `patience` seconds is a no. `fd` stays the caller's.

        Raises:
            OSError: we have no more fds.
        """
        answered = trio.Event()
        answers: list[bool] = []
        self._begin(lambda copy: answers.append(question(copy)), os.dup(fd), account, answered)
        with trio.move_on_after(patience):
            await answered.wait()
        return answers == [True]

    def _begin(
        self, job: Callable[[int], None], fd: int, account: Account, done: trio.Event | None = None
    ) -> None:
        account.closing += 1
        self._pending[account.uid] = self.pending(account.uid) + 1
        self._nursery.start_soon(self._work, job, [fd], account, done)

    async def _work(
        self, job: Callable[[int], None], fds: list[int], account: Account, done: trio.Event | None
    ) -> None:
        threads = self._threads.get(account.uid)
        if threads is None:
            threads = self._threads[account.uid] = trio.CapacityLimiter(_THREADS)
        try:
            while fds:
                try:
                    await trio.to_thread.run_sync(_work, job, fds, abandon_on_cancel=True, limiter=threads)
                except RuntimeError as error:  # the system has no thread for us now
                    log.warning("closing what a client has sent: %s", error)
                    await trio.sleep(_PAUSE)
        finally:
            if fds:  # cancelled, and perhaps no thread had begun; whichever begins first takes the fd
                with contextlib.suppress(RuntimeError):
                    trio.lowlevel.start_thread_soon(lambda: _work(job, fds), lambda _: None)
            self._pending[account.uid] -= 1
            account.one_closed()
            if done is not None:
                done.set()


def _nothing(fd: int) -> None:
    """Do nothing."""


def _work(job: Callable[[int], None], fds: list[int]) -> None:
    """Do the job with the fd, if nobody else does, and close it."""
    try:
        fd = fds.pop()
    except IndexError:
        return
    try:
        job(fd)
    finally:
        # The fd is gone whatever close() returns: what a file system on FUSE said to the flush, which is nobody's error here.
        with contextlib.suppress(OSError):
            os.close(fd)
