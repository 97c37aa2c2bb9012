# SPDX-License-Identifier: MIT
"""The control socket's client: one JSON object a line in each direction."""

import contextlib
import json
import os
from collections.abc import AsyncIterator

import trio

from vfioemu import trust
from vfioemu.client.channel import DaemonGone

_MAX_LINE = 64 << 20


class ControlError(Exception):
    """The daemon refused a command.

    Attributes:
        kind: the error's class, e.g. ``DeviceNotFound``.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Control:
    """A connection to the control socket; `control` makes one."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._lock = trio.Lock()
        self._id = 0
        self.greeting: dict[str, object] = {}

    async def call(self, command: str, **arguments: object) -> object:
        """Execute a command: what it returns.

        Raises:
            ControlError: it was refused.
            DaemonGone: the daemon hung up.
        """
        async with self._lock:
            self._id += 1
            request: dict[str, object] = {"execute": command, "id": self._id}
            if arguments:
                request["arguments"] = arguments
            try:
                await self._stream.send_all(json.dumps(request).encode() + b"\n")
            except trio.BrokenResourceError:
                raise DaemonGone("the control socket is closed") from None
            while True:
                answer = await self._line()
                if answer.get("id") == self._id:
                    break
        _check(answer)
        return answer["return"]

    async def _line(self) -> dict[str, object]:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            try:
                part = await self._stream.receive_some()
            except trio.BrokenResourceError:
                part = b""
            if not part or len(self._buffer) > _MAX_LINE:
                raise DaemonGone("the control socket is closed")
            self._buffer += part
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        parsed = json.loads(line)
        assert isinstance(parsed, dict)
        return parsed

    async def greet(self) -> None:
        """Take the daemon's greeting.

        Raises:
            ControlError: it has no room for another connection.
            DaemonGone: it hung up.
        """
        greeting = await self._line()
        _check(greeting)
        self.greeting = greeting


def _check(answer: dict[str, object]) -> None:
    """ControlError for a refusal."""
    if "error" in answer:
        error = answer["error"]
        assert isinstance(error, dict)
        raise ControlError(str(error.get("class")), str(error.get("desc")))


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
