# SPDX-License-Identifier: MIT
"""A channel whose frames take the time that a modelled link takes: link.py in real time, or in that of a test.

The source's side alone: what it sends has left when the link has carried it, whatever the socket takes at once; what the destination
says is heard when the link has brought it. The running and the stopped phase go through the same code, so both pay.
"""

import socket
from collections import deque
from typing import Any, Final

import trio

from vfioemu.migration.link import Link
from vfioemu.migration.stream import FrameType, Header, StreamError
from vfioemu.migration.transport import IDLE, Channel, silent
from vfioemu.migration.wire import Wire

MOMENT: Final = 0.05
"""Seconds that a frame of pages takes at most, unless it has one page."""


class SimulatedChannel(Channel):
    """A channel over a link.

    Args:
        wire: as of `Channel`.
        link: shared by all channels of a migration.
        idle: as of `Channel`.
    """

    def __init__(self, wire: socket.socket | Wire, link: Link, idle: float = IDLE) -> None:
        super().__init__(wire, idle)
        self._link = link
        self._carried = 0
        self._coming: deque[tuple[float, tuple[Header, bytes] | StreamError]] = deque()

    @property
    def most(self) -> int:
        """As much as the link carries in a moment."""
        return min(super().most, self._link.moment(MOMENT))

    async def greeted(self) -> int:
        """Read the peer's preamble, a round trip later."""
        minor = await super().greeted()
        await trio.sleep_until(self._link.answer(trio.current_time()))
        self._carried = self.sent
        return minor

    async def send(self, *args: Any, **kwargs: Any) -> None:
        """Send a frame, and wait until the link has carried it."""
        await super().send(*args, **kwargs)
        await self._carry()

    async def send_pages(self, *args: Any, **kwargs: Any) -> int:
        """Send pages, and wait until the link has carried them."""
        sent = await super().send_pages(*args, **kwargs)
        await self._carry()
        return sent

    async def receive(self, *, wait: float | None = None) -> tuple[Header, bytes]:
        """Receive the next frame, which has no bulk, when the link has brought it.

        Frames that come meanwhile are taken in at once, so that each is late by one round trip, and not by all before it.
        """
        until = trio.current_time() + wait if wait is not None else float("inf")
        while True:
            now = trio.current_time()
            if self._coming and self._coming[0][0] <= now:
                frame = self._coming.popleft()[1]
                if isinstance(frame, StreamError):
                    raise frame
                return frame
            with trio.move_on_at(self._coming[0][0] if self._coming else until) as waited:
                if self._coming and isinstance(self._coming[-1][1], StreamError):
                    await trio.sleep_forever()  # nothing comes after that
                await self._await_readable()
            if not waited.cancelled_caught:
                until = trio.current_time() + wait if wait is not None else until
                await self._take_in()
            elif not self._coming:
                raise silent(f"the peer has been silent for {wait:g} s (--peer-timeout)")

    async def _take_in(self) -> None:
        """Receive what has come, and note when it is heard; ALIVE has done its service."""
        now, before = trio.current_time(), self.received
        frame: tuple[Header, bytes] | StreamError
        try:
            frame = await self.receive_any()
            if frame[0].type is FrameType.ALIVE:
                return
        except StreamError as error:
            frame = error
        self._coming.append((self._link.answer(now, self.received - before), frame))

    async def _await_readable(self) -> None:
        if not self._wire.has_buffered():
            await self._ready(trio.lowlevel.wait_readable)

    async def _carry(self) -> None:
        size, self._carried = self.sent - self._carried, self.sent
        await trio.sleep_until(self._link.carry(trio.current_time(), size))
