# SPDX-License-Identifier: MIT
"""An epoll of its own for what has to be noticed before the next call is answered: closed fds, signalled eventfds.

close() and the write() to an eventfd are synchronous in the kernel, and programs depend on it: a call that is made after them
sees what they did. trio looks at sockets in an order of its own, so this is not left to it. Whoever takes a call from a client
calls `reap` first; what was closed or signalled before that call was sent is pending here by then, because the client did it
before.
"""

import contextlib
import select
from collections.abc import Callable
from typing import Final

_BATCH: Final = 64
_MOST: Final = 16
"""Batches that are processed in one go."""

HANG_UP: Final = select.EPOLLHUP | select.EPOLLERR
NEWS: Final = select.EPOLLIN | select.EPOLLET
"""Whenever something new can be read."""


class Poller:
    """Calls back for fds that have something to tell.

    Attributes:
        epoll: to be waited for, where no call comes to `reap`.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._ready: dict[int, Callable[[int, int], None]] = {}
        self._afterwards: list[Callable[[], None]] = []

    def watch(self, fd: int, events: int, ready: Callable[[int, int], None]) -> None:
        """Have ``ready(fd, what)`` called for these events of an fd, and for EPOLLHUP and EPOLLERR.

        Raises:
            OSError: ENOSPC: the user watches as many fds as he may.
        """
        self.epoll.register(fd, events)
        self._ready[fd] = ready

    def again(self, fd: int, events: int) -> None:
        """Wait for these events of a watched fd from now on; that is needed after each EPOLLONESHOT."""
        self.epoll.modify(fd, events)

    def unwatch(self, fd: int) -> bool:
        """End the watch, before the fd is closed; False if there was none."""
        if self._ready.pop(fd, None) is None:
            return False
        self.epoll.unregister(fd)
        return True

    def forget(self, fd: int) -> None:
        """End the watch of an fd that is closed now: when its last copy goes, the kernel ends it by itself."""
        del self._ready[fd]

    def afterwards(self, call: Callable[[], None]) -> None:
        """Within `ready`: do this when everything that was pending has been processed."""
        self._afterwards.append(call)

    def reap(self) -> bool:
        """Process what is pending now.

        Returns:
            Whether there is so much that others had better be served before the rest: call it again then.
        """
        left = _MOST
        while left and (events := self.epoll.poll(0, _BATCH)):
            left -= 1
            for fd, what in events:
                ready = self._ready.get(fd)
                if ready is not None:
                    ready(fd, what)
                else:
                    # It has no owner. Stop watching it, or epoll reports it for ever. Usually an event before this one, in the
                    # same batch, closed it.
                    with contextlib.suppress(OSError):
                        self.epoll.unregister(fd)
        if self._afterwards:
            calls, self._afterwards = self._afterwards, []
            for call in calls:
                call()
        return not left

    def close(self) -> None:
        """Close the epoll."""
        self.epoll.close()
