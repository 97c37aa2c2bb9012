# SPDX-License-Identifier: MIT
"""The engine in virtual time: no memory, no sockets, no waiting; a migration of hours takes milliseconds.

RAM is only counted here. A guest writes uniformly over a working set, so the expected number of distinct pages after
`n` writes is W (1 - exp(-n / W)), and what a sync adds to the pages that are still dirty follows from that. With
`overlap=False` each write goes to a page that is still clean, the model of the closed forms (Clark et al.).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vfioemu.migration import actions as do
from vfioemu.migration.actions import Action, Event, Finish
from vfioemu.migration.engine import Engine
from vfioemu.migration.link import Link
from vfioemu.migration.plan import PAGE
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_RUNNING


@dataclass(slots=True, kw_only=True)
class VirtualGuest:
    """A guest as rates and counts, and its link.

    Attributes:
        bandwidth: bytes per second, if there is no `link`.
        link: what everything goes over, in the running and in the stopped phase.
        write_rate: pages written per second while the CPUs run.
        working_set: pages over which the writes spread.
        always_dirty: pages that every sync reports, whatever was written (a type 2 device).
        device_bytes: device state that only the stopped phase carries.
    """

    bandwidth: float = 0.0
    link: Link | None = None
    write_rate: float = 0.0
    working_set: int = 0
    always_dirty: int = 0
    device_bytes: int = 0
    overlap: bool = True
    now: float = 0.0
    dirty: float = 0.0
    logged: float = 0.0
    sent: int = 0
    running: bool = True
    throttle: float = 0.0
    history: list[Action] = field(default_factory=list)

    def pass_time(self, seconds: float) -> None:
        """Let the guest run."""
        self.now += seconds
        if not self.running or not self.working_set:
            return
        clean = self.working_set - self.logged
        writes = self.write_rate * (1 - self.throttle) * seconds
        if self.overlap:
            self.logged += clean * -math.expm1(-writes / self.working_set)
        else:
            self.logged += min(clean, writes)

    def carry(self, size: float) -> None:
        """Let so many bytes go to the destination."""
        if self.link is None:
            self.pass_time(size / self.bandwidth)
        else:
            self.pass_time(self.link.carry(self.now, math.ceil(size)) - self.now)

    def ask(self, questions: int) -> None:
        """Let the destination answer, one question after the other."""
        if self.link is not None:
            for _ in range(questions):
                self.pass_time(self.link.answer(self.now) - self.now)

    def sync(self) -> int:
        """Merge the log into the dirty pages; how many that added."""
        hit = self.dirty / self.working_set if self.working_set and self.overlap else 0.0
        added = self.logged * max(0.0, 1.0 - hit)
        added = max(added, self.always_dirty - self.dirty)
        self.dirty += added
        self.logged = 0.0
        return round(added)


def run(
    engine: Engine, guest: VirtualGuest, interfere: Callable[[Action], Event | None] | None = None
) -> Finish:
    """Migrate.

    Args:
        engine: a new engine.
        guest: what it migrates.
        interfere: called with each action; an event that it returns is what the engine gets instead of success.
    """
    action = engine.start(guest.now)
    while not isinstance(action, Finish):
        guest.history.append(action)
        event = interfere(action) if interfere is not None else None
        action = engine.step(event if event is not None else _perform(guest, engine, action))
    guest.history.append(action)
    return action


def replay(engine: Engine, began: float, history: Sequence[Event]) -> list[Action]:
    """Feed a new engine with recorded events (`Result.history`): the actions that it asks for, `Finish` at the end."""
    return [engine.start(began), *(engine.step(event) for event in history)]


_QUESTIONS: Final[Mapping[type, int]] = {
    do.Connect: 3,  # the greeting, WELCOME, ACCEPTED
    do.SendSums: 1,
    do.Prepare: 1,
    do.Commit: 1,
    do.Query: 1,
}


def _perform(guest: VirtualGuest, engine: Engine, action: Action) -> Event:
    guest.ask(_QUESTIONS.get(type(action), 0))
    match action:
        case do.FillBitmaps():
            guest.dirty = engine.plan.npages
        case do.PauseCpus():
            guest.running = False
        case do.ResumeCpus():
            guest.running = True
        case do.Throttle(share):
            guest.throttle = share
        case do.Wait(seconds):
            guest.pass_time(seconds)
        case do.Sync():
            added = guest.sync()
            return do.Synced(guest.now, math.ceil(guest.dirty - 1e-9), added, guest.device_bytes)
        case do.SendRam(limit):
            pages = min(guest.dirty, limit / PAGE) if limit else guest.dirty
            guest.dirty -= pages
            guest.carry(pages * PAGE)
            sent = math.ceil(pages * PAGE)
            guest.sent += sent
            return do.RamSent(guest.now, sent, math.ceil(guest.dirty - 1e-9))
        case do.SendDevice(final=final):
            sent = guest.device_bytes if final else 0
            guest.carry(sent)
            guest.sent += sent
            return do.DeviceSent(guest.now, sent, 0)
        case do.AskState():
            return do.StateIs(guest.now, VFIO_DEVICE_STATE_RUNNING)
        case do.SendSums() | do.ReadLedger() | do.Audit():
            return do.Checked(guest.now)
        case do.Commit() | do.Query():
            return do.Started(guest.now)
        case (
            do.Connect()
            | do.BeginLedger()
            | do.StartTracking()
            | do.StopTracking()
            | do.SetState()
            | do.ResetDevice()
            | do.WatchCpus()
            | do.SendCpus()
            | do.ReadDevice()
            | do.Prepare()
            | do.Note()
            | do.Abort()
            | do.Release()
        ):
            pass  # nothing that takes time, or that a count can tell
        case do.Finish():
            raise AssertionError("nothing is to be done for it")
    return do.Done(guest.now)
