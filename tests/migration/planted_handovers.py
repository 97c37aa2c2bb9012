# SPDX-License-Identifier: MIT
"""Hand-overs with a mistake each: the explorer has to find every one of them."""

from contextlib import suppress
from dataclasses import dataclass

from vfioemu.migration import actions as do
from vfioemu.migration.chaos.disk import View
from vfioemu.migration.chaos.explorer import Bounds
from vfioemu.migration.chaos.world import Parts
from vfioemu.migration.engine import Engine
from vfioemu.migration.handover import ASKED, Handover, Refusal, Start
from vfioemu.migration.journal import Journal, Role, Standing, outcome
from vfioemu.migration.plan import Reason
from vfioemu.migration.records import DamagedError, Record


class ImpatientEngine(Engine):
    """Takes silence after COMMIT for a refusal, as QEMU without a return path does."""

    def step(self, event):
        action = super().step(event)
        if isinstance(action, do.Query):
            return super().step(do.Refused(event.now, "nobody answered"))
        return action


class TrustingEngine(Engine):
    """Gives the guest up as soon as COMMIT is out; nobody has to say STARTED."""

    def step(self, event):
        action = super().step(event)
        if isinstance(action, do.Query):
            return super().step(do.Started(event.now))
        return action


class ForgetfulEngine(Engine):
    """Says COMMIT and writes nothing down."""

    def step(self, event):
        action = super().step(event)
        if isinstance(action, do.Note) and action.record is Record.COMMIT:
            return super().step(do.Done(event.now))
        return action


class RevivingEngine(Engine):
    """Runs the guest on that has died at the destination."""

    def step(self, event):
        if isinstance(event, do.Started) and event.ended:
            event = do.Refused(event.now, "it is dead there")
        return super().step(event)


class DoubtfulEngine(Engine):
    """Stays stopped when the destination has refused."""

    def step(self, event):
        if isinstance(event, do.Refused):
            event = do.Failed(event.now, Reason.PEER_LOST)
        return super().step(event)


class PoliteHandover(Handover):
    """Says REFUSED when it is asked before COMMIT, and starts all the same when COMMIT comes."""

    def query(self, token):
        if self.standing(token) in (Standing.LOADING, Standing.READY):
            return Standing.REFUSED
        return super().query(token)


class LateHandover(Handover):
    """Writes STARTED when the guest runs, not before."""

    def take_over(self, token):
        if self.standing(token) is not Standing.READY:
            return Refusal(Reason.PEER_REFUSED, ASKED)
        self._standing[token] = Standing.STARTING
        failure = yield Start()
        if failure is not None:
            self._refuse(token, failure.detail)
            return failure
        with suppress(OSError):
            self._logs[token].write(Record.STARTED)
        self._standing[token] = Standing.STARTED
        return None


class CarelessHandover(Handover):
    """Starts the guest though STARTED could not be written."""

    def take_over(self, token):
        if token in self._logs:
            log = self._logs[token]
            write = log.write

            def careless(record, **facts):
                with suppress(OSError):
                    write(record, **facts)

            log.write = careless  # type: ignore[method-assign]
        return (yield from super().take_over(token))


class UnwrittenRefusal(Handover):
    """Refuses a guest that did not start, and writes nothing of it down."""

    def _refuse(self, token, why):
        self._standing[token] = Standing.REFUSED
        self._logs.pop(token).close()


class OptimisticJournal(Journal):
    """Takes READY for good enough: a dead destination that was ready has started the guest."""

    def settle(self, token):
        try:
            log = self.take(Role.DESTINATION, token)
        except (OSError, DamagedError):
            return Standing.UNKNOWN
        standing = outcome(log.records)
        log.close()
        return Standing.ENDED if Record.READY in log.records else standing


class AmnesiacJournal(Journal):
    """Refuses whatever a dead destination had: its memory is gone, is it not."""

    def settle(self, token):
        standing = super().settle(token)
        return Standing.REFUSED if standing is Standing.ENDED else standing


class UnlockedJournal(Journal):
    """Settles also what a living process has, as if no lock could tell."""

    def take(self, role, token):
        assert isinstance(self._files, View)
        content = self._files._disk.files.get(f"{token}.{role}")
        owner = content.owner if content is not None else ""
        if content is not None and role is Role.DESTINATION:
            content.owner = ""
        try:
            return super().take(role, token)
        finally:
            if content is not None and owner:
                content.owner = owner


@dataclass
class Planted:
    """A mistake, a word of the rule that it breaks, and how much has to go wrong for that."""

    parts: Parts
    breaks: str
    bounds: Bounds


def planted(breaks, *, deaths=0, errors=0, **parts):
    return Planted(Parts(**parts), breaks, Bounds(deaths=deaths, errors=errors))


MISTAKES = {
    "the source resumes when nobody answers COMMIT": planted("both sides", engine=ImpatientEngine),
    "the source does not wait for STARTED": planted("never ran there", engine=TrustingEngine),
    "the destination starts at PREPARE": planted("both sides", starts_on_prepare=True),
    "the source does not take REFUSED for an answer": planted("nobody will ever", engine=DoubtfulEngine),
    "a refusal does not bind": planted("STARTED and REFUSED", handover=PoliteHandover),
    "COMMIT is not written down": planted("that the guest never ran", deaths=1, engine=ForgetfulEngine),
    "the source revives what has died there": planted("has run at the", deaths=1, engine=RevivingEngine),
    "STARTED is written after the start": planted(
        "that the guest never ran", deaths=1, handover=LateHandover
    ),
    "STARTED need not be written": planted(
        "that the guest never ran", deaths=1, errors=1, handover=CarelessHandover
    ),
    "a refusal is not durable": planted("STARTED and REFUSED", deaths=1, handover=UnwrittenRefusal),
    "READY is taken for STARTED": planted("STARTED and REFUSED", deaths=1, journal=OptimisticJournal),
    "STARTED is taken for READY": planted("that the guest never ran", deaths=1, journal=AmnesiacJournal),
    "a living process's log is settled": planted(
        "that the guest never ran", deaths=1, journal=UnlockedJournal
    ),
    "a record is written and not synced": planted("that the guest never ran", deaths=1, synced=False),
}
