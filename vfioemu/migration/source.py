# SPDX-License-Identifier: MIT
"""The source under trio: performs what the engine asks for, and tells what happens.

A cancel (`Source.cancel()`, or trio cancelling the task) never tears the guest apart: it hurries the action that is
outstanding, if that one only waits or sends, and the engine then brings the guest back. The whole run is shielded
from outer cancellation; how long that can last is bounded by the time-outs below.
"""

import errno
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from vfioemu.migration import actions as do
from vfioemu.migration import events, stream
from vfioemu.migration.actions import Action, Event, Finish, Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.alive import watch
from vfioemu.migration.audit import MAX_TOLD, Audit, describe
from vfioemu.migration.background import background
from vfioemu.migration.deadlines import DaemonSilent
from vfioemu.migration.devicedata import DeviceData
from vfioemu.migration.doubt import IN_DOUBT, Doubt
from vfioemu.migration.engine import Engine, Phase
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
from vfioemu.migration.pages import send_pages
from vfioemu.migration.peer import Peer, query, said
from vfioemu.migration.plan import PAGE, Limits, Reason, Tracker
from vfioemu.migration.policies.policy import MakePolicy
from vfioemu.migration.policies.precopy_limits import PrecopyLimits
from vfioemu.migration.records import Record
from vfioemu.migration.result import Patience, Result, exit_code
from vfioemu.migration.stream import MAX_DETAIL, FrameType, StreamError
from vfioemu.migration.verify.devices import ask_again, read_source
from vfioemu.migration.verify.estimates import Estimates
from vfioemu.migration.verify.pages import Lost, name_lost_writes, send_page_sums, send_sums
from vfioemu.migration.verify.result import check_answer, explain
from vfioemu.migration.words import in_words
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_STOP

