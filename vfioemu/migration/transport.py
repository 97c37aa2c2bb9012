# SPDX-License-Identifier: MIT
"""Moving frames over a connected socket, and pages without a copy in Python.

Control frames are small and go through trio. The pages of a RAM frame go between socket and memory in one call of C for all of
their runs (push.py); with TLS (tls.py) they pass through this process. Bulk of more than `THREADED` bytes is moved in a worker
thread that polls the socket itself: an epoll round through trio for each socket buffer would cost more than the copy. The thread
looks up ten times a second, so that a cancel is never more than that away.

A page that the guest writes while it is sent arrives torn or newer; in pre-copy it is dirty again, and in stop-copy nothing writes.

What breaks raises StreamError with PEER_LOST, who falls silent PEER_SILENT. An idle side sends ALIVE frames, so that silence is
not mistaken for patience, nor patience for silence.
"""

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

from vfioemu.migration import greeting, stream
from vfioemu.migration.messages import Message
from vfioemu.migration.plan import PAGE, Reason
from vfioemu.migration.push import PagePull, PagePush, Pull, Push, pull_pages, push_pages
from vfioemu.migration.stream import FrameType, Header, StreamError, lost
from vfioemu.migration.wire import PlainWire, Wire
from vfioemu.native.runs import Runs
from vfioemu.native.sums import NO_FILE, SumTable

THREADED: Final = 1 << 19
POLL_MS: Final = 100
IDLE: Final = 10.0
"""Seconds of silence after which the peer counts as lost, if the user has not said it (--peer-timeout)."""
BEAT: Final = 0.5
"""Seconds without a frame after which an ALIVE frame is sent."""


class Pages(Protocol):
    """The memory of a RAM block, as far as the transport needs it."""

    @property
    def view(self) -> memoryview:
        """All of it, writable."""

    @property
    def fd(self) -> int:
        """Its memfd."""


def silent(detail: str) -> StreamError:
    """Make the error for a peer that is there, for all that is known, and does nothing."""
    return StreamError(Reason.PEER_SILENT, detail)


