# SPDX-License-Identifier: MIT
"""More than one connection for pages (`--streams`): lanes, and the order between them.

Within a round each page is sent once, so it does not matter on which lane it comes, or when. But a page of an earlier round that is
overtaken by one of a later round would write what is old over what is new. So there is a barrier at each ROUND, and at CPUS, on
the first connection: every lane sends a BARRIER frame at the same place, the destination goes on when all of them have come, and
no lane goes on before that.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from vfioemu.migration import stream
from vfioemu.migration.address import Address
from vfioemu.migration.messages import Handshake, Join, Mark
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.stream import FrameType, Header, StreamError, corrupt
from vfioemu.migration.transport import BEAT, IDLE, Channel, silent
from vfioemu.native.runs import Runs

Take = Callable[[Channel, Header, bytes], Awaitable[None]]
"""Does what a RAM or ZERO frame says; its bulk comes from the channel."""
_PAGES: Final = (FrameType.RAM, FrameType.ZERO)


class Lane:
    """A lane, as the source has it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    @property
    def most_pages(self) -> int:
        """Pages that one frame should have at most."""
        return max(1, self.channel.most // PAGE)

    async def send(self, kind: FrameType, body: bytes) -> None:
        """Send a small frame."""
        await self.channel.send(kind, body)

    async def send_pages(self, index: int, block: RamBlock, runs: Runs) -> None:
        """Send pages of a block, and which ones they are."""
        await self.channel.send_pages(index, block, runs)


class SourceLanes:
    """All lanes of a source.

    Attributes:
        lanes: those that are connected.
    """

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self._barriers = 0

    @property
    def sent(self) -> int:
        """Bytes sent so far."""
        return sum(lane.channel.sent for lane in self.lanes)

    async def connect(
        self, nursery: trio.Nursery, address: Address, token: str, count: int, patience: float
    ) -> None:
        """Open `count` lanes, when the destination has accepted the guest."""
        for index in range(1, count + 1):
            with trio.move_on_after(patience) as waited:
                wire = await address.connect(patience)
                channel = address.channel(wire, IDLE)
                self.lanes.append(Lane(channel))
                await channel.greet()
                await channel.greeted()
                address.check(wire)
                await channel.send(FrameType.JOIN, Join(token=token, index=index))
                header, body = await channel.receive(wait=patience)
                if header.type is not FrameType.ACCEPTED or stream.decode(body, Handshake).token != token:
                    raise corrupt(f"{header.type.name} frame, expected ACCEPTED on stream {index}")
            if waited.cancelled_caught:
                raise silent(f"{address} has not taken stream {index} for {patience:g} s (--peer-timeout)")
            nursery.start_soon(channel.beat, BEAT)

    async def barrier(self) -> None:
        """Mark, on all lanes, that whatever was sent is of an earlier round than what follows."""
        for lane in self.lanes:
            await lane.channel.send(FrameType.BARRIER, Mark(number=self._barriers))
        self._barriers += 1

    def close(self) -> None:
        """Hang up."""
        for lane in self.lanes:
            lane.channel.close()


class Lanes:
    """All lanes of a destination.

    Args:
        count: how many the source has announced.
        idle: seconds of silence after which a lane counts as lost.

    Attributes:
        over: all pages have come: what becomes of the lanes does not matter any more.
    """

    def __init__(self, count: int, idle: float) -> None:
        self.over = False
        self._idle = idle
        self._at = dict.fromkeys(range(1, count + 1), 0)
        self._channels: dict[int, Channel] = {}
        self._passed = 0
        self._news = trio.Condition()
        self._sender, self._joined = trio.open_memory_channel[tuple[int, Channel]](max(1, count))

    def join(self, index: int, channel: Channel) -> None:
        """Take a connection as a lane; StreamError if there is no such lane, or one already."""
        if index not in self._at or index in self._channels:
            raise corrupt(f"stream {index} of {len(self._at)}, or twice")
        self._channels[index] = channel
        self._sender.send_nowait((index, channel))

    async def run(self, take: Take, failed: Callable[[StreamError], None]) -> None:
        """Serve lanes as they come; `failed` is told of the first that breaks."""
        async with trio.open_nursery() as nursery:
            async for index, channel in self._joined:
                nursery.start_soon(self._serve, index, channel, take, failed)

    async def barrier(self) -> None:
        """Wait until every lane is where we are, and let all of them go on."""
        if len(self._channels) < len(self._at):
            raise corrupt(f"{len(self._channels)} of {len(self._at)} more streams have joined")
        async with self._news:
            while min(self._at.values(), default=self._passed + 1) <= self._passed:
                await self._news.wait()
            self._passed += 1
            self._news.notify_all()

    def close(self) -> None:
        """Hang up."""
        for channel in self._channels.values():
            channel.close()

    async def _serve(
        self, index: int, channel: Channel, take: Take, failed: Callable[[StreamError], None]
    ) -> None:
        try:
            while True:
                header, body = await channel.receive(wait=self._idle)
                if header.type in _PAGES:
                    await take(channel, header, body)
                elif header.type is FrameType.BARRIER:
                    await self._arrive(index, stream.decode(body, Mark).number)
                else:
                    raise corrupt(f"{header.type.name} frame on stream {index}")
        except StreamError as error:
            failed(StreamError(error.reason, f"stream {index}: {error.detail}"))

    async def _arrive(self, index: int, number: int) -> None:
        """Stand at a barrier until all do."""
        async with self._news:
            if number != self._at[index]:
                raise corrupt(f"barrier {number}, expected {self._at[index]}")
            self._at[index] += 1
            self._news.notify_all()
            while self._passed <= number:
                await self._news.wait()
