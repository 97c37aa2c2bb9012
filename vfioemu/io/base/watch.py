# SPDX-License-Identifier: MIT
"""Eventfds that a client signals and a device hears: vfio's virqfd.

In the kernel the device has heard when write() returns. So these eventfds are watched by the poller that is asked before each
call: whatever the client has signalled before a call has had its effect when the call begins. That the client has closed its
eventfd nobody tells us (the kernel is told by EPOLLHUP); the watch then lasts until it is taken back, the device is closed, or
another eventfd is to take its place: then `base/holders.py` looks who has the old one.
"""

import select
from collections.abc import Callable
from typing import Final

from vfioemu.io.base.eventfd import ClientEventFd
from vfioemu.io.base.poller import Poller

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
"""At most once in a `reap`: a client that signals as fast as it can would keep it busy for ever."""


class EventFdWatcher:
    """Calls `then` whenever the eventfd has been signalled; holds the reference to it.

    Args:
        poller: what watches it.
        eventfd: ours from now on.
        then: what to do.
    """

    def __init__(self, poller: Poller, eventfd: ClientEventFd, then: Callable[[], None]) -> None:
        self._poller = poller
        self._eventfd = eventfd
        self._then = then
        poller.watch(eventfd.fileno(), _ONCE, self._look)

    def _look(self, fd: int, what: int) -> None:
        """Take the count, and act. Another watcher may have taken it by now; in the kernel, both are woken up."""
        self._poller.afterwards(self._arm)
        self._eventfd.take()
        self._then()

    def _arm(self) -> None:
        if (fd := self._eventfd.fileno()) >= 0:
            self._poller.again(fd, _ONCE)

    def close(self) -> None:
        """Stop watching, and drop the reference."""
        if (fd := self._eventfd.fileno()) >= 0:
            self._poller.unwatch(fd)
            self._eventfd.close()
