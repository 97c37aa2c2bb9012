# SPDX-License-Identifier: MIT
"""Turns what the drivers do into the events of events.py."""

from collections.abc import Callable, Sequence
from enum import Enum
from importlib.metadata import version
from typing import Any, Final, TypeVar, cast

import msgspec
import trio

from vfioemu.migration import actions as do
from vfioemu.migration import events
from vfioemu.migration.actions import Action, Finish, Outcome
from vfioemu.migration.engine import Engine, Phase
from vfioemu.migration.guest import Guest
from vfioemu.migration.ledger import Reading
from vfioemu.migration.messages import Checked
from vfioemu.migration.plan import Limits, Plan
from vfioemu.migration.stream import MAX_DETAIL
from vfioemu.migration.verify.pages import Lost
from vfioemu.printable import printable
from vfioemu.uapi import constants as u
from vfioemu.uapi.flags import state_name

PROGRESS: Final = 0.1
"""Seconds between two progress events."""

_FLAGS: Final = {
    u.VFIO_MIGRATION_STOP_COPY: "STOP_COPY",
    u.VFIO_MIGRATION_P2P: "P2P",
    u.VFIO_MIGRATION_PRE_COPY: "PRE_COPY",
}


class Narrator:
    """Tells what happens, each event with its time and number."""

    def __init__(self, tell: Callable[[events.Told], None], side: events.Side) -> None:
        self._tell = tell
        self._side = side
        self._began = trio.current_time()
        self._seq = 0
        self._phase: Phase | None = None
        self._rounds = 0
        self._last_progress = float("-inf")
        self._owner: events.Side | None = None

    def say(self, event: events.Told) -> None:
        """Tell one event."""
        event = _clean(event)
        now = trio.current_time() - self._began
        self._tell(msgspec.structs.replace(event, t=round(now, 6), seq=self._seq, side=self._side))
        self._seq += 1

    def warn(self, detail: str) -> None:
        """Tell something that the user should know."""
        self.say(events.Warned(detail=detail))

    def device(self, name: str, state: int) -> None:
        """Tell that a device has changed its state."""
        self.say(events.Device(device=name, state=state_name(state)))

    def owner(self, side: events.Side) -> None:
        """Tell that somebody runs the guest, if that is news."""
        if side != self._owner:
            self._owner = side
            self.say(events.Owner(owner=side))

    def hello(self, guest: Guest, plan: Plan, uri: str, limits: Limits) -> None:
        """Tell that the migration begins."""
        devices = [
            events.GuestDevice(
                name=device.name,
                container=container.name,
                tracker=container.tracker,
                migration=[name for flag, name in _FLAGS.items() if device.migration & flag],
            )
            for container in plan.containers
            for device in container.devices
        ]
        self.say(
            events.Hello(
                version=version("vfioemu"),
                guest=guest.name,
                uri=uri,
                ram_bytes=guest.size,
                cpus=len(guest.cpus.cpus),
                devices=devices,
                verify=plan.verify,
                bandwidth=limits.bandwidth,
                downtime=limits.downtime,
            )
        )
        self.owner("source")

    def answered(self, engine: Engine, action: Action, event: do.Event) -> None:
        """Tell what follows from the answer to an action; the engine does not know it yet."""
        match action, event:
            case do.Sync(final), do.Synced(_, pages, dirtied, device_bytes):
                if not final and engine.rounds:
                    self._round(engine)
                self.say(events.Synced(pages=pages, dirtied=dirtied, device_bytes=device_bytes, final=final))
            case do.PauseCpus(), do.Done():
                self._owner = None
            case do.ResumeCpus(), do.Done():
                self.owner("source")
            case ((do.Commit() | do.Query()), do.Started(ended=False)):
                self.owner("destination")
            case do.StopTracking(), do.Failed(detail=detail):
                self.warn(detail)
            case do.ResetDevice(device), do.Failed(detail=detail):
                self.warn(f"{device} is lost: {detail}")
            case _:
                pass

    def stepped(self, engine: Engine, cpu_writes: int, sent: int) -> None:
        """Tell what has changed in the engine, which has taken an event."""
        if engine.phase is not self._phase:
            if self._phase is Phase.PRECOPY:
                self._round(engine)
            self._phase = engine.phase
            self.say(events.Phase(phase=engine.phase))
        now = trio.current_time()
        if engine.phase is Phase.PRECOPY and now >= self._last_progress + PROGRESS:
            self._last_progress = now
            self.say(
                events.Progress(
                    number=engine.rounds[-1].number,
                    remaining=engine.remaining,
                    sent=sent,
                    bandwidth=engine.bandwidth,
                    threshold=engine.threshold,
                    cpu_writes=cpu_writes,
                )
            )

    def _round(self, engine: Engine) -> None:
        last = engine.rounds[-1]
        if last.number < self._rounds or not (last.ram_bytes or last.state_bytes):
            return
        self._rounds = last.number + 1
        self.say(
            events.Round(
                number=last.number,
                pages=last.pages,
                dirtied=last.dirtied,
                ram_bytes=last.ram_bytes,
                device_bytes=last.state_bytes,
                seconds=last.seconds,
                bandwidth=engine.bandwidth,
                remaining=engine.remaining,
                threshold=engine.threshold,
            )
        )

    def verified(self, checked: Checked, lost: Sequence[Lost]) -> None:
        """Tell what the comparison has found."""
        for write in lost:
            self.say(
                events.LostWrite(
                    origin=write.origin,
                    write=write.seq,
                    iova=write.iova,
                    block=write.block,
                    page=write.page,
                    held=write.held,
                )
            )
        self.say(
            events.Verified(
                pages=checked.pages,
                mismatched_pages=checked.mismatched_pages,
                devices=[
                    events.ComparedDevice(
                        device=verdict.name,
                        result=verdict.result,
                        detail=verdict.detail,
                        parts=[
                            events.ComparedPart(what=part.what, result=part.result, detail=part.detail)
                            for part in verdict.parts
                        ],
                    )
                    for verdict in checked.verdicts
                ],
                lost_writes=len(lost),
                seconds=checked.seconds,
                early=checked.early,
                early_writes=list(checked.early_writes),
                ledger=checked.ledger,
            )
        )

    def ledger(self, moment: str, reading: Reading, not_compared: str) -> None:
        """Tell what a reading of the ledger has found."""
        for write in reading.late:
            self.say(
                events.LateWrite(
                    moment=moment,
                    origin=write.origin,
                    write=write.seq,
                    iova=write.iova,
                    block=write.block,
                    page=write.page,
                    npages=write.npages,
                    after=write.after,
                )
            )
        resummed = sum(length for runs in reading.pages for _, length in runs)
        self.say(
            events.LedgerRead(moment=moment, late=reading.count, resummed=resummed, not_compared=not_compared)
        )

    def end(self, finish: Finish, code: int, engine: Engine, zero_pages: int) -> None:
        """Tell how the migration has ended."""
        outage = engine.timeline.outage
        for blocker in finish.blockers:
            self.say(events.Blocked(reason=blocker.reason, detail=blocker.detail))
        self.say(
            events.End(
                code=code,
                outcome=finish.outcome,
                reason=finish.reason,
                detail=finish.detail,
                **events.failure(finish.errno, finish.call),
                rounds=engine.completed_rounds,
                ram_bytes=engine.ram_bytes,
                zero_pages=zero_pages,
                device_bytes=engine.state_bytes,
                seconds=engine.timeline.ended - engine.timeline.began,
                outage=outage,
                outage_parts=engine.timeline.parts,
                downtime=engine.limits.downtime,
                above_limit=None if outage is None else outage > engine.limits.downtime,
                source_runs=finish.source_runs,
                runs=_who_runs(finish),
                lost_devices=list(finish.lost_devices),
                why_lost=finish.why_lost,
            )
        )


def _who_runs(finish: Finish) -> events.Runs:
    if finish.outcome is Outcome.COMPLETED:
        return "destination"
    if finish.outcome is Outcome.IN_DOUBT:
        return "unknown"
    return "source" if finish.source_runs else "nobody"


T = TypeVar("T")


def _clean(value: T) -> T:
    """Make all text in an event printable: some of it comes from the peer, and ends on a terminal or in a log."""
    cleaned: Any = value
    if isinstance(value, str) and not isinstance(value, Enum):
        cleaned = printable(value, 2 * MAX_DETAIL)
    elif isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        cleaned = msgspec.structs.replace(value, **{name: _clean(field) for name, field in fields.items()})
    elif isinstance(value, dict):
        cleaned = {_clean(key): _clean(item) for key, item in value.items()}
    elif isinstance(value, list):
        cleaned = [_clean(item) for item in value]
    return cast("T", cleaned)
