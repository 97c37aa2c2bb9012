# SPDX-License-Identifier: MIT
"""The source under trio: performs what the engine asks for, and tells what happens.

A cancel (`Source.cancel()`, or trio cancelling the task) never tears the guest apart: it hurries the action that is
outstanding, if that one only waits or sends, and the engine then brings the guest back. The whole run is shielded
from outer cancellation; how long that can last is bounded by the time-outs below.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import trio

from vfioemu.migration import actions as do
from vfioemu.migration import events, stream
from vfioemu.migration.actions import Action, Event, Finish
from vfioemu.migration.address import Address
from vfioemu.migration.alive import watch
from vfioemu.migration.engine import Engine
from vfioemu.migration.guest import Guest, GuestError
from vfioemu.migration.messages import Checked, Cpus, Handshake, Hello, Ledger, Message, Problem, RoundMark
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.plan import PAGE, Limits, Reason, Tracker
from vfioemu.migration.ram import split_zero, sums
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.transport import Channel
from vfioemu.migration.verify import Lost, name_lost_writes
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_STOP

SLICE: Final = 0.05
"""Seconds after which a slice of RAM ends even if its bytes are not used up (QEMU's MAX_WAIT)."""
SUMS_PER_FRAME: Final = 4096
STATE_CHUNK: Final = stream.MAX_STATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the source waits for the destination, in seconds."""

    connect: float = 10.0
    answer: float = 30.0
    ready: float = 120.0
    commit: float = 10.0
    resolve: float = 10.0


@dataclass(slots=True)
class Result:
    """How a migration ended, and what it took."""

    finish: Finish
    code: int
    engine: Engine
    checked: Checked | None = None
    lost: list[Lost] = field(default_factory=list)


EXIT_CODES: Final[Mapping[do.Outcome, int]] = {
    do.Outcome.COMPLETED: 0,
    do.Outcome.FAILED: 3,
    do.Outcome.CANCELLED: 4,
    do.Outcome.IN_DOUBT: 6,
    do.Outcome.BLOCKED: 9,
}


def exit_code(finish: Finish) -> int:
    """The exit code of architecture.md 9 for an end."""
    if finish.outcome is do.Outcome.COMPLETED and finish.mismatches:
        return 5
    if finish.lost_devices:
        return 1  # 3 and 4 promise that the source runs as it did
    return EXIT_CODES[finish.outcome]


class _Interrupted(Exception):
    """The outstanding action was hurried."""


class Source:
    """One migration of one guest; a second one takes a new `Source`.

    Args:
        guest: what is migrated; its CPUs and devices run.
        address: where to.
        limits: what the user allows.
        verify: compare every page and device before the destination runs.
        tell: gets every event of events.py.
        patience: how long to wait for the destination.
        alive: seconds for which a guest that stays is watched, to show that it lives.

    Attributes:
        result: how it ended, as soon as it has.
        cancelling: somebody has asked for the end.
        narrator: tells what happens here.
    """

    def __init__(
        self,
        guest: Guest,
        address: Address,
        limits: Limits,
        *,
        verify: bool = True,
        tell: Callable[[events.Told], None] = lambda told: None,
        patience: Patience | None = None,
        alive: float = 0.0,
    ) -> None:
        self.guest = guest
        self.result: Result | None = None
        self._address = address
        self._limits = limits
        self.cancelling = False
        self._alive = alive
        self._verify = verify
        self.narrator = Narrator(tell, "source")
        self._patience = patience or Patience()
        self._token = secrets.token_hex(16)
        self._engine: Engine | None = None
        self._channel: Channel | None = None
        self._frames: trio.MemoryReceiveChannel[tuple[FrameType, bytes]] | None = None
        self._loss: StreamError | None = None
        self._gone = trio.Event()
        self._broken = False
        self._hurry: trio.CancelScope | None = None
        self._checked: Checked | None = None
        self._lost: list[Lost] = []
        self._chunks: dict[str, int] = {}
        self._zero_pages = 0

    # What the user calls.

    def cancel(self) -> bool:
        """End the migration, and let the guest run on here; False when COMMIT is out."""
        if self._engine is None or not self._engine.cancel():
            return False
        self.cancelling = True
        if self._hurry is not None:
            self._hurry.cancel()
        return True

    async def migrate(self) -> Result:
        """Migrate. However it ends, the result says who runs the guest."""
        plan = await self.guest.plan(verify=self._verify)
        self._engine = Engine(plan, self._limits)
        self._tell_plan(self._engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_cancel)
            with trio.CancelScope(shield=True):
                result = await self._run(self._engine)
            nursery.cancel_scope.cancel()
        return result

    async def _watch_cancel(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if self.result is None:
                self.cancel()

    async def _run(self, engine: Engine) -> Result:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            action = engine.start(trio.current_time())
            while not isinstance(action, Finish):
                event = await self._answer(action)
                self.narrator.answered(engine, action, event)
                action = engine.step(event)
                self.narrator.stepped(engine, self.guest.cpus.writes, self._sent)
            if self._channel is not None:
                self._channel.close()
            nursery.cancel_scope.cancel()
        self.result = Result(action, exit_code(action), engine, self._checked, self._lost)
        if self._alive and action.source_runs:
            await watch(self.guest, self.narrator, self._alive)
        self._tell_end(self.result)
        return self.result

    @property
    def _sent(self) -> int:
        return self._channel.sent if self._channel is not None else 0

    # Actions.

    async def _answer(self, action: Action) -> Event:
        """Perform an action; whatever goes wrong becomes its answer."""
        try:
            match action:
                case do.Connect() | do.SendRam() | do.SendDevice() | do.SendSums() | do.Wait() | do.Prepare():
                    return await self._hurried(self._perform(action))
                case _:
                    return await self._perform(action)
        except _Interrupted:
            return do.Failed(trio.current_time(), Reason.CANCELLED)
        except StreamError as error:
            why = await self._why(error)
            return do.Failed(trio.current_time(), why.reason, why.detail)
        except GuestError as error:
            return do.Failed(trio.current_time(), error.reason, error.detail, error.errno)
        except OSError as error:
            name = getattr(action, "device", "")
            return do.Failed(
                trio.current_time(),
                Reason.DEVICE_ERROR,
                f"{type(action).__name__} {name}: {error.strerror or error}",
                error.errno,
            )

    async def _hurried(self, work: Awaitable[Event]) -> Event:
        with trio.CancelScope() as scope:
            self._hurry = scope
            try:
                return await work
            finally:
                self._hurry = None
        if self._loss is not None:
            raise self._loss
        raise _Interrupted

    async def _perform(self, action: Action) -> Event:
        guest = self.guest
        match action:
            case do.Connect():
                await self._connect()
            case do.FillBitmaps():
                guest.fill_bitmaps()
            case do.StartTracking(target):
                await guest.start_tracking(target)
            case do.StopTracking(target):
                await guest.stop_tracking(target)
            case do.Sync(final):
                return await self._sync(final=final)
            case do.SendRam(limit, final):
                return await self._send_ram(limit, final=final)
            case do.SetState(device, state):
                await guest.devices[device].set_state(state)
                self.narrator.device(device, state)
            case do.ResetDevice(device):
                await guest.devices[device].reset()
                self.narrator.warn(f"{device} had to be reset")
            case do.SendDevice(device, limit, final):
                return await self._send_device(device, limit, final=final)
            case do.PauseCpus():
                guest.cpus.pause()
            case do.ResumeCpus():
                guest.cpus.resume()
            case do.Wait(seconds):
                await trio.sleep(seconds)
            case do.SendCpus():
                await self._send(FrameType.CPUS, Cpus(cpus=[cpu.state for cpu in guest.cpus.cpus]))
            case do.SendSums():
                return await self._send_sums()
            case do.Prepare():
                await self._send(FrameType.PREPARE, Handshake(token=self._token))
                await self._expect({FrameType.READY}, self._patience.ready)
            case do.Commit():
                return await self._commit()
            case do.Query():
                return await self._query()
            case do.Abort(reason, detail):
                await self._abort(reason, detail)
            case do.Release():
                await self._release()
            case do.Finish():
                raise AssertionError("nothing is to be done for it")
        return do.Done(trio.current_time())

    async def _connect(self) -> None:
        channel = Channel(await self._address.connect(self._patience.connect))
        self._channel = channel
        await channel.greet()
        with trio.move_on_after(self._patience.answer) as waited:
            await channel.greeted()
        if waited.cancelled_caught:
            raise StreamError(Reason.PEER_LOST, f"{self._address} does not answer")
        send, self._frames = trio.open_memory_channel[tuple[FrameType, bytes]](16)
        self._nursery.start_soon(self._read, channel, send)
        await self._send(
            FrameType.HELLO, Hello(token=self._token, guest=self.guest.name, verify=self._verify)
        )
        await self._expect({FrameType.WELCOME}, self._patience.answer)
        await self._send(FrameType.SETUP, self.guest.setup())
        await self._expect({FrameType.ACCEPTED}, self._patience.answer)

    async def _sync(self, *, final: bool) -> Event:
        found = await self.guest.sync()
        mark = RoundMark(number=len(self._need_engine().rounds), pages=found.pages, final=final)
        await self._send(FrameType.ROUND, mark)
        return do.Synced(trio.current_time(), found.pages, found.dirtied, found.device_bytes)

    async def _send_ram(self, limit: int, *, final: bool) -> Event:
        channel, before = self._need_channel(), self._sent
        deadline = float("inf") if final else trio.current_time() + SLICE
        left = max(1, limit // PAGE) if limit else self.guest.pages
        for index, block in enumerate(self.guest.ram):
            while left > 0 and trio.current_time() < deadline:
                runs = block.pending.take(min(left, stream.MAX_RAM // PAGE), stream.MAX_RUNS)
                if not runs:
                    break
                left -= sum(length for _, length in runs)
                full, zero = split_zero(block.view, runs)
                for first in range(0, len(zero), stream.MAX_RUNS):
                    part = zero[first : first + stream.MAX_RUNS]
                    self._zero_pages += sum(length for _, length in part)
                    await self._send(FrameType.ZERO, stream.pack_runs(index, part))
                for first in range(0, len(full), stream.MAX_RUNS):
                    part = full[first : first + stream.MAX_RUNS]
                    self._broken = True  # until the whole frame is out
                    await channel.send_pages(index, block, part)
                    self._broken = False
        return do.RamSent(trio.current_time(), self._sent - before, self.guest.pages)

    async def _send_device(self, name: str, limit: int, *, final: bool) -> Event:
        device = self.guest.devices[name]
        index = list(self.guest.devices).index(name)
        sent = 0
        while not limit or sent < limit:
            data = await device.read_state(STATE_CHUNK)
            if data is None or (not data and not final):
                break  # nothing for now; only STOP_COPY has an end
            last = final and not data
            await self._send_state(index, data, stream.LAST if last else 0)
            sent += len(data)
            if last:
                break
        pending = 0 if final else await device.pending()
        return do.DeviceSent(trio.current_time(), sent, pending)

    async def _send_state(self, index: int, data: bytes, flags: int) -> None:
        name = list(self.guest.devices)[index]
        number = self._chunks.get(name, 0)
        self._chunks[name] = number + 1
        await self._send(FrameType.DEVICE, stream.pack_state(index, number, flags), data)

    async def _send_sums(self) -> Event:
        for index, block in enumerate(self.guest.ram):
            for first in range(0, block.npages, SUMS_PER_FRAME):
                count = min(SUMS_PER_FRAME, block.npages - first)
                packed = await trio.to_thread.run_sync(sums, block.view, first, count)
                await self._send(FrameType.SUMS, stream.pack_sums(index, first, packed))
        ledgers = [await device.ledger() for device in self.guest.devices.values()]
        await self._send(FrameType.LEDGER, Ledger(devices=ledgers))
        _, body = await self._expect({FrameType.CHECKED}, self._patience.ready)
        checked = stream.decode(body, Checked)
        if (checked.pages, checked.devices) != (self._need_engine().plan.npages, len(ledgers)):
            raise stream.corrupt(
                f"the destination compared {checked.pages} pages and {checked.devices} devices"
            )
        self._checked = checked
        names = {
            int(ledger.registers["DEVICE_ID"], 16): ledger.name
            for ledger in ledgers
            if "DEVICE_ID" in ledger.registers
        }
        self._lost = name_lost_writes(self.guest.ram, checked.mismatches, names)
        self.narrator.verified(checked, self._lost)
        return do.Checked(trio.current_time(), checked.mismatched_pages + len(checked.mismatched_devices))

    async def _commit(self) -> Event:
        await self._send(FrameType.COMMIT, Handshake(token=self._token))
        kind, body = await self._expect({FrameType.STARTED, FrameType.REFUSED}, self._patience.commit)
        if kind is FrameType.STARTED:
            return do.Started(trio.current_time())
        return do.Refused(trio.current_time(), stream.decode(body, Problem).detail)

    async def _query(self) -> Event:
        """Ask until somebody knows, or until the time is over."""
        deadline = trio.current_time() + self._patience.resolve
        detail = "nobody answered"
        while trio.current_time() < deadline:
            with trio.move_on_at(deadline):
                try:
                    return await self._query_once()
                except StreamError as error:
                    detail = error.detail
                await trio.sleep(0.2)
        return do.Failed(trio.current_time(), Reason.PEER_LOST, f"COMMIT was sent, and then: {detail}")

    async def _query_once(self) -> Event:
        channel = Channel(await self._address.connect(self._patience.connect))
        try:
            await channel.greet()
            await channel.greeted()
            await channel.send(FrameType.QUERY, Handshake(token=self._token))
            header, body = await channel.receive(wait=self._patience.resolve)
            if header.type is FrameType.STARTED:
                return do.Started(trio.current_time())
            if header.type is FrameType.REFUSED:
                return do.Refused(trio.current_time(), stream.decode(body, Problem).detail)
            raise StreamError(Reason.PEER_LOST, f"{self._address} does not know this migration")
        finally:
            channel.close()

    async def _abort(self, reason: Reason, detail: str) -> None:
        channel = self._channel
        if channel is None:
            return
        if self._loss is None and not self._broken:
            with trio.move_on_after(1.0):
                await self._send(FrameType.ABORT, Problem(reason=reason, detail=detail[:4000]))
        channel.close()

    async def _release(self) -> None:
        if self._channel is not None and self._loss is None:
            with trio.move_on_after(1.0):
                await self._send(FrameType.RELEASED, Handshake(token=self._token))
        for device in self.guest.devices.values():
            await device.set_state(VFIO_DEVICE_STATE_STOP)  # ends the saving session

    # Frames.

    async def _send(self, kind: FrameType, body: bytes | Message, bulk: bytes = b"") -> None:
        self._broken = True
        await self._need_channel().send(kind, body, [memoryview(bulk)] if bulk else ())
        self._broken = False

    async def _read(self, channel: Channel, frames: trio.MemorySendChannel[tuple[FrameType, bytes]]) -> None:
        """Read all that the destination says, so that its end is known at once, whatever we are doing."""
        async with frames:
            try:
                while True:
                    header, body = await channel.receive()
                    if header.bulk:
                        raise stream.corrupt(f"{header.type.name} frame from the destination with raw bytes")
                    if header.type is FrameType.PROBLEM:
                        problem = stream.decode(body, Problem)
                        raise StreamError(_reason(problem.reason), f"the destination: {problem.detail}")
                    await frames.send((header.type, body))
            except StreamError as error:
                self._loss = error
                self._gone.set()
                if self._hurry is not None:
                    self._hurry.cancel()

    async def _expect(self, kinds: set[FrameType], patience: float) -> tuple[FrameType, bytes]:
        if self._frames is None:
            raise StreamError(Reason.PEER_LOST, "there is no connection")
        with trio.move_on_after(patience):
            try:
                kind, body = await self._frames.receive()
            except trio.EndOfChannel:
                raise self._loss or StreamError(Reason.PEER_LOST, "the connection was closed") from None
            if kind not in kinds:
                raise stream.corrupt(f"{kind.name} frame, expected {' or '.join(k.name for k in kinds)}")
            return kind, body
        raise StreamError(Reason.PEER_LOST, f"the destination has been silent for {patience:g} s")

    async def _why(self, error: StreamError) -> StreamError:
        """A broken pipe is what one sees; what the destination said before it went is the reason."""
        if error.reason is Reason.PEER_LOST and self._loss is None and self._channel is not None:
            with trio.move_on_after(0.2):
                await self._gone.wait()
        return self._loss or error

    def _need_channel(self) -> Channel:
        if self._channel is None:
            raise StreamError(Reason.PEER_LOST, "there is no connection")
        return self._channel

    def _need_engine(self) -> Engine:
        if self._engine is None:
            raise AssertionError("migrate() has not been called")
        return self._engine

    # Telling.

    def _tell_plan(self, engine: Engine) -> None:
        self.narrator.hello(self.guest, engine.plan, str(self._address), self._limits)
        for container in engine.plan.containers:
            if container.tracker is Tracker.ALL_DIRTY:
                self.narrator.warn(
                    f"nobody tracks what the devices of {container.name} write: all RAM is always dirty"
                )

    def _tell_end(self, result: Result) -> None:
        self.narrator.end(result.finish, result.code, result.engine, self._zero_pages)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.PEER_REFUSED
