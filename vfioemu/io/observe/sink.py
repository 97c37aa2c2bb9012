# SPDX-License-Identifier: MIT
"""One listener's queue of trace lines: bounded, and nobody waits for whoever reads it."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from vfioemu.trace import events as e
from vfioemu.trace.decode import DEFAULT_LIMIT
from vfioemu.trace.filter import Filter

ROOM: Final = 16 << 20
"""Bytes of lines that wait for one listener."""
MAX_LIMIT: Final = 1 << 16


class Sink:
    """One listener's queue.

    Args:
        encode: makes a line of an event.
        wanted: which events.
        limit: elements of arrays, and ranges of bitmaps.
        room: how many bytes may wait.
    """

    def __init__(
        self,
        encode: Callable[[e.AnyEvent], bytes],
        wanted: Filter,
        limit: int = DEFAULT_LIMIT,
        room: int = ROOM,
    ) -> None:
        self.limit = min(limit, MAX_LIMIT)
        self._encode = encode
        self._wanted = wanted
        self._room = room
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._lost = 0
        self._closed = False
        self._news = trio.Event()

    def put(self, event: e.AnyEvent) -> None:
        """Take an event, if it is wanted and there is room; else it is counted as lost."""
        if not self._wanted.wants(event):
            return
        if self._waiting >= self._room:
            self._lost += 1
        else:
            self._flush_lost(event.t)
            self._append(event)
        self._news.set()

    def _append(self, event: e.AnyEvent) -> None:
        line = self._encode(event)
        self._lines.append(line)
        self._waiting += len(line)

    def _flush_lost(self, now: float) -> None:
        if self._lost:
            count, self._lost = self._lost, 0
            self._append(e.Lost(t=now, count=count))

    def take_nowait(self) -> bytes:
        """Return all lines that wait."""
        self._flush_lost(now())
        data = b"".join(self._lines)
        self._lines.clear()
        self._waiting = 0
        if not self._closed:
            self._news = trio.Event()
        return data

    async def take(self) -> bytes:
        """Wait for lines, and return all that there are; nothing only after the end."""
        while True:
            await self._news.wait()
            closed = self._closed
            if (data := self.take_nowait()) or closed:
                return data

    def close(self) -> None:
        """End the queue: what waits can still be taken."""
        self._closed = True
        self._news.set()


def now() -> float:
    """Return the time of an event: seconds since 1970, to the microsecond."""
    return round(time.time(), 6)
