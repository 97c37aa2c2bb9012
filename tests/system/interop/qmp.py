# SPDX-License-Identifier: MIT
"""QEMU's machine protocol: commands, answers and events."""

import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Self

import trio

_PIECE: Final = 1 << 16
_LISTENS: Final = 30.0


class QmpError(Exception):
    """QEMU refused a command; the text is its own."""


class Gone(Exception):
    """QEMU has closed its end."""


class Qmp:
    """A connection, with its greeting done. One task may use it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._events: deque[dict[str, Any]] = deque()

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, path: Path) -> AsyncIterator[Self]:
        """Connect to a monitor that is there already."""
        async with await open_socket(path) as stream:
            qmp = cls(stream)
            await qmp._message()
            await qmp("qmp_capabilities")
            yield qmp

    async def __call__(self, command: str, **arguments: object) -> Any:
        """Run a command; a `_` in an argument's name stands for `-`.

        Raises:
            QmpError: it was refused.
            Gone: QEMU ended before it answered.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = json.dumps({"execute": command, "arguments": named}).encode() + b"\n"
        try:
            await self._stream.send_all(message)
        except trio.BrokenResourceError:
            raise Gone(command) from None
        while True:
            answer = await self._message()
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    async def event(self, name: str, **data: object) -> dict[str, Any]:
        """Wait for an event whose data has these items: its data. Events before it are forgotten."""
        while True:
            event = self._events.popleft() if self._events else await self._message()
            found: dict[str, Any] = event.get("data", {})
            if event.get("event") == name and all(found.get(key) == value for key, value in data.items()):
                return found

    async def _message(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                piece = await self._stream.receive_some(_PIECE)
            except trio.BrokenResourceError:
                piece = b""
            if not piece:
                raise Gone("the monitor is closed")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


async def open_socket(path: Path) -> trio.SocketStream:
    """Connect to a socket that has its name and may be about to listen."""
    with trio.fail_after(_LISTENS):
        while True:
            try:
                return await trio.open_unix_socket(path)
            except ConnectionRefusedError:
                await trio.sleep(0.02)


async def until(
    ask: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool], seconds: float, every: float = 0.05
) -> Any:
    """Ask again and again: the first answer that is `enough`.

    Raises:
        trio.TooSlowError: there was none.
    """
    with trio.fail_after(seconds):
        while True:
            answer = await ask()
            if enough(answer):
                return answer
            await trio.sleep(every)
