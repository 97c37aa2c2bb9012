# SPDX-License-Identifier: MIT
"""The shell on the guest's serial console."""

import contextlib
import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Final, Self

import trio

from tests.system.interop.qmp import open_socket

_PROMPT: Final = b"guest# "
_PIECE: Final = 4096


class GuestError(Exception):
    """A command did not do what it should; the text is what it printed."""


class Console:
    """A shell that waits for commands; one task may use it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._numbers = count(1)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, path: Path) -> AsyncIterator[Self]:
        """Connect to the console's socket."""
        async with await open_socket(path) as stream:
            yield cls(stream)

    async def booted(self, seconds: float) -> None:
        """Wait for the first prompt."""
        await self._until(re.compile(re.escape(_PROMPT)), seconds)

    async def run(self, command: str, seconds: float = 120.0) -> str:
        """Run a command: what it printed. Whatever it starts in the background must leave the console alone.

        Raises:
            GuestError: its status is not 0.
        """
        mark = f"~{next(self._numbers)}"
        await self._stream.send_all(f"{command}; echo {mark}-$?\n".encode())
        found = await self._until(re.compile(rb"(.*?)" + mark.encode() + rb"-(\d+)\r?\n", re.DOTALL), seconds)
        text = found[1].replace(_PROMPT, b"").replace(b"\r\n", b"\n").decode(errors="replace").strip()
        if found[2] != b"0":
            raise GuestError(f"{command}: {text or 'status ' + found[2].decode()}")
        return text

    async def _until(self, pattern: re.Pattern[bytes], seconds: float) -> re.Match[bytes]:
        with trio.move_on_after(seconds):
            while True:
                found = pattern.search(self._buffer)
                if found:
                    self._buffer = self._buffer[found.end() :]
                    return found
                piece = await self._stream.receive_some(_PIECE)
                if not piece:
                    raise GuestError(f"the console closed; last: {self._tail()}")
                self._buffer += piece
        raise GuestError(f"nothing after {seconds:g} s; last: {self._tail()}")

    def _tail(self) -> str:
        return repr(self._buffer[-400:].decode(errors="replace"))
