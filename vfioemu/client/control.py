# SPDX-License-Identifier: MIT
"""Client of the control socket under trio; vfioemu/wire/control.py has the protocol."""

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
    """A connection to the control socket; made by `control`.

    Attributes:
        greeting: the daemon's greeting; `vfioemu` has its version, commands and pid.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.greeting: dict[str, Any] = {}
        self._stream = stream
        self._side = ClientSide()
        self._lock = trio.Lock()
        """Held from a request to its answer: answers come in order, so two callers would take each other's."""

    async def call(self, command: str, **arguments: object) -> object:
        """Execute a command and return its result.

        Raises:
            ControlError: the daemon refuses the command.
            DaemonGone: the daemon closed the connection, or broke the protocol.
        """
        async with self._lock:
            try:
                await self._stream.send_all(self._side.request(command, arguments))
            except trio.BrokenResourceError:
                raise DaemonGone("the daemon closed the control connection") from None
            answer = await self._receive(self._side.answer)
        return answer.value

    async def greet(self) -> None:
        """Receive the daemon's greeting.

        Raises:
            ControlError: TooManyConnections.
            DaemonGone: it closed the connection, or is not a vfioemu daemon.
        """
        self.greeting = {"vfioemu": await self._receive(self._side.greeting)}

    async def _receive(self, take: Callable[[], T | None]) -> T:
        """Receive until `take` returns something other than None."""
        try:
            while (taken := take()) is None:
                part = await self._stream.receive_some()
                if not part:
                    raise DaemonGone("the daemon closed the control connection")
                self._side.feed(part)
        except trio.BrokenResourceError:
            raise DaemonGone("the daemon closed the control connection") from None
        except ProtocolError as error:
            raise DaemonGone(f"control socket: {error}") from None
        return taken


@contextlib.asynccontextmanager
async def control(path: str | os.PathLike[str], *, uid: int | None = None) -> AsyncIterator[Control]:
    """Connect to a daemon's control socket.

    Args:
        path: the socket.
        uid: the user that the daemon must belong to; by default the one that $VFIOEMU_UID names, or our own.

    Raises:
        OSError: from connect(2); StrangerError (EPERM): the daemon belongs to another user.
        ControlError: TooManyConnections.
    """
    async with await trio.open_unix_socket(os.fspath(path)) as stream:
        trust.check(stream.socket, path, None if uid is None else trust.seen(uid))
        connection = Control(stream)
        await connection.greet()
        yield connection
