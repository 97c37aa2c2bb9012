# SPDX-License-Identifier: MIT
"""Eventfds that a client signals and a device hears: vfio's virqfd.

In the kernel the device has heard when write() returns. So these eventfds are in the token table's epoll, which is asked
before each request is dispatched: whatever the client has signalled before a call has had its effect when the call begins.
That the client has closed its eventfd nobody tells us (the kernel is told by EPOLLHUP); the watch then lasts until it is taken
back, the device is closed, or another eventfd is to take its place: then it is looked who has the old one (holders.py).
"""

from collections.abc import Callable

from vfioemu.io.base.eventfd import ClientEventFd
from vfioemu.io.shim.tokens import TokenTable


class EventFdWatcher:
    """Calls `then` whenever the eventfd has been signalled; holds the reference to it.

    Args:
        tokens: whose epoll it is.
        eventfd: ours from now on.
        then: what to do.
    """

    def __init__(self, tokens: TokenTable, eventfd: ClientEventFd, then: Callable[[], None]) -> None:
        self._tokens = tokens
        self._eventfd = eventfd
        self._then = then
        tokens.watch_input(eventfd.fileno(), self._look)

    def _look(self) -> None:
        """It was readable. Another watcher may have taken the count by now; in the kernel, both are woken up."""
        self._eventfd.take()
        self._then()

    def close(self) -> None:
        """Stop."""
        if (fd := self._eventfd.fileno()) >= 0:
            self._tokens.unwatch_input(fd)
            self._eventfd.close()
