# SPDX-License-Identifier: MIT
"""Blocking client of the control socket, for commands and tests. vfioemu/wire/control.py has the protocol.

It does not use trio: importing trio takes longer than a daemon takes to answer. `vfioemu.client.control` is the client for
programs that run trio anyway.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, Self, TypeVar

from vfioemu import trust
from vfioemu.wire.control import ClientSide, ProtocolError

T = TypeVar("T")

_PART: Final = 65536
"""Bytes to receive at a time."""


class ControlSocket:
    """Connection to the control socket of a daemon.

    Args:
        path: the socket.
        timeout: how long to wait for each answer, in seconds; None waits without limit.
        who: the user that the daemon must belong to; by default the one that $VFIOEMU_UID names, or our own.

    Raises:
        OSError: from connect(2); ECONNRESET if the daemon closes the connection; ETIMEDOUT; EPROTO if the listener does not
            speak our protocol; StrangerError if it belongs to another user.
        ControlError: TooManyConnections.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        timeout: float | None = None,
        who: trust.Trusted | None = None,
    ) -> None:
        self._side = ClientSide()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.settimeout(timeout)
            self._sock.connect(os.fspath(path))
            trust.check(self._sock, path, who)
            self._receive(self._side.greeting)
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str, **arguments: object) -> Any:
        """Execute a command and return its result.

        Raises:
            ControlError: the daemon refuses the command.
            OSError: ECONNRESET or EPIPE if the daemon closed the connection; ETIMEDOUT; EPROTO for a malformed answer.
        """
        try:
            self._sock.sendall(self._side.request(command, arguments))
        except TimeoutError:
            raise _too_late() from None
        return self._receive(self._side.answer).value

    def events(self) -> Iterator[bytes]:
        """Yield the lines after the answer to `trace`, until the daemon closes the connection; wait without a limit.

        Raises:
            OSError: EPROTO if a line is too long.
        """
        self._sock.settimeout(None)
        try:
            while True:
                yield self._receive(self._side.line)
        except ConnectionResetError:
            return

    def _receive(self, take: Callable[[], T | None]) -> T:
        """Receive until `take` returns something other than None."""
        try:
            while (taken := take()) is None:
                part = self._sock.recv(_PART)
                if not part:
                    raise ConnectionResetError(errno.ECONNRESET, "the daemon closed the connection")
                self._side.feed(part)
        except TimeoutError:
            raise _too_late() from None
        except ProtocolError as error:
            raise OSError(errno.EPROTO, str(error)) from None
        return taken

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def _too_late() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