class Channel:
    """One connected stream socket that carries frames in both directions.

    Tasks that send take turns, whole frames; one task at a time receives.

    Args:
        wire: connected, or a socket that is; owned by the channel from now on.
        idle: seconds of silence that are one too many.
    """

    def __init__(self, wire: socket.socket | Wire, idle: float = IDLE) -> None:
        self._wire = PlainWire(wire) if isinstance(wire, socket.socket) else wire
        self._sock = self._wire.sock
        self._sock.setblocking(False)
        self._idle = idle
        self._out = 0
        self._in = 0
        self._turn = trio.Lock()
        self.torn = False
        """A frame was begun, and is not out: after an error or a cancel nothing more can be sent."""
        self._greeted = False
        self._proved = False
        self._nonce = b""
        self.sent = 0
        self.received = 0

    def close(self) -> None:
        """Close the socket; a task that waits for it gets StreamError."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    @property
    def most(self) -> int:
        """Bytes of pages that one frame should have at most, so that it is over soon."""
        return stream.MAX_RAM

    @property
    def proven(self) -> bool:
        """Whether the other side has shown who it is, beyond whose process it is."""
        return self._wire.proven or self._wire.greeting.proven

    async def secure(self) -> None:
        """Do what comes before the first byte: a TLS handshake, or nothing."""
        while events := self._wire.begin():
            await self._ready(
                trio.lowlevel.wait_readable if events == select.POLLIN else trio.lowlevel.wait_writable
            )

    async def greet(self) -> None:
        """Send our preamble, which opens our direction, once; then, if `greeted` is over, the proofs go both ways."""
        await self.secure()
        if not self._greeted:
            self._greeted = True
            await self._send_all(stream.preamble() + self._wire.greeting.nonce)
            await self._prove()

    async def greeted(self) -> int:
        """Read the peer's preamble; its minor version."""
        await self.secure()
        minor = stream.check_preamble(await self._read(stream.PREAMBLE.size))
        self._nonce = await self._read(greeting.NONCE)
        await self._prove()
        return minor

    async def _prove(self) -> None:
        """Exchange proofs as soon as each side has the nonce of the other."""
        if self._greeted and self._nonce:
            self._proved = True
            with suppress(StreamError):  # who has hung up may have said why: that is still to be read
                await self._send_all(self._wire.greeting.proof(self._nonce))
            self._wire.greeting.check(self._nonce, await self._read(greeting.PROOF))

    async def end_greeting(self) -> None:
        """Send what our greeting lacks, whoever listens: a PROBLEM can be understood then."""
        await self.secure()
        opening = b"" if self._greeted else stream.preamble() + self._wire.greeting.nonce
        rest = b"" if self._proved else bytes(greeting.PROOF)
        self._greeted = self._proved = True
        if opening or rest:
            await self._send_all(opening + rest)

    async def send(
        self, type: FrameType, body: bytes | Message = b"", bulk: Sequence[memoryview] = ()
    ) -> None:
        """Send a frame whose bulk is small."""
        if isinstance(body, Message):
            body = stream.encode(body)
        size = sum(map(len, bulk))
        async with self._turn:
            head = stream.frame(type, self._out, body, size)
            await self._frame(Push([memoryview(head), *bulk]), size)

    async def send_pages(self, block: int, pages: Pages, runs: Runs) -> int:
        """Send one RAM frame; returns the bytes on the wire."""
        bulk = runs.pages() * PAGE
        async with self._turn:
            head = stream.frame(FrameType.RAM, self._out, stream.pack_runs(block, runs), bulk)
            await self._frame(push_pages(self._wire, head, pages.view, runs), bulk)
        return len(head) + bulk

    async def _frame(self, push: Push, bulk: int) -> None:
        """Send a frame, in our turn."""
        # What does not begin takes no number: an ABORT may follow.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._out += 1
        await self._move(push, bulk)

    async def beat(self, every: float) -> None:
        """Send an ALIVE frame whenever nothing was sent for `every` seconds, for as long as that is possible."""
        try:
            while True:
                before = self._out
                await trio.sleep(every)
                if self.torn and not self._turn.locked():
                    return
                # Whoever is sending now is not idle; if the peer does not read, another frame would help nobody.
                if before == self._out and not self._turn.locked():
                    await self.send(FrameType.ALIVE)
        except StreamError:
            pass  # who sends next, or receives, finds out why

    async def receive(self, *, wait: float | None = None) -> tuple[Header, bytes]:
        """Receive the next frame's header and body; its bulk is read by `receive_bulk`. ALIVE frames are passed over.

        Args:
            wait: seconds of silence to wait for the frame to begin; None = for ever.
        """
        while True:
            header, body = await self.receive_any(wait=wait)
            if header.type is not FrameType.ALIVE:
                return header, body

    async def receive_any(self, *, wait: float | None = None) -> tuple[Header, bytes]:
        """Receive the next frame as `receive` does, an ALIVE frame as well."""
        first = await self._read(stream.HEADER_SIZE, wait)
        header = stream.parse_header(first, self._in)
        self._in += 1
        body = await self._read(header.body) if header.body else b""
        stream.check_body(first, body)
        return header, body

    async def receive_pages(self, pages: Pages, runs: Runs, sums: SumTable) -> None:
        """Read the bulk of a RAM frame into its pages, and enter their sums."""
        pull = pull_pages(self._wire, pages.view, runs, sums)
        await self._move(pull, runs.pages() * PAGE)
        if isinstance(pull, PagePull):
            return
        # Through another wire they have come without a look at them.
        await trio.to_thread.run_sync(sums.sum, pages.view, NO_FILE, runs)

    async def receive_bulk(self, views: list[memoryview]) -> None:
        """Read the bulk of the last frame into `views`, which are as long as it is."""
        await self._move(Pull(views), sum(map(len, views)))

    async def _send_all(self, data: bytes) -> None:
        await self._move(Push([memoryview(data)]), 0)

    async def _read(self, size: int, wait: float | None = -1.0) -> bytes:
        data = bytearray(size)
        pull = Pull([memoryview(data)])
        if wait != -1.0:
            with trio.move_on_after(wait if wait is not None else float("inf")) as waited:
                if not self._wire.has_buffered():
                    await self._ready(trio.lowlevel.wait_readable)
            if waited.cancelled_caught:
                raise silent(f"the peer has been silent for {wait:g} s (--peer-timeout)")
        await self._move(pull, 0)
        return bytes(data)

    async def _move(self, work: Push | Pull, bulk: int) -> None:
        """Do the work to its end, in a worker thread if it is much."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._wire.established:
            raise lost("the connection was never secured")
        if self.torn and isinstance(work, Push):
            raise lost("a frame was left half sent")
        self.torn = self.torn or isinstance(work, Push)  # until it is out
        threaded = bulk >= THREADED
        wait = trio.lowlevel.wait_writable if isinstance(work, Push) else trio.lowlevel.wait_readable
        silent_since = trio.current_time()
        try:
            while True:
                before = work.moved
                finished = (
                    await trio.to_thread.run_sync(_run, self._wire, work)
                    if threaded
                    else work.step(self._wire)
                )
                self._count(work, work.moved - before)
                if finished:
                    self.torn = self.torn and not isinstance(work, Push)
                    return
                if work.moved != before:
                    silent_since = trio.current_time()
                left = self._idle - (trio.current_time() - silent_since)
                if left <= 0:
                    raise silent(f"nothing moved for {self._idle:g} s (--peer-timeout)")
                if not threaded:
                    with trio.move_on_after(left):
                        await self._ready(wait)
        except OSError as error:
            raise lost(error) from None
        finally:
            # The worker thread keeps what it was given for a moment, a traceback for longer: that must be no memory.
            work.drop()

    async def _ready(self, wait: Callable[[socket.socket], object]) -> None:
        if self._sock.fileno() < 0:
            raise lost("the connection was closed")
        try:
            await wait(self._sock)  # type: ignore[misc]
        except (trio.ClosedResourceError, OSError):
            raise lost("the connection was closed") from None

    def _count(self, work: Push | Pull, count: int) -> None:
        if isinstance(work, Push):
            self.sent += count
        else:
            self.received += count


def _run(wire: Wire, work: Push | Pull) -> bool:
    """In a worker thread: work until it is done, or until nothing moved for POLL_MS."""
    if isinstance(work, PagePush | PagePull):
        return work.step(wire, POLL_MS)
    poll = select.poll()
    poll.register(wire.sock, work.events)
    while True:
        if work.step(wire):
            return True
        if not poll.poll(POLL_MS):
            return False
