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
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.guest import Guest
from vfioemu.migration.handover import Handover, Refusal, Standing
from vfioemu.migration.journal import Journal
from vfioemu.migration.lanes import Lanes
from vfioemu.migration.loader import Loader
from vfioemu.migration.messages import Checked, Fate, Handshake, Hello, Join, Problem, Setup, Welcome
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.plan import MAX_DEVICE_STATE, PAGE, OnMismatch, Reason
from vfioemu.migration.stream import FrameType, Stage, StreamError, lost
from vfioemu.migration.transport import BEAT, IDLE, Channel, silent

GREETING: Final = 10.0
"""Seconds within which a connection has to say what it wants."""
PATIENCE: Final = 2.0
"""Seconds that a source waits while the shell of a failed attempt before it is replaced."""
MAX_CONNECTIONS: Final = 16
"""Connections that have not said yet what they want, or wait for their turn."""
MAX_TOLD: Final = 8
"""How many kinds of strangers are told of."""
LINGER: Final = 10.0
"""Seconds that a destination which has started waits for the source to know it, or to ask."""


@dataclass(slots=True)
class Arrival:
    """A guest that runs here now.

    Attributes:
        checked: what the comparison found; None if the source did not want one.
        confirmed: the source knows that it has given the guest up.
        late: writes here after the comparison and before the start.
    """

    guest: Guest
    token: str
    checked: Checked | None
    confirmed: bool = False
    late: int = 0

    @property
    def mismatches(self) -> int:
        """Pages and devices of which nothing shows that they are as they were."""
        return 0 if self.checked is None else self.checked.unproven + self.late


@dataclass(frozen=True, slots=True)
class _Visit:
    """Somebody with a guest, who has said what it looks like.

    Attributes:
        known: he is our own user, or root.
    """

    channel: Channel
    known: bool
    hello: Hello
    setup: Setup


