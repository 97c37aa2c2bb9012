# SPDX-License-Identifier: MIT
"""The source of a pre-copy migration, as a pure state machine: events in, actions out.

It has no I/O, no clock and no randomness, so the same engine runs under trio, in virtual time and from a recorded
log, and Hypothesis can drive it through any order of failures. The algorithm is QEMU's (migration/migration.c
migration_thread(), hw/vfio/migration.c), with three differences that its users asked for elsewhere: the hand-over is
confirmed by the destination, so that both sides never run; the first 100 ms are not blind; and a migration that does
not converge ends with a reason instead of running for ever.

Like the handlers of the core it is written as a generator, here of actions, because the order *is* the algorithm and
a reader should see it in one piece. `Engine.step()` hides the generator. What is a matter of taste (when the guest stops, when to
give up, whether its CPUs are slowed down) is asked of a policy after each round (policies/policy.py), which can break no rule.

Rules that must never break, and that tests/migration/test_engine.py holds against any sequence of events:

* tracking is on, in every container, before the first page is read;
* devices are stopped (P2P first) and the CPUs paused before the final sync, and the final sync is before the last page;
* until COMMIT any failure ends with devices RUNNING, CPUs running at full speed and tracking off on the source;
* a guest that is not the same there is not committed, unless the user wants it to move all the same;
* with a verification, the ledger of writes begins before tracking, and is read after the final sync, before COMMIT and
  after STARTED;
* "the source runs" is said only if each device has answered that it does, and each CPU has moved;
* after COMMIT the source runs again only if the destination has refused; if nobody can tell, nobody guesses.
"""

from collections.abc import Generator
from dataclasses import replace
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar

from vfioemu.migration import actions as do
from vfioemu.migration.actions import Action, Event, Finish, Outcome, Target, TargetKind
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.life import look
from vfioemu.migration.outage import Timeline, default_max_outage
from vfioemu.migration.pace import Pace
from vfioemu.migration.plan import (
    PAGE,
    DevicePlan,
    Limits,
    OnMismatch,
    Plan,
    Reason,
    Round,
    Tracker,
)
from vfioemu.migration.policies.policy import GiveUp, GoOn, MakePolicy, Situation, StopGuest
from vfioemu.migration.policies.precopy_limits import PrecopyLimits
from vfioemu.migration.records import Record
from vfioemu.migration.timeout import default_timeout
from vfioemu.uapi.constants import (
    VFIO_DEVICE_STATE_PRE_COPY,
    VFIO_DEVICE_STATE_PRE_COPY_P2P,
    VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_RUNNING_P2P,
    VFIO_DEVICE_STATE_STOP_COPY,
)

SHORTEST_ROUND: Final = 0.001
"""Seconds: what is over sooner is no round yet. A guest that is nearly idle would have thousands of them."""

T = TypeVar("T")
Flow: TypeAlias = Generator[Action, Event, T]


_ENDED = "the destination was told to start the guest, and has died since"


class Phase(StrEnum):
    """Where a migration is."""

    NEW = "new"
    SETUP = "setup"
    PRECOPY = "precopy"
    STOPPING = "stopping"
    COPY = "stop-copy"
    HANDOVER = "hand-over"
    COMMITTED = "committed"
    ROLLBACK = "rollback"
    ENDED = "ended"


class _Abandoned(Exception):
    def __init__(
        self, reason: Reason, detail: str = "", errno: int | None = None, call: FailedCall | None = None
    ) -> None:
        super().__init__(reason, detail, errno, call)
        self.reason = reason
        self.detail = detail
        self.errno = errno
        self.call = call


class _InDoubt(_Abandoned):
    """COMMIT is out and nobody answers."""


class _Mismatch(_Abandoned):
    """The destination has not got the same guest."""


