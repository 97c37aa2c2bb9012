# SPDX-License-Identifier: MIT
"""The source under trio: performs what the engine asks for, and tells what happens.

A cancel (`Source.cancel()`, or trio cancelling the task) never tears the guest apart: it hurries the action that is
outstanding, if that one only waits or sends, and the engine then brings the guest back. The whole run is shielded
from outer cancellation; how long that can last is bounded by the time-outs below.
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from vfioemu.migration import actions as do
from vfioemu.migration import events, stream
from vfioemu.migration.actions import Action, Event, Finish, Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.alive import watch
from vfioemu.migration.audit import MAX_TOLD, Audit, describe
from vfioemu.migration.background import background
from vfioemu.migration.engine import Engine
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.files import Volatile
from vfioemu.migration.guest import Guest, GuestError
from vfioemu.migration.journal import Journal, Log, Role, Standing
from vfioemu.migration.ledger import Written
from vfioemu.migration.messages import (
    Checked,
    Cpus,
    DeviceLedger,
    Fate,
    Handshake,
    Hello,
    Ledger,
    Problem,
    RoundMark,
)
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.peer import Peer, query
from vfioemu.migration.plan import PAGE, Limits, Reason, Tracker
from vfioemu.migration.policies.policy import MakePolicy
from vfioemu.migration.policies.precopy_limits import PrecopyLimits
from vfioemu.migration.ram import split_zero, sums
from vfioemu.migration.records import Record
from vfioemu.migration.result import Patience, Result, exit_code, stopped_limit
from vfioemu.migration.stream import MAX_DETAIL, FrameType, StreamError
from vfioemu.migration.verify.devices import read_source
from vfioemu.migration.verify.pages import Lost, name_lost_writes
from vfioemu.migration.verify.result import check_answer, explain
from vfioemu.printable import printable
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_STOP

SLICE: Final = 0.05
"""Seconds after which a slice of RAM ends even if its bytes are not used up (QEMU's MAX_WAIT)."""
SUMS_PER_FRAME: Final = 4096
STATE_CHUNK: Final = stream.MAX_STATE


class _Interrupted(Exception):
    """The outstanding action was hurried."""


class Source:
    """One migration of one guest; a second one takes a new `Source`.

    Args:
        guest: what is migrated; its CPUs and devices run.
        address: where to.
        limits: what the user allows.
        policy: when the guest stops, when it is slowed down, when to give up.
        verify: compare every page and device before the destination runs.
        tell: gets every event of events.py.
        patience: how long to wait for the destination.
        alive: seconds for which a guest that stays is watched, to show that it lives.
        journal: what is known of the migration after the death of this process; None: nothing.

    Attributes:
        result: how it ended, as soon as it has.
        cancelling: somebody has asked for the end.
        narrator: tells what happens here.
        token: names this attempt.
    """

    def __init__(
        self,
        guest: Guest,
        address: Address,
        limits: Limits,
        *,
        policy: MakePolicy = PrecopyLimits,
        verify: bool = True,
        tell: Callable[[events.Told], None] = lambda told: None,
        patience: Patience | None = None,
        alive: float = 0.0,
        journal: Journal | None = None,
    ) -> None:
        self.guest = guest
        self.result: Result | None = None
        self.cancelling = False
        self.narrator = Narrator(tell, "source")
        self._address = address
        self._limits = limits
        self._policy = policy
        self._verify = verify
        self._patience = patience or Patience()
        limit = self._patience.stopped
        self._stopped_limit = (
            stopped_limit(limits.downtime, guest.size, verify=verify) if limit is None else limit
        )
        self._stopped_until = float("inf")
        self._alive = alive
        self.token = secrets.token_hex(16)
        self._journal = journal or Journal(Volatile())
        self._log: Log | None = None
        self._engine: Engine | None = None
        self._peer = Peer(address, self._hurry_up)
        self._history: list[Event] = []
        self._hurry: trio.CancelScope | None = None
        self._checked: Checked | None = None
        self._lost: list[Lost] = []
        self._ledger = guest.ledger()
        self._late: list[Written] = []
        self._audit = Audit(guest.ram)
        self._chunks: dict[str, int] = {}
        self._state_bytes: dict[str, int] = {}
        self._ledgers: list[DeviceLedger] = []
        self._zero_pages = 0
        self._syncs = 0

    # What the user calls.

    def cancel(self) -> bool:
        """End the migration, and let the guest run on here; False when COMMIT is out."""
        if self._engine is not None and not self._engine.cancel():
            return False
        self.cancelling = True  # the engine is told when there is one
        self._hurry_up()
        return True

    async def migrate(self) -> Result:
        """Migrate. However it ends, the result says who runs the guest."""
        plan = await self.guest.plan(verify=self._verify)
        self._engine = Engine(plan, self._limits, self._policy)
        if self.cancelling:
            self._engine.cancel()
        self._tell_plan(self._engine)
        async with background() as nursery:
            nursery.start_soon(self._watch_cancel)
            with trio.CancelScope(shield=True):
                result = await self._run(self._engine)
        return result

    async def _watch_cancel(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if self.result is None:
                self.cancel()

    async def _run(self, engine: Engine) -> Result:
        async with background() as nursery:
            action = engine.start(trio.current_time())
            while not isinstance(action, Finish):
                event = await self._answer(action, nursery)
                self._history.append(event)
                self.narrator.answered(engine, action, event)
                action = engine.step(event)
                self.narrator.stepped(engine, self.guest.cpus.writes, self._peer.sent)
            self._peer.close()
        if self._log is not None:
            if action.outcome is Outcome.IN_DOUBT:
                self._log.close()  # it stays for `resolve`
            else:
                self._log.remove()
        await self._ledger.end()
        self.result = Result(
            action,
            exit_code(action),
            engine,
            self._history,
            self._checked,
            self._lost,
            self._late,
            self._ledger.not_compared,
        )
        if self._alive and action.source_runs:
            await watch(self.guest, self.narrator, self._alive)
        self.narrator.end(action, self.result.code, engine, self._zero_pages)
        return self.result

    # Actions.

    async def _answer(self, action: Action, nursery: trio.Nursery) -> Event:
        """Perform an action; whatever goes wrong becomes its answer."""
        try:
            match action:
                case (
                    do.Connect()
                    | do.Sync()
                    | do.SendRam()
                    | do.SendDevice()
                    | do.SendCpus()
                    | do.ReadLedger(do.Moment.SYNCED | do.Moment.COMMIT)
                    | do.ReadDevice()
                    | do.SendSums()
                    | do.Wait()
                    | do.Prepare()
                ):
                    return await self._hurried(self._perform(action, nursery))
                case _:
                    return await self._perform(action, nursery)
        except _Interrupted:
            return do.Failed(trio.current_time(), Reason.CANCELLED)
        except StreamError as error:
            why = await self._peer.why(error)
            return do.Failed(trio.current_time(), why.reason, why.detail, why.errno, why.call)
        except GuestError as error:
            return do.Failed(trio.current_time(), error.reason, error.detail, error.errno, error.call)
        except OSError as error:
            name = getattr(action, "device", "")
            return do.Failed(
                trio.current_time(),
                Reason.DEVICE_ERROR,
                f"{type(action).__name__} {name}: {error.strerror or error}",
                error.errno,
                FailedCall.of(error, name),
            )

    async def _hurried(self, work: Awaitable[Event]) -> Event:
        with trio.CancelScope(deadline=self._stopped_until) as scope:
            self._hurry = scope
            try:
                return await work
            finally:
                self._hurry = None
        if self.cancelling:
            raise _Interrupted
        if self._peer.loss is not None:
            raise self._peer.loss
        raise StreamError(
            Reason.PEER_SILENT,
            f"the guest has stood still for {self._stopped_limit:g} s, and the destination has not got all of it",
        )

    def _hurry_up(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()

    async def _perform(self, action: Action, nursery: trio.Nursery) -> Event:
        guest = self.guest
        match action:
            case do.Connect():
                await self._connect(nursery)
            case do.BeginLedger():
                await self._ledger.begin()
                if self._ledger.not_compared:
                    self.narrator.warn(f"writes of devices are not compared: {self._ledger.not_compared}")
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
                self._ledger.paused()
                self._stopped_until = trio.current_time() + self._stopped_limit
            case do.ResumeCpus():
                guest.cpus.resume()
            case do.Throttle(share):
                guest.cpus.throttle = share
                self.narrator.say(events.Throttled(share=share))
            case do.Wait(seconds):
                await trio.sleep(seconds)
            case do.SendCpus():
                await self._peer.send(FrameType.CPUS, Cpus(cpus=[cpu.state for cpu in guest.cpus.cpus]))
            case do.ReadLedger(moment):
                return await self._read_ledger(moment)
            case do.ReadDevice(device):
                ledger = await read_source(guest.devices[device], self._state_bytes.get(device, 0))
                self._ledgers.append(ledger)
            case do.SendSums():
                return await self._send_sums()
            case do.Audit():
                return await self._audit_memory()
            case do.Prepare():
                await self._peer.send(FrameType.PREPARE, Handshake(token=self.token))
                await self._peer.expect(FrameType.READY, patience=float("inf"))
            case do.Note(record):
                return self._note(record)
            case do.Commit():
                return await self._commit()
            case do.Query():
                return await self._query()
            case do.Abort(reason, detail):
                await self._peer.farewell(FrameType.ABORT, Problem(reason=reason, detail=detail[:MAX_DETAIL]))
            case do.Release():
                await self._release()
            case do.Finish():
                raise AssertionError("nothing is to be done for it")
        return do.Done(trio.current_time())

    async def _connect(self, nursery: trio.Nursery) -> None:
        peer, patience = self._peer, self._patience
        try:
            uri, guest = str(self._address), self.guest.name
            self._log = self._journal.begin(Role.SOURCE, self.token, uri=uri, guest=guest)
        except OSError as error:
            raise GuestError(
                Reason.LOG_FAILED, f"the journal cannot be written: {error.strerror}", error.errno
            ) from None
        await peer.connect(nursery, patience.connect, patience.listen)
        hello = Hello(
            token=self.token,
            guest=self.guest.name,
            verify=self._verify,
            on_mismatch=self._limits.on_mismatch,
        )
        await peer.send(FrameType.HELLO, hello)
        await peer.expect(FrameType.WELCOME, patience=patience.answer)
        await peer.send(FrameType.SETUP, self.guest.setup())
        await peer.expect(FrameType.ACCEPTED, patience=patience.answer)

    async def _sync(self, *, final: bool) -> Event:
        await self._ledger.before_sync()
        found = await self.guest.sync()
        self._ledger.after_sync()
        mark = RoundMark(number=self._syncs, pages=found.pages, final=final)
        self._syncs += 1
        await self._peer.send(FrameType.ROUND, mark)
        return do.Synced(trio.current_time(), found.pages, found.dirtied, found.device_bytes)

    async def _send_ram(self, limit: int, *, final: bool) -> Event:
        before = self._peer.sent
        deadline = float("inf") if final else trio.current_time() + SLICE
        left = max(1, limit // PAGE) if limit else self.guest.pages
        busy = 0.0
        for index, block in enumerate(self.guest.ram):
            while left > 0 and trio.current_time() < deadline:
                runs = block.pending.take(min(left, self._peer.most_pages), stream.MAX_RUNS)
                if not runs:
                    break
                left -= sum(length for _, length in runs)
                began = trio.current_time()
                full, zero = split_zero(block.view, runs)
                npages = sum(length for _, length in full)
                # Of the time to look at pages, those that are sent have their share.
                busy += (trio.current_time() - began) * npages / sum(length for _, length in runs)
                for first in range(0, len(zero), stream.MAX_RUNS):
                    part = zero[first : first + stream.MAX_RUNS]
                    self._zero_pages += sum(length for _, length in part)
                    await self._peer.send(FrameType.ZERO, stream.pack_runs(index, part))
                began = trio.current_time()
                for first in range(0, len(full), stream.MAX_RUNS):
                    part = full[first : first + stream.MAX_RUNS]
                    await self._peer.send_pages(index, block, part)
                busy += trio.current_time() - began
        return do.RamSent(trio.current_time(), self._peer.sent - before, self.guest.pages, busy)

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
        self._state_bytes[name] = self._state_bytes.get(name, 0) + len(data)
        await self._peer.send(FrameType.DEVICE, stream.pack_state(index, number, flags, data), data)

    async def _read_ledger(self, moment: do.Moment) -> Event:
        reading = await self._ledger.read()
        self._late += reading.late
        if moment is do.Moment.SYNCED:
            for block, runs in zip(self.guest.ram, reading.pages, strict=True):
                block.sums.take(block, runs)
        else:
            self._audit.explain(reading.pages)
        self.narrator.ledger(moment, reading, self._ledger.not_compared)
        more = f", and {reading.count - 1} more" if reading.count > 1 else ""
        first = str(reading.late[0]) if reading.late else "a write"
        detail = f"{first}{more} came after it had been told to stand still ({moment})"
        return do.Checked(trio.current_time(), reading.count, Reason.LATE_WRITE, detail)

    async def _audit_memory(self) -> Event:
        began = trio.current_time()
        found = await trio.to_thread.run_sync(self._audit.hold)
        names = await self._writers() if found.unexplained else {}
        self.narrator.say(
            events.Audited(
                pages=found.pages,
                different=found.different,
                unexplained=len(found.unexplained),
                seconds=trio.current_time() - began,
                first=[
                    describe(self.guest.ram[index], page, names)
                    for index, page in found.unexplained[:MAX_TOLD]
                ],
            )
        )
        detail = f"{len(found.unexplained)} pages of it changed after they had been summed"
        return do.Checked(trio.current_time(), len(found.unexplained), Reason.LATE_WRITE, detail)

    async def _writers(self) -> dict[int, str]:
        """Name the devices by the numbers in their stamps."""
        devices = self.guest.devices.values()
        return {
            writer: device.name for device in devices if (writer := await device.driver.writer()) is not None
        }

    async def _send_sums(self) -> Event:
        for index, block in enumerate(self.guest.ram):
            await trio.to_thread.run_sync(block.sums.take, block, [(0, block.npages)])
            for first in range(0, block.npages, SUMS_PER_FRAME):
                count = min(SUMS_PER_FRAME, block.npages - first)
                packed = await trio.to_thread.run_sync(sums, block.view, first, count)
                await self._peer.send(FrameType.SUMS, stream.pack_sums(index, first, packed))
        ledgers = self._ledgers
        for ledger in ledgers[:-1]:
            await self._peer.send(FrameType.LEDGER, Ledger(devices=[ledger], last=False))
        await self._peer.send(FrameType.LEDGER, Ledger(devices=ledgers[-1:]))
        _, body = await self._peer.expect(FrameType.CHECKED, patience=float("inf"))
        checked = stream.decode(body, Checked)
        check_answer(checked, ledgers, self.guest.size // PAGE)
        self._checked = checked
        self._lost = name_lost_writes(self.guest.ram, checked.mismatches, await self._writers())
        self.narrator.verified(checked, self._lost)
        reason, detail = explain(checked)
        return do.Checked(trio.current_time(), checked.unproven, reason, detail)

    def _note(self, record: Record) -> Event:
        now = trio.current_time()
        if self._log is None:
            return do.Failed(now, Reason.LOG_FAILED, "there is no journal")
        try:
            self._log.write(record)
        except OSError as error:
            what = f"{record.name} cannot be written to the journal: {error.strerror}"
            self.narrator.warn(what)
            return do.Failed(now, Reason.LOG_FAILED, what, error.errno)
        return do.Done(now)

    async def _commit(self) -> Event:
        await self._peer.send(FrameType.COMMIT, Handshake(token=self.token))
        kind, body = await self._peer.expect(
            FrameType.STARTED, FrameType.REFUSED, patience=self._patience.commit
        )
        if kind is FrameType.STARTED:
            return do.Started(trio.current_time(), early=stream.decode(body, Fate).early)
        problem = stream.decode(body, Problem)
        late = problem.reason == Reason.LATE_WRITE and self._verify
        return do.Refused(
            trio.current_time(),
            printable(problem.detail, MAX_DETAIL),
            Reason.LATE_WRITE if late else Reason.PEER_REFUSED,
        )

    async def _query(self) -> Event:
        """Ask until somebody knows, or until the time is over."""
        deadline = trio.current_time() + self._patience.resolve
        why = "nobody answered"
        while trio.current_time() < deadline:
            with trio.move_on_at(deadline):
                try:
                    standing, detail, early = await query(self._address, self.token, self._patience.resolve)
                except StreamError as error:
                    why = error.detail
                    await trio.sleep(0.2)
                else:
                    if standing is Standing.REFUSED:
                        return do.Refused(trio.current_time(), detail)
                    return do.Started(trio.current_time(), ended=standing is Standing.ENDED, early=early)
        return do.Failed(trio.current_time(), Reason.PEER_LOST, f"COMMIT was sent, and then: {why}")

    async def _release(self) -> None:
        if self._log is not None and Record.RELEASED in self._log.records:  # else it is asked, one day
            await self._peer.farewell(FrameType.RELEASED, Handshake(token=self.token))
        for device in self.guest.devices.values():
            await device.set_state(VFIO_DEVICE_STATE_STOP)  # ends the saving session

    # Telling.

    def _tell_plan(self, engine: Engine) -> None:
        self.narrator.hello(self.guest, engine.plan, str(self._address), self._limits)
        for container in engine.plan.containers:
            if container.tracker is Tracker.ALL_DIRTY:
                self.narrator.warn(
                    f"nobody tracks what the devices of {container.name} write: all RAM is always dirty"
                )
