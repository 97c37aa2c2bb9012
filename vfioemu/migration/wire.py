# SPDX-License-Identifier: MIT
"""What a channel moves its bytes through: a plain socket here, TLS over one in tls.py.

A wire never waits. What would have to wait raises BlockingIOError; transport.py waits, and tries again with the same bytes.
"""

import socket
from collections.abc import Sequence
from typing import Final, Protocol

from vfioemu.migration.greeting import Greeting

IOV_MAX: Final = 1024


class Wire(Protocol):
    """A connected stream of bytes in both directions; methods raise OSError, or StreamError where more is known."""

    @property
    def sock(self) -> socket.socket:
        """The socket below; nonblocking."""

    @property
    def greeting(self) -> Greeting:
        """How this side begins."""

    @property
    def established(self) -> bool:
        """Whether bytes can be sent."""

    @property
    def proven(self) -> bool:
        """Whether the other side has shown by a certificate who it is."""

    def begin(self) -> int:
        """Go on with what comes before the first byte; returns POLLIN or POLLOUT to wait for, 0 when there is no more of it."""

    def send(self, views: Sequence[memoryview]) -> int:
        """Send some bytes of `views`, in order; returns how many."""

    def receive(self, views: Sequence[memoryview]) -> int:
        """Receive some bytes into `views`, in order; returns how many, 0 at the end."""

    def has_buffered(self) -> bool:
        """Whether there are bytes to receive that the socket does not know of any more."""


class PlainWire:
    """A socket as it is; pages need not pass through Python (push.py).

    Args:
        sock: connected, nonblocking.
        greeting: how this side begins; None: without a secret.
    """

    established: Final = True
    proven: Final = False

    def __init__(self, sock: socket.socket, greeting: Greeting | None = None) -> None:
        self.sock = sock
        self.greeting = greeting or Greeting()

    def begin(self) -> int:
        """There is nothing before the first byte."""
        return 0

    def send(self, views: Sequence[memoryview]) -> int:
        """Send what the socket takes."""
        return self.sock.sendmsg(views[:IOV_MAX])

    def receive(self, views: Sequence[memoryview]) -> int:
        """Receive what there is."""
        return self.sock.recvmsg_into(views[:IOV_MAX])[0]

    def has_buffered(self) -> bool:
        """All that there is is in the socket."""
        return False
