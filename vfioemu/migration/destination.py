# SPDX-License-Identifier: MIT
"""The destination: loads a guest into an empty shell, compares it, and runs it when the source has given it up.

Frames come from a peer that may be hostile. Their order is a table (stream.NEXT), their sizes are bounded before
anything is allocated, and whatever is wrong ends that connection alone: the shell is thrown away and a new one waits
for the next connection. Only COMMIT starts a guest; what becomes of a connection that breaks is handover.py's.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import trio

from vfioemu.migration import events, stream
from vfioemu.migration.address import Listener
from vfioemu.migration.background import background
from vfioemu.migration.guest import Guest
from vfioemu.migration.handover import Handover, Standing
from vfioemu.migration.loader import Loader
from vfioemu.migration.messages import Checked, Handshake, Hello, Problem, Setup, Welcome
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.plan import PAGE, Reason
from vfioemu.migration.stream import FrameType, Stage, StreamError
from vfioemu.migration.transport import IDLE, Channel

GREETING: Final = 10.0
"""Seconds within which a connection has to say what it wants."""
PATIENCE: Final = 2.0
"""Seconds that a source waits while the shell of a failed attempt before it is replaced."""
MAX_CONNECTIONS: Final = 16
LINGER: Final = 10.0
"""Seconds that a destination which has started waits for the source to know it, or to ask."""


@dataclass(slots=True)
class Arrival:
    """A guest that runs here now.

    Attributes:
        checked: what the comparison found; None if the source did not want one.
        confirmed: the source knows that it has given the guest up.
    """

    guest: Guest
    token: str
    checked: Checked | None
    confirmed: bool = False

    @property
    def mismatches(self) -> int:
        """Pages and devices that are not as they were."""
        return (
            0
            if self.checked is None
            else self.checked.mismatched_pages + len(self.checked.mismatched_devices)
        )


class Destination:
    """Waits for one guest.

    Args:
        shell: makes an empty guest, connected to a daemon, with its CPUs paused; called again after a failed attempt.
        listener: where the source connects.
        tell: gets every event of events.py.
        idle: seconds of silence after which a source counts as lost.
        linger: see LINGER.

    Attributes:
        failures: why attempts ended; the last one is the last.
        narrator: tells what happens here.
    """

    def __init__(
        self,
        shell: Callable[[], AbstractAsyncContextManager[Guest]],
        listener: Listener,
        *,
        tell: Callable[[events.Told], None] = lambda told: None,
        idle: float = IDLE,
        linger: float = LINGER,
    ) -> None:
        self.failures: list[StreamError] = []
        self._handover = Handover()
        self._shell = shell
        self._listener = listener
        self.narrator = Narrator(tell, "destination")
        self._idle = idle
        self._linger = linger
        self._offers, self._claims = trio.open_memory_channel[tuple[Channel, Hello]](0)
        self._limiter = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._starting = trio.Event()
        self._released = trio.Event()

    @asynccontextmanager
    async def arrival(self, attempts: int | None = None) -> AsyncIterator[Arrival | None]:
        """Wait for a guest; it runs as long as the body does.

        Questions of the source are answered meanwhile, and for `linger` seconds more if it has not confirmed.

        Args:
            attempts: give up after so many failures, and yield None.
        """
        self.narrator.say(events.Listening(uri=str(self._listener.bound)))
        async with background() as nursery:
            nursery.start_soon(self._accept)
            while attempts is None or len(self.failures) < attempts:
                async with self._shell() as guest:
                    channel, hello = await self._claims.receive()
                    try:
                        arrival = await self._load(guest, channel, hello)
                        if arrival is not None:
                            nursery.start_soon(self._await_release, channel)
                            yield arrival
                            with trio.move_on_after(self._linger):
                                await self._released.wait()
                            arrival.confirmed = self._released.is_set()
                            return
                    finally:
                        channel.close()
            yield None

    # Connections.

    async def _accept(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                channel = Channel(await self._listener.accept(), self._idle)
                try:
                    self._limiter.acquire_on_behalf_of_nowait(channel)
                except trio.WouldBlock:
                    channel.close()
                else:
                    nursery.start_soon(self._greet, channel)

    async def _greet(self, channel: Channel) -> None:
        """Find out what a connection wants; nothing that it does hurts another one."""
        keep = False
        try:
            with trio.move_on_after(GREETING):
                keep = await self._sort(channel)
        except StreamError as error:
            await self._complain(channel, error)
        finally:
            self._limiter.release_on_behalf_of(channel)
            if not keep:
                channel.close()

    async def _sort(self, channel: Channel) -> bool:
        """Answer a QUERY, or pass a HELLO on; whether the channel is in use now."""
        await channel.greeted()
        await channel.greet()
        header, body = await channel.receive()
        stream.follow(Stage.NEW, header.type)
        if header.type is FrameType.QUERY:
            await self._answer_query(channel, stream.decode(body, Handshake).token)
            return False
        hello = stream.decode(body, Hello)
        if hello.page_size != PAGE:
            raise StreamError(Reason.PEER_REFUSED, f"pages of {hello.page_size} bytes; we have {PAGE}")
        with trio.move_on_after(PATIENCE):
            await self._offers.send((channel, hello))
            return True
        raise StreamError(Reason.PEER_REFUSED, "busy with another migration")

    async def _answer_query(self, channel: Channel, token: str) -> None:
        standing = self._handover.query(token)
        if standing is Standing.STARTING:
            await self._starting.wait()
            standing = self._handover.query(token)
        if standing is Standing.STARTED:
            await channel.send(FrameType.STARTED, Handshake(token=token))
            self._released.set()
        elif standing is Standing.REFUSED:
            await channel.send(
                FrameType.REFUSED, Problem(reason=Reason.PEER_REFUSED, detail="refused for ever")
            )
        else:
            raise StreamError(Reason.PEER_LOST, f"no migration {token} was ever accepted here")

    async def _complain(self, channel: Channel, error: StreamError) -> None:
        """Tell the peer why; it may not be listening any more."""
        with trio.move_on_after(1.0):
            try:
                await channel.send(
                    FrameType.PROBLEM, Problem(reason=error.reason, detail=error.detail[:4000])
                )
            except StreamError:
                pass

    # One attempt.

    async def _load(self, guest: Guest, channel: Channel, hello: Hello) -> Arrival | None:
        """Load one guest to its start, or not."""
        try:
            return await self._conduct(guest, channel, hello)
        except StreamError as error:
            # A fresh one: the traceback of this one holds views of memory that is about to be unmapped.
            self.failures.append(StreamError(error.reason, error.detail))
            self.narrator.warn(f"the migration of {hello.guest} ended: {error}")
            await self._complain(channel, error)
            return None
        finally:
            self._handover.lost(hello.token)

    async def _conduct(self, guest: Guest, channel: Channel, hello: Hello) -> Arrival:
        await channel.send(FrameType.WELCOME, Welcome(version=version("vfioemu")))
        loader = Loader(guest, channel, self.narrator)
        stage = Stage.GREETED
        checked: Checked | None = None
        while True:
            header, body = await channel.receive(wait=self._idle)
            stage = stream.follow(stage, header.type)
            match header.type:
                case FrameType.SETUP:
                    self._agree(guest, hello, stream.decode(body, Setup))
                    await loader.begin()
                    await channel.send(FrameType.ACCEPTED, Handshake(token=hello.token))
                case FrameType.ROUND:
                    pass  # for those who read along
                case FrameType.LEDGER:
                    checked = await loader.compare(body)
                    self.narrator.verified(checked, [])
                    await channel.send(FrameType.CHECKED, checked)
                case FrameType.PREPARE:
                    self._same(hello, body)
                    if hello.verify and checked is None:
                        raise stream.corrupt("PREPARE before the comparison")
                    await loader.finish()
                    if not self._handover.prepared(hello.token):
                        raise StreamError(Reason.PEER_REFUSED, "refused for ever, because somebody asked")
                    await channel.send(FrameType.READY, Handshake(token=hello.token))
                case FrameType.COMMIT:
                    self._same(hello, body)
                    await self._start(loader, channel, hello.token)
                    return Arrival(guest, hello.token, checked)
                case FrameType.ABORT:
                    problem = stream.decode(body, Problem)
                    raise StreamError(
                        Reason.PEER_LOST, f"the source gave up: {problem.reason} {problem.detail}".rstrip()
                    )
                case _:
                    await loader.take(header, body)

    def _agree(self, guest: Guest, hello: Hello, theirs: Setup) -> None:
        ours = guest.setup()
        for what, a, b in (
            ("RAM blocks", theirs.blocks, ours.blocks),
            ("devices", theirs.devices, ours.devices),
            ("CPUs", theirs.cpus, ours.cpus),
        ):
            if a != b:
                raise StreamError(
                    Reason.PEER_REFUSED, f"the {what} of this guest are {_brief(b)}, not {_brief(a)}"
                )
        if not self._handover.accept(hello.token):
            raise StreamError(Reason.PEER_REFUSED, "this migration was here before")

    def _same(self, hello: Hello, body: bytes) -> None:
        if stream.decode(body, Handshake).token != hello.token:
            raise stream.corrupt("the token of another migration")

    async def _start(self, loader: Loader, channel: Channel, token: str) -> None:
        """From here on the source waits for one word, and may not run before it has it."""
        if not self._handover.commit(token):
            raise await self._refuse(
                channel, StreamError(Reason.PEER_REFUSED, "refused for ever, because somebody asked")
            )
        with trio.CancelScope(shield=True):
            try:
                await loader.start()
            except StreamError as error:
                await loader.stop()
                self._handover.not_started(token)
                raise await self._refuse(channel, error) from None
            else:
                self._handover.started(token)
            finally:
                self._starting.set()
                self._starting = trio.Event()
            self.narrator.owner("destination")
            try:
                await channel.send(FrameType.STARTED, Handshake(token=token))
            except StreamError as error:
                self.narrator.warn(f"the source does not know yet that the guest runs here: {error.detail}")

    async def _refuse(self, channel: Channel, error: StreamError) -> StreamError:
        try:
            await channel.send(FrameType.REFUSED, Problem(reason=error.reason, detail=error.detail[:4000]))
        except StreamError:
            pass
        return error

    async def _await_release(self, channel: Channel) -> None:
        try:
            header, _ = await channel.receive()
            stream.follow(Stage.OVER, header.type)
            self._released.set()
        except StreamError as error:
            self.narrator.warn(f"the source has not confirmed: {error.detail}")


def _brief(what: object) -> str:
    if isinstance(what, list):
        return "[" + ", ".join(" ".join(str(getattr(m, f)) for f in m.__struct_fields__) for m in what) + "]"
    return str(what)
