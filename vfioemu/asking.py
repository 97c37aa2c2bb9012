# SPDX-License-Identifier: MIT
"""A client of the control socket that blocks: for commands and tests. vfioemu/wire/control.py is the protocol.

It does without trio, which takes longer to import than a daemon to answer; `vfioemu.client.control` is for programs that have it.
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
"""Bytes received at a time."""


class ControlSocket:
    """A connection to a daemon's control socket.

    Args:
        path: the socket.
        timeout: how long to wait for each answer, in seconds; None for as long as it takes.
        who: whose daemon it is to be; by default whom $VFIOEMU_UID names, or our own user.

    Raises:
        OSError: what connect(2) says; ECONNRESET, it hung up; ETIMEDOUT; EPROTO, it is no daemon of ours that listens;
            StrangerError: it is somebody else's.
        ControlError: it has no room for another connection.
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
        """Have a command executed: what it returns.

        Raises:
            ControlError: the daemon does not do it.
            OSError: ECONNRESET or EPIPE, it hung up; ETIMEDOUT; EPROTO, its answer is none.
        """
        try:
            self._sock.sendall(self._side.request(command, arguments))
        except TimeoutError:
            raise _too_late() from None
        return self._receive(self._side.answer).value

    def events(self) -> Iterator[bytes]:
        """Yield what the daemon says after the answer to `trace`, a line each, until it hangs up; this waits without a limit.

        Raises:
            OSError: EPROTO, a line is too long.
        """
        self._sock.settimeout(None)
        try:
            while True:
                yield self._receive(self._side.line)
        except ConnectionResetError:
            return

    def _receive(self, take: Callable[[], T | None]) -> T:
        """Receive until `take` finds something."""
        try:
            while (taken := take()) is None:
                part = self._sock.recv(_PART)
                if not part:
                    raise ConnectionResetError(errno.ECONNRESET, "it hung up")
                self._side.feed(part)
        except TimeoutError:
            raise _too_late() from None
        except ProtocolError as error:
            raise OSError(errno.EPROTO, str(error)) from None
        return taken

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def _too_late() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
