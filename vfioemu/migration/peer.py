# SPDX-License-Identifier: MIT
"""The destination, as the source sees it: a connection on which one talks, and is told at any time that it is over."""

from collections.abc import Callable
from typing import Final, TypeAlias

import trio

from vfioemu.migration import stream
from vfioemu.migration.address import Address
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.journal import Standing
from vfioemu.migration.lanes import SourceLanes
from vfioemu.migration.messages import Fate, Handshake, Message, Problem
from vfioemu.migration.plan import PAGE, Reason
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.transport import BEAT, IDLE, Channel, silent
from vfioemu.migration.wire import Wire
from vfioemu.native.runs import Runs
from vfioemu.printable import printable

_RETRY: Final = 0.05
_Frame: TypeAlias = tuple[FrameType, bytes]


class Peer:
    """One connection to a destination.

    Args:
        address: where it listens.
        on_loss: called once, when it is known that nothing will come of this connection.
        idle: seconds of silence after which the destination counts as lost.

    Attributes:
        loss: why it is over; None as long as it is not.
        lanes: more connections, for pages.
    """

    def __init__(self, address: Address, on_loss: Callable[[], None], idle: float = IDLE) -> None:
        self.loss: StreamError | None = None
        self._address = address
        self._on_loss = on_loss
        self._gone = trio.Event()
        self._channel: Channel | None = None
        self._frames: trio.MemoryReceiveChannel[_Frame] | None = None
        self._idle = idle
        self.lanes = SourceLanes()

    @property
    def sent(self) -> int:
        """Bytes sent so far."""
        return (self._channel.sent if self._channel is not None else 0) + self.lanes.sent

    @property
    def most_pages(self) -> int:
        """Pages that one frame should have at most."""
        return max(1, self._need().most // PAGE)

    async def connect(
        self, nursery: trio.Nursery, patience: float, until_somebody_listens: float = 0
    ) -> None:
        """Connect, greet, and listen in the background from then on."""
        wire = await self._connected(patience, trio.current_time() + until_somebody_listens)
        channel = self._channel = self._address.channel(wire, self._idle)
        with trio.move_on_after(patience) as waited:
            await channel.greet()
            await channel.greeted()
        if waited.cancelled_caught:
            raise silent(f"{self._address} has not answered for {patience:g} s (--peer-timeout)")
        self._address.check(wire)  # it has spoken, so somebody has it
        send, self._frames = trio.open_memory_channel[_Frame](16)
        nursery.start_soon(self._listen, channel, send)
        nursery.start_soon(channel.beat, BEAT)

    async def join(self, nursery: trio.Nursery, token: str, count: int, patience: float) -> None:
        """Open `count` more connections for pages."""
        await self.lanes.connect(nursery, self._address, token, count, patience)

    async def _connected(self, patience: float, last: float) -> Wire:
        while True:
            try:
                return await self._address.connect(patience)
            except StreamError:
                if trio.current_time() >= last:
                    raise
            await trio.sleep(_RETRY)

    async def send(self, kind: FrameType, body: bytes | Message, bulk: bytes = b"") -> None:
        """Send a small frame."""
        await self._need().send(kind, body, [memoryview(bulk)] if bulk else ())

    async def send_pages(self, index: int, block: RamBlock, runs: Runs) -> None:
        """Send pages, and which ones they are."""
        await self._need().send_pages(index, block, runs)

    async def expect(self, *kinds: FrameType, patience: float) -> _Frame:
        """Receive the next frame, which has to be one of `kinds`."""
        if self._frames is None:
            raise StreamError(Reason.PEER_LOST, "there is no connection")
        with trio.move_on_after(patience):
            try:
                kind, body = await self._frames.receive()
            except trio.EndOfChannel:
                raise self.loss or StreamError(Reason.PEER_LOST, "the connection was closed") from None
            if kind not in kinds:
                raise stream.corrupt(
                    f"{kind.name} frame, expected {' or '.join(kind.name for kind in kinds)}"
                )
            return kind, body
        expected = " or ".join(kind.name for kind in kinds)
        raise silent(f"the destination has not said {expected} for {patience:g} s (--peer-timeout)")

    async def why(self, error: StreamError) -> StreamError:
        """Find the reason of an error: a broken pipe is what one sees, what the destination said before it went is why."""
        if error.reason is Reason.PEER_LOST and self._frames is not None:
            with trio.move_on_after(0.2):
                await self._gone.wait()
        return self.loss or error

    async def farewell(self, kind: FrameType, body: Message) -> None:
        """Send a last frame, if that is still possible, and hang up."""
        if self._channel is None:
            return
        if self.loss is None and not self._channel.torn:
            with trio.move_on_after(0.5):
                try:
                    await self._channel.send(kind, body)
                except StreamError:
                    pass  # it is gone already
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.lanes.close()
        if self._channel is not None:
            self._channel.close()

    async def _listen(self, channel: Channel, frames: trio.MemorySendChannel[_Frame]) -> None:
        """Read all that the destination says, so that its end is known at once, whatever the source is doing."""
        async with frames:
            try:
                while True:
                    header, body = await channel.receive(wait=self._idle)
                    if header.bulk:
                        raise stream.corrupt(f"{header.type.name} frame with raw bytes from the destination")
                    if header.type is FrameType.PROBLEM:
                        problem = stream.decode(body, Problem)
                        raise said(problem)
                    await frames.send((header.type, body))
            except StreamError as error:
                self.loss = error
                self._gone.set()
                self._on_loss()

    def _need(self) -> Channel:
        if self._channel is None:
            raise StreamError(Reason.PEER_LOST, "there is no connection")
        return self._channel


async def query(address: Address, token: str, patience: float) -> tuple[Standing, str, int]:
    """Ask on a new connection what became of a migration: (STARTED, ENDED or REFUSED, detail, writes before the start).

    Raises:
        StreamError: nobody answers, or who answers does not know.
    """
    wire = await address.connect(patience)
    channel = address.channel(wire, patience)
    try:
        await channel.greet()
        await channel.greeted()
        address.check(wire)
        await channel.send(FrameType.QUERY, Handshake(token=token))
        header, body = await channel.receive(wait=patience)
        if header.type is FrameType.STARTED:
            fate = stream.decode(body, Fate)
            return Standing.ENDED if fate.ended else Standing.STARTED, "", fate.early
        if header.type is FrameType.REFUSED:
            return Standing.REFUSED, printable(stream.decode(body, Problem).detail, stream.MAX_DETAIL), 0
        raise StreamError(Reason.PEER_LOST, f"{address} does not know this migration")
    finally:
        channel.close()


def said(problem: Problem) -> StreamError:
    """Make the error of a PROBLEM or REFUSED; what it names is made printable."""
    call = FailedCall(_printable(problem.ioctl), _printable(problem.device))
    return StreamError(
        _reason(problem.reason), f"the destination: {problem.detail}", problem.errno or None, call
    )


def _printable(text: str | None) -> str | None:
    return None if text is None else printable(text)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.PEER_REFUSED
