# SPDX-License-Identifier: MIT
"""The control socket for those who ask and wait: commands and tests.

Without trio, which takes longer to import than a daemon to answer; `vfioemu.client.control` is for programs that have it.
"""

import errno
import json
import os
import socket
from typing import Any, Self

from vfioemu import trust


class Refused(Exception):
    """The daemon refused a command; the text says why.

    Attributes:
        kind: the error's class, e.g. ``DeviceNotFound``.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class ControlSocket:
    """A connection to a daemon's control socket.

    Args:
        path: the socket.
        timeout: how long to wait for each answer, in seconds; None for as long as it takes.
        who: whose daemon it is to be; by default whom $VFIOEMU_UID names, or our own user.

    Attributes:
        lines: what the daemon says without being asked, after the answer to `trace`.

    Raises:
        OSError: what connect(2) says; ECONNRESET, it hung up; ETIMEDOUT; StrangerError: it is somebody else's.
        Refused: it has no room for another connection.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        timeout: float | None = None,
        who: trust.Trusted | None = None,
    ) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.settimeout(timeout)
            self._sock.connect(os.fspath(path))
            trust.check(self._sock, path, who)
        except BaseException:
            self._sock.close()
            raise
        self.lines = self._sock.makefile("rb")
        try:
            self._take("vfioemu")  # the greeting
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str, **arguments: object) -> Any:
        """Have a command executed: what it returns.

        Raises:
            Refused: the daemon does not do it.
            OSError: ECONNRESET or EPIPE, it hung up; ETIMEDOUT.
        """
        request = {"execute": command, "arguments": arguments}
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except TimeoutError:
            raise _too_late() from None
        return self._take("return")

    def listen(self) -> None:
        """Wait as long as it takes for what comes now."""
        self._sock.settimeout(None)

    def _take(self, what: str) -> Any:
        """What the next line says."""
        try:
            line = self.lines.readline()
        except TimeoutError:
            raise _too_late() from None
        if not line.endswith(b"\n"):
            raise ConnectionResetError(errno.ECONNRESET, "it hung up")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"]["class"], answer["error"]["desc"])
        return answer[what]

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self._sock.close()


def _too_late() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