class Destination:
    """Waits for one guest.

    Args:
        shell: makes an empty guest, connected to a daemon, with its CPUs paused; called again after a failed attempt.
        listener: where the source connects.
        require_verify: refuse a source that does not want its pages compared.
        max_device_state: bytes of state that one device may send.
        tell: gets every event of events.py.
        idle: seconds of silence after which a source counts as lost.
        linger: see LINGER.
        journal: what is known after the death of this process; None: nothing.

    Attributes:
        failures: how many attempts have ended without a guest.
        last_failure: why the last of them did.
        narrator: tells what happens here.
    """

    def __init__(
        self,
        shell: Callable[[], AbstractAsyncContextManager[Guest]],
        listener: Listener,
        *,
        require_verify: bool = False,
        max_device_state: int = MAX_DEVICE_STATE,
        tell: Callable[[events.Told], None] = lambda told: None,
        idle: float = IDLE,
        linger: float = LINGER,
        journal: Journal | None = None,
    ) -> None:
        self.failures = 0
        self.last_failure: StreamError | None = None
        self._handover = Handover(journal)
        self._shell = shell
        self._listener = listener
        self.narrator = Narrator(tell, "destination")
        self._idle = idle
        self._linger = linger
        self._require_verify = require_verify
        self._max_device_state = max_device_state
        self._guest: Guest | None = None
        self._offers, self._claims = trio.open_memory_channel[_Visit](0)
        self._early: dict[str, int] = {}
        """Writes before the start of a guest that moved all the same, for the one who asks; there is one at most."""
        self._connections: set[Channel] = set()
        self._lanes: dict[str, Lanes] = {}
        self._joined: set[Channel] = set()
        self._mute: dict[Channel, trio.CancelScope] = {}
        self._turned_away: set[str] = set()
        self._arrived = False
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
            while attempts is None or self.failures < attempts:
                async with self._shell() as guest:
                    visit = await self._claims.receive()
                    try:
                        arrival = await self._load(guest, visit)
                        if arrival is not None:
                            self._arrived = True
                            nursery.start_soon(self._await_release, visit.channel, arrival.token)
                            yield arrival
                            with trio.move_on_after(self._linger):
                                await self._released.wait()
                            arrival.confirmed = self._released.is_set()
                            return
                    finally:
                        visit.channel.close()
            yield None

    def hurry(self) -> None:
        """Wait for a silent daemon no longer than a second: the user has asked for the end."""
        if self._guest is not None:
            self._guest.calls.hurry()

    # Connections.

    async def _accept(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                wire, known = await self._listener.accept(self._tell_of)
                channel = Channel(wire, self._idle)
                if len(self._connections) >= MAX_CONNECTIONS and self._mute:
                    # Who has been silent for longest makes room for one that may have something to say; who has shown
                    # who he is only if all have, so that no number of strangers is in his way.
                    strangers = (channel for channel in self._mute if not channel.proven)
                    oldest = next(strangers, next(iter(self._mute)))
                    self._mute.pop(oldest).cancel()
                    self._connections.discard(oldest)
                if len(self._connections) >= MAX_CONNECTIONS:
                    channel.close()
                    continue
                self._connections.add(channel)
                patience = self._mute[channel] = trio.CancelScope(deadline=trio.current_time() + GREETING)
                nursery.start_soon(self._receive, channel, known, patience)

    def _tell_of(self, uid: int | None) -> None:
        who = "somebody who cannot be told" if uid is None else f"uid {uid}"
        self._tell_once(f"{who} was turned away; only {self._listener.address.peers} may bring a guest")

    def _tell_once(self, what: str) -> None:
        """Tell of a stranger, unless that was told before, or much of the kind was."""
        if what not in self._turned_away and len(self._turned_away) < MAX_TOLD:
            self._turned_away.add(what)
            self.narrator.warn(what)

    async def _receive(self, channel: Channel, known: bool, patience: trio.CancelScope) -> None:
        """Find out what a connection wants; nothing that it does hurts another one."""
        visit, taken = None, False
        try:
            with patience:
                visit = await self._sort(channel, known)
            if visit is not None:
                taken = await self._offer(visit)
            elif patience.cancelled_caught and channel in self._connections:
                raise silent(f"nothing was asked for within {GREETING:g} s")
        except StreamError as error:
            if error.reason in (Reason.TLS_REFUSED, Reason.PEER_UNTRUSTED):
                self._tell_once(f"somebody was turned away: {error.detail}")
            await self._complain(channel, error)
        finally:
            self._mute.pop(channel, None)
            self._connections.discard(channel)
            if channel in self._joined:
                self._joined.discard(channel)  # a lane now
            elif not taken:
                channel.close()

    async def _sort(self, channel: Channel, known: bool) -> _Visit | None:
        """Answer a QUERY, or hear a HELLO and a SETUP."""
        await channel.greeted()
        await channel.greet()
        header, body = await channel.receive()
        stage = stream.follow(Stage.NEW, header.type)
        if header.type is FrameType.JOIN:
            self._has_spoken(channel)
            await self._join(channel, stream.decode(body, Join))
            return None
        if header.type is FrameType.QUERY:
            self._has_spoken(channel)
            await self._answer_query(channel, stream.decode(body, Handshake).token)
            return None
        hello = stream.decode(body, Hello)
        if hello.page_size != PAGE:
            raise StreamError(Reason.GUEST_DIFFERS, f"pages of {hello.page_size} bytes; we have {PAGE}")
        if self._require_verify and not hello.verify:
            raise StreamError(
                Reason.VERIFY_REQUIRED, "the destination wants all pages compared (--verify=required)"
            )
        await channel.send(FrameType.WELCOME, Welcome(version=version("vfioemu")))
        header, body = await channel.receive()
        stream.follow(stage, header.type)
        if header.type is FrameType.ABORT:
            raise _gave_up(body)
        visit = _Visit(channel, known, hello, stream.decode(body, Setup))
        self._has_spoken(channel)
        return visit

    def _has_spoken(self, channel: Channel) -> None:
        """Note that it is not silent any more; StreamError if it made room for another one in this very moment."""
        patience = self._mute.pop(channel, None)
        if patience is None:
            raise lost("it was silent for too long, and there are others")
        patience.deadline = float("inf")

    async def _join(self, channel: Channel, join: Join) -> None:
        """Make a connection one of a migration that is being loaded, which closes it as well."""
        lanes = self._lanes.get(join.token)
        if lanes is None:
            raise StreamError(Reason.PEER_REFUSED, "no migration of that token is being loaded")
        lanes.join(join.index, channel)
        self._joined.add(channel)
        await channel.send(FrameType.ACCEPTED, Handshake(token=join.token))

    async def _offer(self, visit: _Visit) -> bool:
        """Wait for the shell to be free, for a moment."""
        with trio.move_on_after(PATIENCE):
            await self._offers.send(visit)
            return True
        if self._arrived:
            raise StreamError(Reason.PEER_BUSY, "it runs a guest already")
        raise StreamError(Reason.PEER_BUSY, "busy with another migration")

    async def _answer_query(self, channel: Channel, token: str) -> None:
        standing = self._handover.query(token)
        if standing is Standing.STARTING:
            with trio.move_on_after(self._idle):
                await self._starting.wait()
            standing = self._handover.query(token)
        if standing in (Standing.STARTED, Standing.ENDED):
            ended = standing is Standing.ENDED  # with a process that had this directory before us
            await channel.send(
                FrameType.STARTED, Fate(token=token, ended=ended, early=self._early.get(token, 0))
            )
            if not ended:
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
                await channel.end_greeting()
                await channel.send(FrameType.PROBLEM, _problem(error))
            except StreamError:
                pass

    # One attempt.

    async def _load(self, guest: Guest, visit: _Visit) -> Arrival | None:
        """Load one guest to its start, or not."""
        self._guest = guest
        try:
            async with background() as nursery:
                nursery.start_soon(visit.channel.beat, BEAT)
                return await self._conduct(guest, visit)
        except StreamError as error:
            # A fresh one: the traceback of this one holds views of memory that is about to be unmapped.
            self.failures += 1
            self.last_failure = StreamError(error.reason, error.detail, error.errno, error.call)
            self.narrator.warn(f"the migration of {visit.hello.guest} ended: {error}")
            await self._complain(visit.channel, error)
            return None
        finally:
            self._handover.lost(visit.hello.token)

    async def _conduct(self, guest: Guest, visit: _Visit) -> Arrival:
        channel, hello = visit.channel, visit.hello
        self._agree(guest, visit)
        loader = Loader(guest, channel, self.narrator, self._max_device_state, verify=hello.verify)
        lanes = self._lanes[hello.token] = Lanes(hello.streams - 1, self._idle)
        broken: list[StreamError] = []
        arrival: Arrival | None = None
        try:
            async with background() as nursery:

                def failed(error: StreamError) -> None:
                    if not broken and not lanes.over:
                        broken.append(error)
                        scope.cancel()

                nursery.start_soon(lanes.run, loader.take_pages, failed)
                with trio.CancelScope() as scope:
                    arrival = await self._receive_guest(guest, visit, loader, lanes)
            if arrival is None:
                raise broken[0]
            return arrival
        finally:
            del self._lanes[hello.token]
            lanes.close()
            await loader.end()

    async def _receive_guest(self, guest: Guest, visit: _Visit, loader: Loader, lanes: Lanes) -> Arrival:
        channel, hello = visit.channel, visit.hello
        await loader.begin()
        await channel.send(FrameType.ACCEPTED, Handshake(token=hello.token))
        stage = Stage.LOADING
        checked: Checked | None = None
        while True:
            header, body = await channel.receive(wait=self._idle)
            stage = stream.follow(stage, header.type)
            match header.type:
                case FrameType.ROUND:
                    await lanes.barrier()
                case FrameType.CPUS:
                    await lanes.barrier()
                    lanes.over = True
                    await loader.take(header, body)
                case FrameType.LEDGER | FrameType.PAGE_SUMS:
                    checked = (
                        await loader.compare(body, devices=hello.verify)
                        if header.type is FrameType.LEDGER
                        else await loader.page_sums(body)
                    )
                    if checked is None:
                        continue
                    if hello.verify or checked.unproven:
                        self.narrator.verified(checked, [])
                    if checked.unproven and hello.on_mismatch is OnMismatch.ABORT:
                        # The source gives up as well. That it cannot be started here does not depend on what it says.
                        self._handover.lost(hello.token)
                    await channel.send(FrameType.CHECKED, checked)
                case FrameType.PREPARE:
                    self._same(hello, body)
                    if checked is None:
                        raise stream.corrupt("PREPARE before the comparison")
                    await loader.finish()
                    if (refusal := self._handover.prepared(hello.token)) is not None:
                        raise StreamError(refusal.reason, refusal.detail)
                    await channel.send(FrameType.READY, Handshake(token=hello.token))
                case FrameType.COMMIT:
                    self._same(hello, body)
                    await self._start(loader, channel, hello)
                    late = loader.early - (0 if checked is None else checked.early)
                    if checked is not None and not hello.verify and not checked.unproven:
                        checked = None  # nobody asked for it, and there is nothing to tell
                    return Arrival(guest, hello.token, checked, late=late)
                case FrameType.ABORT:
                    raise _gave_up(body)
                case _:
                    await loader.take(header, body)

    def _agree(self, guest: Guest, visit: _Visit) -> None:
        ours, theirs = guest.setup(), visit.setup
        for what, a, b in (
            ("RAM blocks", theirs.blocks, ours.blocks),
            ("devices", theirs.devices, ours.devices),
            ("CPUs", theirs.cpus, ours.cpus),
        ):
            if a != b:
                # Who is a stranger is not told what we have; he knows what he has sent.
                why = f"are {_brief(b)}, not {_brief(a)}" if visit.known else "are others than those of yours"
                raise StreamError(Reason.GUEST_DIFFERS, f"the {what} of this guest {why}")
        try:
            fresh = self._handover.accept(visit.hello.token, visit.hello.guest)
        except OSError as error:
            raise StreamError(Reason.LOG_FAILED, f"the journal cannot be written: {error.strerror}") from None
        if not fresh:
            raise StreamError(Reason.PEER_REFUSED, "this migration was here before")

    def _same(self, hello: Hello, body: bytes) -> None:
        if stream.decode(body, Handshake).token != hello.token:
            raise stream.corrupt("the token of another migration")

    async def _start(self, loader: Loader, channel: Channel, hello: Hello) -> None:
        """From here on the source waits for one word, and may not run before it has it."""
        token, known = hello.token, loader.early
        steps = self._handover.take_over(token)
        refusal: Refusal | None = None
        with trio.CancelScope(shield=True):
            try:
                next(steps)
                steps.send(await self._try_start(loader, hello.on_mismatch))
            except StopIteration as end:
                refusal = end.value
            finally:
                self._starting.set()
                self._starting = trio.Event()
            if refusal is not None:
                why = StreamError(refusal.reason, refusal.detail, refusal.errno, refusal.call)
                raise await self._refuse(channel, why)
            self.narrator.owner("destination")
            self._early[token] = loader.early - known
            try:
                await channel.send(FrameType.STARTED, Fate(token=token, early=self._early[token]))
            except StreamError as error:
                self.narrator.warn(f"the source does not know yet that the guest runs here: {error.detail}")

    async def _try_start(self, loader: Loader, on_mismatch: OnMismatch) -> Refusal | None:
        try:
            await loader.start(on_mismatch)
        except StreamError as error:
            if not await loader.stop():
                # A device may start when its daemon wakes up: nobody may be told that the guest will never run here.
                raise error from None
            return Refusal(error.reason, error.detail, error.errno, error.call)
        return None

    async def _refuse(self, channel: Channel, error: StreamError) -> StreamError:
        try:
            await channel.send(FrameType.REFUSED, _problem(error))
        except StreamError:
            pass
        return error

    async def _await_release(self, channel: Channel, token: str) -> None:
        try:
            header, _ = await channel.receive()
            stream.follow(Stage.OVER, header.type)
            self._handover.released(token)
            self._released.set()
        except StreamError as error:
            self.narrator.warn(f"the source has not confirmed: {error.detail}")


def _problem(error: StreamError) -> Problem:
    call = error.call or FailedCall()
    return Problem(
        reason=error.reason, detail=error.detail, errno=error.errno, ioctl=call.ioctl, device=call.device
    )


def _gave_up(body: bytes) -> StreamError:
    problem = stream.decode(body, Problem)
    return StreamError(Reason.PEER_LOST, f"the source gave up: {problem.reason} {problem.detail}".rstrip())


def _brief(what: object) -> str:
    if isinstance(what, list):
        return "[" + ", ".join(" ".join(str(getattr(m, f)) for f in m.__struct_fields__) for m in what) + "]"
    return str(what)