SLICE: Final = 0.05
"""Seconds after which a slice of RAM ends even if its bytes are not used up (QEMU's MAX_WAIT)."""
STATE_CHUNK: Final = stream.MAX_STATE
LATE: Final = 0.5
"""Seconds after the end of --timeout in which what is being sent may be finished."""
_HURRIED: Final = (Phase.SETUP, Phase.PRECOPY, Phase.STOPPING, Phase.COPY, Phase.HANDOVER)
"""Where the user's wish, a limit or the loss of the peer ends what is being done; what undoes a migration is left alone."""


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
        streams: connections that pages go on.
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
        streams: int = 1,
    ) -> None:
        self.guest = guest
        self.result: Result | None = None
        self.cancelling = False
        self.narrator = Narrator(tell, "source")
        self._address = address
        self._limits = limits
        self._policy = policy
        self._verify = verify
        self._streams = streams
        self._patience = patience or Patience()
        self._stopped_until = float("inf")
        self._doubt = Doubt()
        self._alive = alive
        self.token = secrets.token_hex(16)
        self._journal = journal or Journal(Volatile())
        self._log: Log | None = None
        self._engine: Engine | None = None
        self._peer = Peer(address, self._hurry_up, self._patience.idle)
        self._history: list[Event] = []
        self._hurry: trio.CancelScope | None = None
        self._checked: Checked | None = None
        self._lost: list[Lost] = []
        self._ledger = guest.ledger()
        self._late: list[Written] = []
        self._audit = Audit(guest.ram)
        self._chunks: dict[str, int] = {}
        self._state_bytes: dict[str, int] = {}
        self._estimates = Estimates()
        self._ledgers: list[DeviceLedger] = []
        self._zero_pages = 0
        self._syncs = 0
        self._counted = 0
        self._data = DeviceData(limits.max_device_state, self.narrator.warn)
        self._doing = ""

    # What the user calls.

    def cancel(self) -> bool:
        """End the migration, and let the guest run on here; False when COMMIT is out.

        Either way it is over in two seconds at most: who does not answer in that time is not waited for.
        """
        if self.result is not None:
            return False
        self.guest.calls.hurry()
        if self._engine is not None and not self._engine.cancel():
            self._doubt.shorten()
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
            await self._ledger.end()
            self.guest.calls.calm()
        if self._log is not None:
            if action.outcome is Outcome.IN_DOUBT:
                self._log.close()  # it stays for `resolve`
            else:
                self._log.remove()
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
        engine = self._engine
        try:
            if engine is not None and engine.phase in _HURRIED:
                return await self._hurried(engine, action, self._perform(action, nursery))
            return await self._perform(action, nursery)
        except _Interrupted:
            return do.Failed(trio.current_time(), Reason.CANCELLED, unknown=True)
        except StreamError as error:
            why = await self._peer.why(error)
            return do.Failed(trio.current_time(), why.reason, why.detail, why.errno, why.call)
        except GuestError as error:
            unknown = error.reason in (Reason.DAEMON_SILENT, Reason.OUTAGE_TOO_LONG)
            return do.Failed(
                trio.current_time(), error.reason, error.detail, error.errno, error.call, unknown
            )
        except OSError as error:
            silent = isinstance(error, DaemonSilent)
            return do.Failed(
                trio.current_time(),
                Reason.DAEMON_SILENT if silent else Reason.DEVICE_ERROR,
                f"{in_words(action)}: {error.strerror or error}",
                error.errno,
                FailedCall.of(error, getattr(action, "device", "")),
                silent,
            )

    async def _hurried(self, engine: Engine, action: Action, work: Awaitable[Event]) -> Event:
        """Do something that the user, a limit, or the loss of the peer may end."""
        over_at = engine.over_at + LATE if engine.phase is Phase.PRECOPY else float("inf")
        with trio.CancelScope(deadline=min(self._stopped_until, over_at)) as scope:
            self._hurry, self._doing = scope, ""
            try:
                return await work
            finally:
                self._hurry = None
        if self.cancelling:
            raise _Interrupted
        if self._peer.loss is not None:
            raise self._peer.loss
        doing = self._doing or in_words(action)
        if self._stopped_until < over_at:
            raise GuestError(
                Reason.OUTAGE_TOO_LONG,
                f"the guest has stood still for {round(engine.max_outage, 2):g} s (--max-outage), and this was not over: {doing}",
            )
        raise GuestError(
            Reason.NOT_CONVERGING,
            f"{round(engine.timeout, 2):g} s are over (--timeout), and this was not: {doing}",
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
            case do.AskState(device):
                return do.StateIs(trio.current_time(), await guest.devices[device].get_state())
            case do.ResetDevice(device):
                await guest.devices[device].reset()
                self.narrator.warn(f"{device} had to be reset")
            case do.SendDevice(device, limit, final):
                return await self._send_device(device, limit, final=final)
            case do.PauseCpus():
                guest.cpus.pause()
                self._ledger.paused()
                if self._engine is not None:
                    self._stopped_until = trio.current_time() + self._engine.max_outage
            case do.ResumeCpus():
                guest.cpus.resume()
            case do.WatchCpus():
                if not await guest.cpus.moved():
                    return do.Failed(trio.current_time(), Reason.DEVICE_ERROR, "the CPUs do not move")
            case do.Throttle(share):
                guest.cpus.throttle = share
                self.narrator.say(events.Throttled(share=share))
            case do.Wait(seconds):
                await trio.sleep(seconds)
            case do.SendCpus():
                await self._peer.lanes.barrier()
                await self._peer.send(FrameType.CPUS, Cpus(cpus=[cpu.state for cpu in guest.cpus.cpus]))
            case do.ReadLedger(moment):
                return await self._read_ledger(moment)
            case do.ReadDevice(device):
                ledger = await read_source(
                    guest.devices[device], self._state_bytes.get(device, 0), self._estimates[device]
                )
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
            streams=self._streams,
        )
        await peer.send(FrameType.HELLO, hello)
        await peer.expect(FrameType.WELCOME, patience=patience.answer)
        await peer.send(FrameType.SETUP, self.guest.setup())
        await peer.expect(FrameType.ACCEPTED, patience=patience.answer)
        await peer.join(nursery, self.token, self._streams - 1, patience.answer)

    async def _sync(self, *, final: bool) -> Event:
        await self._ledger.before_sync()
        found = await self.guest.sync(self._data.dry)
        self._ledger.after_sync()
        self._data.says(found.sizes, final=final)
        mark = RoundMark(number=self._syncs, pages=found.pages, final=final)
        self._syncs += 1
        await self._peer.lanes.barrier()
        await self._peer.send(FrameType.ROUND, mark)
        return do.Synced(
            trio.current_time(),
            found.pages,
            found.dirtied,
            found.device_bytes,
            found.largest,
            self._newly_sent(),
        )

    def _newly_sent(self) -> int:
        """Bytes on the wire since it was asked for last: nothing that a limit has to hold for escapes it."""
        before, self._counted = self._counted, self._peer.sent
        return self._counted - before

    async def _send_ram(self, limit: int, *, final: bool) -> Event:
        deadline = float("inf") if final else trio.current_time() + SLICE
        done = await send_pages(
            self.guest.ram,
            [self._peer, *self._peer.lanes.lanes],
            max(1, limit // PAGE) if limit else 0,
            deadline,
        )
        self._zero_pages += done.zero_pages
        return do.RamSent(trio.current_time(), self._newly_sent(), self.guest.pages, done.seconds)

    async def _send_device(self, name: str, limit: int, *, final: bool) -> Event:
        device = self.guest.devices[name]
        index = list(self.guest.devices).index(name)
        sent, dry = 0, False
        while not limit or sent < limit:
            self._doing = f"the state of {name}, {sent} bytes of it so far"
            data = await device.read_state(min(STATE_CHUNK, limit - sent) if limit else STATE_CHUNK)
            if data is None and final:
                raise GuestError(
                    Reason.DEVICE_ERROR, f"{name}: ENOMSG from its data fd in STOP_COPY", errno.ENOMSG
                )
            if data is None or (not data and not final):
                dry = True
                break  # nothing for now; only STOP_COPY has an end
            last = final and not data
            sent += len(data)
            self._data.sends(name, len(data), final=final)
            await self._send_state(index, data, stream.LAST if last else 0)
            if last:
                break
        left = 0
        if not final:
            pending = await device.pending()
            self._estimates.said(name, pending)
            left = self._data.left(name, pending, dry=dry, now=trio.current_time())
        return do.DeviceSent(trio.current_time(), self._newly_sent(), left)

    async def _send_state(self, index: int, data: bytes, flags: int) -> None:
        name = list(self.guest.devices)[index]
        number = self._chunks.get(name, 0)
        self._chunks[name] = number + 1
        self._state_bytes[name] = self._state_bytes.get(name, 0) + len(data)
        self._estimates.came(name, len(data))
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

    async def _ask_again(self, checked: Checked) -> Checked:
        devices = [self.guest.devices[ledger.name] for ledger in self._ledgers]
        told = zip(devices, self._ledgers, checked.verdicts, strict=True)
        return msgspec.structs.replace(checked, verdicts=[await ask_again(*each) for each in told])

    async def _send_sums(self) -> Event:
        if self._verify and self._ledger.not_compared:
            # Without a ledger nobody knows which pages were written: each is summed as it is now.
            for block in self.guest.ram:
                await trio.to_thread.run_sync(block.sums.take, block, [(0, block.npages)])
        await send_sums(self.guest.ram, self._peer)
        ledgers = self._ledgers
        for ledger in ledgers[:-1]:
            await self._peer.send(FrameType.LEDGER, Ledger(devices=[ledger], last=False))
        await self._peer.send(FrameType.LEDGER, Ledger(devices=ledgers[-1:]))
        kind, body = await self._peer.expect(FrameType.CHECKED, FrameType.DIFFER, patience=float("inf"))
        if kind is FrameType.DIFFER:
            await send_page_sums(self.guest.ram, self._peer, body)
            _, body = await self._peer.expect(FrameType.CHECKED, patience=float("inf"))
        checked = stream.decode(body, Checked)
        check_answer(checked, ledgers, self.guest.size // PAGE)
        checked = await self._ask_again(checked)
        self._lost = name_lost_writes(self.guest.ram, checked.mismatches, await self._writers())
        if self._verify or checked.unproven:
            self._checked = checked
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
        # When the user has asked for the end, some of the time is spared to ask on another connection.
        answer = await self._doubt.wait(self._say_commit(), spare=IN_DOUBT / 2)
        if answer is None:
            return do.Failed(trio.current_time(), Reason.PEER_SILENT, "its answer was not waited for")
        kind, body = answer
        if kind is FrameType.STARTED:
            return do.Started(trio.current_time(), early=stream.decode(body, Fate).early)
        why = said(stream.decode(body, Problem))
        late = why.reason is Reason.LATE_WRITE and self._verify
        reason = Reason.LATE_WRITE if late else Reason.PEER_REFUSED
        return do.Refused(trio.current_time(), why.detail, reason, why.errno, why.call)

    async def _say_commit(self) -> tuple[FrameType, bytes]:
        await self._peer.send(FrameType.COMMIT, Handshake(token=self.token))
        return await self._peer.expect(FrameType.STARTED, FrameType.REFUSED, patience=self._patience.commit)

    async def _query(self) -> Event:
        """Ask until somebody knows, or until the time is over."""
        deadline = trio.current_time() + self._patience.resolve
        why = "nobody answered"
        while trio.current_time() < min(deadline, self._doubt.until):
            try:
                asking = query(self._address, self.token, self._patience.resolve)
                answer = await self._doubt.wait(asking, deadline)
            except StreamError as error:
                why = error.detail
                await trio.sleep(0.2)
                continue
            if answer is None:
                break
            standing, detail, early = answer
            if standing is Standing.REFUSED:
                return do.Refused(trio.current_time(), detail)
            return do.Started(trio.current_time(), ended=standing is Standing.ENDED, early=early)
        limit = f"{self._patience.resolve:g} s (--peer-timeout)"
        asked = (
            limit if self._doubt.until == float("inf") else f"{IN_DOUBT:g} s, since the user wants the end"
        )
        detail = f"COMMIT was sent, and then for {asked}: {why}"
        return do.Failed(trio.current_time(), Reason.PEER_LOST, detail)

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
