# SPDX-License-Identifier: MIT
"""What stands between the two sides: it passes frames on, tells who wants to know, and does to one of them what a bad link does."""

import fcntl
import sys
import termios
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import trio

from vfioemu.migration import stream
from vfioemu.migration.chaos.gate import Gate
from vfioemu.migration.greeting import NONCE, PROOF
from vfioemu.migration.plan import PAGE
from vfioemu.migration.stream import FrameType

_TURNS: Final = 200
"""Rounds of the scheduler after which what has not been passed on is held up somewhere."""
PREAMBLE: Final = 0
"""Stands for the preamble where a type of a frame is told."""


class Harm(StrEnum):
    """What a link does to one frame."""

    RESET = "both directions end"
    HALF_CLOSE = "this direction ends"
    STALL = "it is late, by less than anybody waits for anything"
    LATE = "it is late, by more than the source waits for an answer to COMMIT"
    BLACK_HOLE = "nothing passes any more, on any connection"
    CORRUPT_BODY = "a bit of its header or body flips"
    CORRUPT_BULK = "a bit of its pages or device state flips"
    TRUNCATE = "half of it passes, then both directions end"
    DUPLICATE = "it passes twice"
    REORDER = "it passes after the next one"
    PIECES = "it passes in small pieces"


class Pump:
    """Takes connections from the source and makes one to the destination for each.

    Args:
        target: the path of the destination's socket.
        seen: called with (type of the frame, from the source, bytes of it) before a frame is passed on.

    Attributes:
        target: it may move.
        harm: done to the frame that is seen now, or else the next one; once.
        refusing: connections are closed at once: nobody is there.
        harmed: it was done.
        gate: closed while nothing passes.
    """

    DELAY: Final = {Harm.STALL: 2.0, Harm.LATE: 15.0}
    """Seconds. Other connections are not late, so a question overtakes what is."""

    def __init__(self, target: str, seen: Callable[[int, bool, bytes], None]) -> None:
        self.target = target
        self.harm: Harm | None = None
        self.harmed = False
        self.refusing = False
        self._seen = seen
        self.gate = Gate()
        self._scopes: set[trio.CancelScope] = set()
        self._sources: set[trio.SocketStream] = set()
        self._in_hand = 0

    async def caught_up(self) -> None:
        """Wait until all that the source has sent was passed on, or is held up.

        Without that it would depend on who is scheduled first whether a fault that comes with a frame comes before the
        source's next call or after it.
        """
        for _ in range(_TURNS):
            if self.gate.closed or not (self._in_hand or any(map(_waiting, self._sources))):
                return
            await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        """End all connections."""
        for scope in self._scopes:
            scope.cancel()

    async def run(self, path: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, until cancelled."""
        with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as sock:
            await sock.bind(path)
            sock.listen(16)
            task_status.started()
            async with trio.open_nursery() as nursery:
                while True:
                    connection, _ = await sock.accept()
                    nursery.start_soon(self._serve, trio.SocketStream(connection))

    async def _serve(self, left: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with left:
                    self._seen(PREAMBLE, True, b"")
                    if self.refusing or self._harms(Harm.RESET, Harm.TRUNCATE, Harm.HALF_CLOSE):
                        return
                    right = await trio.open_unix_socket(self.target)
                    async with right, trio.open_nursery() as nursery:
                        nursery.start_soon(self._copy, left, right, True, nursery.cancel_scope)
                        nursery.start_soon(self._copy, right, left, False, nursery.cancel_scope)
            except OSError:
                pass  # nobody is there
            finally:
                self._scopes.discard(scope)

    def _harms(self, *harms: Harm) -> bool:
        """Whether the harm is one of those; it is done once."""
        if self.harm is None or self.harmed or self.harm not in harms:
            return False
        self.harmed = True
        return True

    async def _copy(
        self, here: trio.SocketStream, there: trio.SocketStream, forth: bool, scope: trio.CancelScope
    ) -> None:
        try:
            for size in stream.PREAMBLE.size + NONCE, PROOF:  # each proof needs the nonce of the other side
                await self._pass_on(there, await _read(here, size))
            if forth:
                self._sources.add(here)
            while await self._frame(here, there, forth):
                pass
            await there.send_eof()
            return
        except EOFError:
            try:
                await there.send_eof()  # what the other direction has to say may still come
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._sources.discard(here)
        scope.cancel()

    async def _frame(self, here: trio.SocketStream, there: trio.SocketStream, forth: bool) -> bool:
        """Pass a frame on; False when no other may follow."""
        head = await _read(here, stream.HEADER_SIZE)
        self._in_hand += 1
        try:
            data, kind, bulk = await _read_rest(here, head)
            self._seen(kind, forth, data)
            # Of pages the next ones are harmed, if this frame has none.
            if self.harm is None or self.harmed or (self.harm is Harm.CORRUPT_BULK and not bulk):
                await self._pass_on(there, data)
                return True
        finally:
            self._in_hand -= 1
        self.harmed = True
        self._sources.discard(here)  # it is held up
        more = await self._do_harm(here, there, data, bulk)
        if forth:
            self._sources.add(here)
        return more

    async def _do_harm(
        self, here: trio.SocketStream, there: trio.SocketStream, data: bytes, bulk: int
    ) -> bool:
        match self.harm:
            case Harm.RESET:
                self.cut()
                await trio.lowlevel.checkpoint()
            case Harm.HALF_CLOSE:
                return False
            case Harm.STALL | Harm.LATE:
                with trio.CancelScope(shield=True):  # it arrives also if its sender has hung up meanwhile
                    await trio.sleep(self.DELAY[self.harm])
                    await there.send_all(data)
            case Harm.BLACK_HOLE:
                self.gate.close()
                await self.gate.passed()
            case Harm.CORRUPT_BODY | Harm.CORRUPT_BULK:
                end = len(data) - (0 if self.harm is Harm.CORRUPT_BULK else bulk)
                # Of pages, one bit in each: those that are written again are sent again, and do no harm.
                flipped = bytearray(data)
                for at in range(
                    end - 1, end - 1 - max(1, bulk if self.harm is Harm.CORRUPT_BULK else 1), -PAGE
                ):
                    flipped[at] ^= 0x10
                await there.send_all(flipped)
            case Harm.TRUNCATE:
                await there.send_all(data[: len(data) // 2])
                self.cut()
                await trio.lowlevel.checkpoint()
            case Harm.DUPLICATE:
                await there.send_all(data + data)
            case Harm.REORDER:
                after, _, _ = await _read_rest(here, await _read(here, stream.HEADER_SIZE))
                await there.send_all(after + data)
            case Harm.PIECES:
                size = max(1, len(data) // 100)
                for first in range(0, len(data), size):
                    await there.send_all(data[first : first + size])
            case _:
                raise AssertionError(f"{self.harm} is no harm")
        return True

    async def _pass_on(self, there: trio.SocketStream, data: bytes) -> None:
        await self.gate.passed()
        await there.send_all(data)


def _waiting(here: trio.SocketStream) -> int:
    """Count the bytes that can be read; ioctl(FIONREAD)."""
    count = bytearray(4)
    if here.socket.fileno() >= 0:
        fcntl.ioctl(here.socket.fileno(), termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)


async def _read(here: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        got = await here.receive_some(size - len(data))
        if not got:
            raise EOFError
        data += got
    return bytes(data)


async def _read_rest(here: trio.SocketStream, head: bytes) -> tuple[bytes, int, int]:
    """Read a frame behind its header: all its bytes, its type, and how many of them are bulk."""
    kind, _, body, bulk, _ = stream.HEADER.unpack_from(head)
    return head + await _read(here, body + bulk), FrameType(kind), bulk