class Engine:
    """One migration of one guest.

    Args:
        plan: the guest.
        limits: what the user allows.
        policy: is made, and asked after each round: policies/.

    Attributes:
        phase: where it is; for display.
        rounds: every pre-copy round so far; the last one is open.
        pages: dirty pages now.
        ram_bytes: bytes of RAM sent so far, headers included.
        state_bytes: bytes of device state sent so far.
        connected: the destination has accepted the guest.
        throttle: the share of time in which the CPUs are kept from running.
        max_outage: seconds that the guest may stand still before COMMIT; infinite without a limit.
        timeout: seconds that the guest may run since the destination has accepted it; infinite without a limit.
        over_at: when that is over.
    """

    def __init__(self, plan: Plan, limits: Limits, policy: MakePolicy = PrecopyLimits) -> None:
        self.plan = plan
        self.limits = limits
        self.phase = Phase.NEW
        self.rounds: list[Round] = []
        self.pages = 0
        self.ram_bytes = 0
        self.state_bytes = 0
        self.timeline = Timeline()
        self.max_outage = _limit(
            limits.max_outage, default_max_outage(limits.downtime, plan.npages * PAGE, verify=plan.verify)
        )
        self.timeout = _limit(limits.max_seconds, default_timeout(plan.npages * PAGE, limits.bandwidth))
        self.over_at = float("inf")
        self.finish: Finish | None = None
        self._now = 0.0
        self._cancelled = False
        self._flow: Flow[Finish] = self._migrate()
        self.connected = False
        self.throttle = 0.0
        self._policy = policy(limits)
        self._tracking: list[Target] = []
        self._touched: list[DevicePlan] = []
        self._paused = False
        self._found: do.Checked | None = None
        self._noted = False
        self._device_pending: dict[str, int] = {}
        self._pace = Pace(limits, 0.0)
        self._accepted = 0.0

    # What a driver calls.

    def start(self, now: float) -> Action:
        """Begin, and return the first action."""
        self._now = self.timeline.began = now
        self._pace = Pace(self.limits, now)
        return self._advance(None)

    def step(self, event: Event) -> Action:
        """Take the answer to the outstanding action and return the next one; `Finish` is the last."""
        self._now = max(self._now, event.now)
        return self._advance(event)

    def _advance(self, event: Event | None) -> Action:
        try:
            return next(self._flow) if event is None else self._flow.send(event)
        except StopIteration as stop:
            finish: Finish = stop.value
            return finish

    def cancel(self) -> bool:
        """Ask for the end. It takes effect with the next event, which the driver may hurry.

        Returns:
            False when it is too late: COMMIT is out, and only the destination's answer decides.
        """
        if self.phase in (Phase.COMMITTED, Phase.ENDED):
            return False
        self._cancelled = True
        return True

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the last window that told something; 0 as long as nothing was measured."""
        return self._pace.bandwidth

    @property
    def threshold(self) -> float:
        """Bytes that fit into the downtime limit at the measured bandwidth."""
        return self.bandwidth * self.limits.downtime

    @property
    def completed_rounds(self) -> int:
        """Pre-copy rounds that are over, and the open one if anything of it was sent."""
        if not self.rounds:
            return 0
        last = self.rounds[-1]
        return len(self.rounds) - (not last.ram_bytes and not last.state_bytes)

    @property
    def remaining(self) -> int:
        """Bytes that are known to be left without asking anybody."""
        return self.pages * PAGE + sum(self._device_pending.values())

    # The algorithm.

    def _migrate(self) -> Flow[Finish]:
        blockers = self.plan.blockers()
        if blockers:
            return self._end(
                Finish(
                    Outcome.BLOCKED,
                    blockers[0].reason,
                    "; ".join(blocker.detail for blocker in blockers),
                    source_runs=True,
                    blockers=blockers,
                )
            )
        try:
            yield from self._setup()
            yield from self._precopy()
            yield from self._stop()
            yield from self._copy()
            ended = yield from self._hand_over()
        except _Abandoned as why:
            return (yield from self._give_up(why))
        # First tell the destination that we know; it waits for that, and nobody waits for the rest.
        yield from self._try(do.Release())
        if ended:
            return self._end(Finish(Outcome.LOST, Reason.GUEST_ENDED, _ENDED))
        if self.plan.verify:
            for action in do.ReadLedger(do.Moment.STARTED), do.Audit():
                checked = yield action
                if isinstance(checked, do.Checked):
                    self._keep(checked)
        found = self._found
        if found is None:
            return self._end(Finish(Outcome.COMPLETED))
        return self._end(Finish(Outcome.COMPLETED, found.reason, found.detail, mismatches=found.mismatches))

    def _setup(self) -> Flow[None]:
        self.phase = Phase.SETUP
        yield from self._must(do.Connect())
        self.connected = True
        self._accepted = self._now
        self.over_at = self._now + self.timeout
        self._check()
        if self.plan.verify:
            yield from self._must(do.BeginLedger())
        yield from self._must(do.FillBitmaps())
        self.pages = self.plan.npages
        for target in self._targets():
            event = yield do.StartTracking(target)
            if not isinstance(event, do.Failed) or event.unknown:
                self._tracking.append(target)  # what may have been started has to be stopped
            if isinstance(event, do.Failed):
                raise _Abandoned(event.reason, event.detail, event.errno, event.call)
            self._check()
        # The bitmaps are all ones already. This sync empties the logs, so that round 1 does not send again what
        # round 0 is about to send, as QEMU's ram_save_setup() does.
        yield from self._sync(final=False)
        for device in self.plan.devices:
            if device.precopy:
                yield from self._set_state(device, VFIO_DEVICE_STATE_PRE_COPY)
                self._check()

    def _targets(self) -> list[Target]:
        targets = [Target(TargetKind.CPU, "cpus")]
        for container in self.plan.containers:
            if container.tracker is Tracker.DEVICE:
                targets += [Target(TargetKind.DEVICE, device.name) for device in container.devices]
            elif container.tracker is Tracker.CONTAINER:
                targets.append(Target(TargetKind.CONTAINER, container.name))
        return targets

    def _precopy(self) -> Flow[None]:
        self.phase = Phase.PRECOPY
        while True:
            if (yield from self._end_round()):
                return
            sent = 0
            for device in self.plan.devices:
                if device.precopy and self._device_pending.get(device.name, 0):
                    sent += yield from self._send_device(device, self._device_slice, final=False)
            if self.pages:
                sent += yield from self._send_ram(self._pace.budget, final=False)
            wait = min(self._pace.wait(self._now, idle=not sent), max(0.0, self.over_at - self._now))
            if wait:
                yield from self._must(do.Wait(wait))
            self._pace.measure(self._now)

    @property
    def _much_is_left(self) -> bool:
        return self.remaining > 0 and self.remaining >= self.threshold

    @property
    def _device_slice(self) -> int:
        """Bytes that a device may send; if the bandwidth is limited, RAM gets half of them."""
        limit = self.limits.device_slice_bytes
        return min(limit, max(1, self._pace.budget // 2)) if self.limits.bandwidth else limit

    def _end_round(self) -> Flow[bool]:
        """If so little is left, or the time is over, find out what is left, and ask the policy; True: the guest stops now."""
        over = self._now >= self.over_at
        # A window is sent before anybody looks again, as in QEMU: in the middle of it half of the old would be left, and all be new.
        young = self.remaining > 0 and self._now < self.rounds[-1].began + self.limits.window
        if not over and (self._much_is_left or young):
            return False
        if not over:
            for device in self.plan.devices:
                # Who had nothing to send may have something now: PRECOPY_INFO alone does not tell (see `_send_device`).
                if device.precopy and not self._device_pending.get(device.name, 0):
                    yield from self._send_device(device, self._device_slice, final=False)
            if self._much_is_left:
                return False
            early = SHORTEST_ROUND - (self._now - self.rounds[-1].began)
            if early > 0:
                yield from self._must(do.Wait(early))
        left = yield from self._sync(final=False)
        stop = yield from self._decide(left)
        if over and not stop:
            # Whatever the policy would like: this limit is the user's.
            raise _Abandoned(
                Reason.NOT_CONVERGING,
                f"{round(self.timeout, 2):g} s are over (--timeout), and {left} bytes are left",
            )
        return stop

    def _decide(self, left: int) -> Flow[bool]:
        """Ask the policy; True: the guest stops now."""
        decision = self._policy.decide(
            Situation(
                rounds=self.rounds,
                seconds=self._now - self._accepted,
                timeout=self.timeout,
                over=self._now >= self.over_at,
                left=left,
                bandwidth=self.bandwidth,
                threshold=self.threshold,
                throttle=self.throttle,
            )
        )
        match decision:
            case StopGuest():
                return True
            case GiveUp(reason, detail):
                raise _Abandoned(reason, detail)
            case GoOn(throttle):
                if throttle != self.throttle:
                    self.throttle = throttle  # before it is asked for: a rollback takes it away, done or not
                    yield from self._must(do.Throttle(throttle))
                return False

    def _stop(self) -> Flow[None]:
        """QEMU's vm_stop(): CPUs first, then the devices in two passes, children before parents."""
        self.phase = Phase.STOPPING
        self._paused = True
        yield from self._must(do.PauseCpus())
        self.timeline.paused = self._now
        for device in reversed(self.plan.devices):
            if device.p2p:
                state = VFIO_DEVICE_STATE_PRE_COPY_P2P if device.precopy else VFIO_DEVICE_STATE_RUNNING_P2P
                yield from self._set_state(device, state)
        for device in reversed(self.plan.devices):
            yield from self._set_state(device, VFIO_DEVICE_STATE_STOP_COPY)
        self.timeline.mark("stop", self._now)

    def _copy(self) -> Flow[None]:
        self.phase = Phase.COPY
        yield from self._sync(final=True)
        self.timeline.mark("sync", self._now)
        while self.pages:
            yield from self._send_ram(0, final=True)
        self.timeline.mark("ram", self._now)
        for device in self.plan.devices:
            yield from self._send_device(device, 0, final=True)
        yield from self._must(do.SendCpus())
        self.timeline.mark("state", self._now)
        if self.plan.verify:
            for device in self.plan.devices:
                yield from self._must(do.ReadDevice(device.name))
            yield from self._compare(do.ReadLedger(do.Moment.SYNCED))
        # Without a verification as well: it is the integrity of the stream.
        yield from self._compare(do.SendSums())
        self.timeline.mark("verify", self._now)

    def _compare(self, action: Action) -> Flow[None]:
        """Compare something before COMMIT; end the migration here if it differs and the user wants the same guest or none."""
        checked = yield from self._must(action)
        if not isinstance(checked, do.Checked):
            raise TypeError(f"{checked} is no answer to {action}")
        self._keep(checked)
        if checked.mismatches and self.limits.on_mismatch is OnMismatch.ABORT:
            raise _Mismatch(checked.reason, checked.detail)

    def _keep(self, checked: do.Checked) -> None:
        """Keep what a comparison has found; after COMMIT it changes nothing but the exit code."""
        if not checked.mismatches:
            return
        before = self._found
        if before is not None:
            total = before.mismatches + checked.mismatches
            checked = replace(before, mismatches=total, detail=f"{before.detail}; {checked.detail}")
        self._found = checked

    def _hand_over(self) -> Flow[bool]:
        """PREPARE, READY, COMMIT, STARTED. From COMMIT on a cancel changes nothing.

        Returns:
            The destination has died after it was told to start the guest.
        """
        self.phase = Phase.HANDOVER
        yield from self._must(do.Prepare())
        self.timeline.mark("prepare", self._now)
        if self.plan.verify:
            yield from self._compare(do.ReadLedger(do.Moment.COMMIT))
            self.timeline.mark("ledger", self._now)
        # Before it is said: who finds no COMMIT in the journal of a dead source knows that nobody was told to start.
        self._noted = True  # a failed write may have got half way
        yield from self._must(do.Note(Record.COMMIT))
        self.timeline.mark("note", self._now)
        self.phase = Phase.COMMITTED
        answer = yield do.Commit()
        if isinstance(answer, do.Failed):
            answer = yield do.Query()
        if isinstance(answer, do.Started):
            self.timeline.started = self._now
            yield from self._try(do.Note(Record.RELEASED))
            early = f"{answer.early} writes at the destination came after the comparison, before its start"
            self._keep(do.Checked(answer.now, answer.early, Reason.LATE_WRITE, early))
            return answer.ended
        if isinstance(answer, do.Refused):
            if answer.reason is Reason.LATE_WRITE:
                self._keep(do.Checked(answer.now, 1, answer.reason, answer.detail))
                raise _Mismatch(answer.reason, answer.detail)
            raise _Abandoned(Reason.PEER_REFUSED, answer.detail, answer.errno, answer.call)
        raise _InDoubt(Reason.PEER_LOST, answer.detail if isinstance(answer, do.Failed) else "no answer")

    def _give_up(self, why: _Abandoned) -> Flow[Finish]:
        """Bring the guest back to life on the source, whatever state it was left in."""
        if isinstance(why, _InDoubt):
            return self._end(Finish(Outcome.IN_DOUBT, why.reason, why.detail, errno=why.errno))
        self.phase = Phase.ROLLBACK
        lost, why_lost = yield from self._resume()
        if self.connected:
            yield from self._try(do.Abort(why.reason, why.detail))
        for target in reversed(self._tracking):
            yield from self._try(do.StopTracking(target))
        if self._noted:
            yield from self._try(do.Note(Record.RESUMED))
        outcome = Outcome.CANCELLED if why.reason is Reason.CANCELLED else Outcome.FAILED
        if isinstance(why, _Mismatch):
            outcome = Outcome.MISMATCH
        return self._end(
            Finish(
                outcome,
                why.reason,
                why.detail,
                source_runs=not why_lost,
                mismatches=0 if self._found is None else self._found.mismatches,
                lost_devices=tuple(lost),
                why_lost=why_lost,
                errno=why.errno,
                call=why.call,
            )
        )

    def _resume(self) -> Flow[tuple[list[str], str]]:
        """Devices to RUNNING in two passes, parents first, then the CPUs (QEMU's vm_start()); then look whether they run.

        Returns:
            The devices that neither the state machine nor a reset brought back, or that do not say that they run, and
            why; the text is empty only if all of the guest runs.
        """
        touched = [device for device in self.plan.devices if device in self._touched]
        failed = set()
        for device in touched:
            if (
                device.p2p
                and self._paused
                and not (yield from self._try_state(device, VFIO_DEVICE_STATE_RUNNING_P2P))
            ):
                failed.add(device)
        for device in touched:
            if device not in failed and (yield from self._try_state(device, VFIO_DEVICE_STATE_RUNNING)):
                continue
            yield from self._try(do.ResetDevice(device.name))  # a reset device is in RUNNING
        if self._paused:
            yield from self._try(do.ResumeCpus())
            self._paused = False
        if self.throttle:
            yield from self._try(do.Throttle(0.0))
            self.throttle = 0.0
        self.timeline.resumed = self._now
        return (yield from look(self.plan.devices))

    # Steps.

    def _must(self, action: Action) -> Flow[Event]:
        """Perform an action that a failure or a cancel ends the migration at."""
        event = yield action
        if isinstance(event, do.Failed):
            raise _Abandoned(event.reason, event.detail, event.errno, event.call)
        if not isinstance(action, do.Connect | do.StartTracking | do.SetState):
            self._check()  # those first write down what has to be undone
        return event

    def _try(self, action: Action) -> Flow[bool]:
        event = yield action
        return not isinstance(event, do.Failed)

    def _try_state(self, device: DevicePlan, state: int) -> Flow[bool]:
        return (yield from self._try(do.SetState(device.name, state)))

    def _check(self) -> None:
        if self._cancelled:
            raise _Abandoned(Reason.CANCELLED)
        paused = self.timeline.paused
        if paused is not None and self._now - paused > self.max_outage:
            raise _Abandoned(
                Reason.OUTAGE_TOO_LONG,
                f"the guest has stood still for {self._now - paused:.3g} s, and may for {round(self.max_outage, 2):g} s (--max-outage)",
            )

    def _set_state(self, device: DevicePlan, state: int) -> Flow[None]:
        if device not in self._touched:  # a failed transition may have got half way
            self._touched.append(device)
        yield from self._must(do.SetState(device.name, state))
        if state == VFIO_DEVICE_STATE_PRE_COPY:
            self._device_pending[device.name] = 1  # something to read; the first answer tells how much
        self._check()

    def _sync(self, *, final: bool) -> Flow[int]:
        synced = yield from self._must(do.Sync(final))
        if not isinstance(synced, do.Synced):
            raise TypeError(f"{synced} is no answer to Sync")
        self.pages = synced.pages
        self._pace.count(synced.sent, 0.0)
        if not final:
            self.rounds.append(
                Round(
                    number=len(self.rounds),
                    pages=synced.pages,
                    dirtied=synced.dirtied,
                    device_bytes=synced.device_bytes,
                    largest=synced.largest,
                    began=self._now,
                )
            )
        return synced.pages * PAGE + synced.device_bytes

    def _send_ram(self, limit: int, *, final: bool) -> Flow[int]:
        began = self._now
        answer = yield from self._must(do.SendRam(limit, final))
        if not isinstance(answer, do.RamSent):
            raise TypeError(f"{answer} is no answer to SendRam")
        self.pages = answer.pages
        seconds = self._now - began if answer.seconds is None else answer.seconds
        self._account(seconds, ram=answer.sent, final=final)
        return answer.sent

    def _send_device(self, device: DevicePlan, limit: int, *, final: bool) -> Flow[int]:
        began = self._now
        answer = yield from self._must(do.SendDevice(device.name, limit, final))
        if not isinstance(answer, do.DeviceSent):
            raise TypeError(f"{answer} is no answer to SendDevice")
        self._device_pending[device.name] = answer.pending
        self._account(self._now - began, state=answer.sent, final=final)
        return answer.sent

    def _account(self, seconds: float, *, ram: int = 0, state: int = 0, final: bool) -> None:
        self._pace.count(ram + state, seconds)
        self.ram_bytes += ram
        self.state_bytes += state
        if final:
            return
        last = self.rounds[-1]
        self.rounds[-1] = replace(
            last,
            ram_bytes=last.ram_bytes + ram,
            state_bytes=last.state_bytes + state,
            seconds=self._now - last.began,
            bandwidth=self.bandwidth,
        )

    def _end(self, finish: Finish) -> Finish:
        self.phase = Phase.ENDED
        self.timeline.ended = self._now
        self.finish = finish
        return finish


def _limit(said: float | None, default: float) -> float:
    """Return a limit in seconds: that of the user, for whom 0 is none, or the default."""
    return default if said is None else said or float("inf")
