# SPDX-License-Identifier: MIT
"""A client of the control socket under trio; vfioemu/wire/control.py is the protocol."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import trio

from vfioemu import trust
from vfioemu.client.channel import DaemonGone
from vfioemu.wire.control import ClientSide, ControlError, ProtocolError

T = TypeVar("T")

__all__ = ["Control", "ControlError", "control"]


class Control:
    """A connection to the control socket; `control` makes one.

    Attributes:
        greeting: what the daemon said first; `vfioemu` has its version, commands and pid.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.greeting: dict[str, Any] = {}
        self._stream = stream
        self._side = ClientSide()
        self._lock = trio.Lock()
        """Held from a request to its answer: answers come in the order of the requests."""

    async def call(self, command: str, **arguments: object) -> object:
        """Execute a command: what it returns.

        Raises:
            ControlError: it was refused.
            DaemonGone: the daemon hung up, or breaks the protocol.
        """
        async with self._lock:
            try:
                await self._stream.send_all(self._side.request(command, arguments))
            except trio.BrokenResourceError:
                raise DaemonGone("the control socket is closed") from None
            answer = await self._receive(self._side.answer)
        return answer.value

    async def greet(self) -> None:
        """Take the daemon's greeting.

        Raises:
            ControlError: it has no room for another connection.
            DaemonGone: it hung up, or is no vfioemu daemon.
        """
        self.greeting = {"vfioemu": await self._receive(self._side.greeting)}

    async def _receive(self, take: Callable[[], T | None]) -> T:
        """Receive until `take` finds something."""
        try:
            while (taken := take()) is None:
                part = await self._stream.receive_some()
                if not part:
                    raise DaemonGone("the control socket is closed")
                self._side.feed(part)
        except trio.BrokenResourceError:
            raise DaemonGone("the control socket is closed") from None
        except ProtocolError as error:
            raise DaemonGone(f"the control socket: {error}") from None
        return taken


@contextlib.asynccontextmanager
async def control(path: str | os.PathLike[str], *, uid: int | None = None) -> AsyncIterator[Control]:
    """Connect to a daemon's control socket.

    Args:
        path: the socket.
        uid: whose daemon it is to be; by default whom $VFIOEMU_UID names, or our own user.

    Raises:
        OSError: what connect(2) says; StrangerError (EPERM): it is somebody else's.
        ControlError: it has no room for another connection.
    """
    async with await trio.open_unix_socket(os.fspath(path)) as stream:
        trust.check(stream.socket, path, None if uid is None else trust.seen(uid))
        connection = Control(stream)
        await connection.greet()
        yield connection
