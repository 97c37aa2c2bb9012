# SPDX-License-Identifier: MIT
"""Both sides of one hand-over, their journals, and the network between them: what the explorer explores.

The source is the shipped `Engine`, the destination the shipped `Handover`; both write the shipped `Journal`, and what is in doubt is
settled by the shipped `resolve`. What is made up here is what lies between them: who performs an action, and how messages travel.
That is as little as can be, and kinder to nobody than a real network: each message may be late, until after its sender
has died, or lost; each side may give up at any moment, as if its patience had ended; each may die, also in the middle of a write.
"""

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, Final

from vfioemu.migration import actions as do
from vfioemu.migration.actions import Action, Event, Finish, Outcome
from vfioemu.migration.chaos.disk import Death, Disk, Fault
from vfioemu.migration.chaos.snapshot import of_disk, of_engine, of_handover
from vfioemu.migration.engine import Engine
from vfioemu.migration.handover import Handover, Refusal
from vfioemu.migration.journal import Fate, Journal, Log, Role, Standing
from vfioemu.migration.plan import Block, Limits, Plan, Reason
from vfioemu.migration.records import Record
from vfioemu.migration.resolve import resolve
from vfioemu.migration.stream import StreamError

TOKEN: Final = "0" * 32
MOST_QUESTIONS: Final = 2
"""Questions that are on their way at once."""
_PLAN: Final = Plan(blocks=(Block(name="ram", npages=1),), containers=())


@dataclass(frozen=True, slots=True)
class Parts:
    """What is explored: the shipped code, or one with a mistake.

    Attributes:
        shared: both sides have the same state directory.
        synced: a write survives a crash of the machine when it returns.
        starts_on_prepare: the destination does not wait for COMMIT.
    """

    engine: type[Engine] = Engine
    handover: type[Handover] = Handover
    journal: type[Journal] = Journal
    shared: bool = True
    synced: bool = True
    starts_on_prepare: bool = False


@dataclass(slots=True)
class Question:
    """A QUERY on a connection of its own, or its answer.

    Attributes:
        asker: "source" or "resolver"; a number tells one life of it from another.
        answer: None on its way to the destination.
    """

    asker: str
    answer: Standing | None = None


@dataclass(slots=True)
class Seen:
    """What can be seen of a world from outside, and may never be undone.

    Attributes:
        ran_there: the guest has been started at the destination, if only for a moment.
        faults: deaths and failed writes.
        gave_up: the source stopped asking.
    """

    ran_there: bool = False
    answers: set[Standing] = field(default_factory=set)
    fates: set[Fate] = field(default_factory=set)
    deaths: dict[str, int] = field(default_factory=lambda: {"source": 0, "destination": 0, "resolver": 0})
    errors: int = 0
    gave_up: bool = False

    @property
    def clean(self) -> bool:
        """Nobody has died, no write has failed, and nobody lost his patience with an answer that matters."""
        return not (any(self.deaths.values()) or self.errors or self.gave_up)


class World:
    """One world, which is changed by `make`; `moves` says what may come next.

    Attributes:
        runs_here: the source's CPUs run.
        runs_there: the destination's do, or may.
        seen: what cannot be undone.
        finish: the engine's last word.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.runs_here = True
        self.runs_there = False
        self.seen = Seen()
        self.finish: Finish | None = None
        ours = Disk()
        self._disks = {"source": ours, "destination": ours if parts.shared else Disk()}
        self._disks["resolver"] = ours
        for disk in self._disks.values():
            disk.synced = parts.synced
        self._to_there: list[str] = []
        self._to_here: list[str] = []
        self._open_here = self._open_there = True
        self._questions: list[Question] = []
        self._engine: Engine | None = parts.engine(_PLAN, Limits())
        self._at: Action | None = None
        self._cancelled = False
        self._log: Log | None = self._journal("source").begin(Role.SOURCE, TOKEN, uri="there", guest="g")
        self._handover: Handover | None = parts.handover(self._journal("destination"))
        self._handover.accept(TOKEN)
        self._stage = "loading"
        self._steps: Generator[Any, Refusal | None, Refusal | None] | None = None
        self._resolver: Coroutine[Any, Any, list[Fate]] | None = None
        self._go_on(self._engine.start(0.0))

    # What may happen.

    def moves(self) -> dict[str, Callable[[], None]]:
        """Return everything that may come next, but for deaths and failed writes."""
        found: dict[str, Callable[[], None]] = {}
        self._moves_of_source(found)
        self._moves_of_destination(found)
        for index, question in enumerate(self._questions):
            found[f"question {index} of the {question.asker} is lost"] = lambda i=index: self._lose(i)  # type: ignore[misc]
            if question.answer is not None:
                found[f"the {question.asker} hears {question.answer}"] = lambda i=index: self._hear(i)  # type: ignore[misc]
            elif self._handover is not None and self._stage != "starting":
                found[f"a question of the {question.asker} arrives"] = lambda i=index: self._asked(i)  # type: ignore[misc]
        if self._resolver is not None:
            if self._may_ask("resolver"):
                found["the resolver asks"] = lambda: self._questions.append(Question("resolver"))
            found["the resolver gives up"] = self._resolver_gives_up
        elif self._engine is None:
            found["somebody resolves"] = self._start_resolver
        return found

    def _moves_of_source(self, found: dict[str, Callable[[], None]]) -> None:
        if self._engine is None or self.finish is not None:
            return
        if isinstance(self._at, do.Query):
            if self._may_ask("source"):
                found["the source asks"] = lambda: self._questions.append(Question("source"))
            found["the source stops asking"] = self._stop_asking
            return
        if self._to_here:
            found[f"{self._to_here[0]} reaches the source"] = self._deliver_here
        found["the source loses the connection"] = lambda: self._event(do.Failed(0.0, Reason.PEER_LOST))
        if not self._cancelled:
            found["the user cancels"] = self._cancel

    def _moves_of_destination(self, found: dict[str, Callable[[], None]]) -> None:
        if self._handover is None:
            found["the destination is started again"] = self._restart
            return
        if self._stage == "starting":
            found["the guest starts"] = lambda: self._started(None)
            found["the guest does not start"] = lambda: self._started(
                Refusal(Reason.DEVICE_ERROR, "it does not start")
            )
        elif self._open_there:
            if self._to_there:
                found[f"{self._to_there[0]} reaches the destination"] = self._deliver_there
            if self._stage != "over":
                found["the destination loses the connection"] = self._lose_there

    def alive(self, process: str) -> bool:
        """Return whether a process lives, and still has something to do."""
        return {
            "source": self._engine is not None and self.finish is None,
            "destination": self._handover is not None,
            "resolver": self._resolver is not None,
        }[process]

    def make(self, move: str, fault: tuple[int, Fault] | None = None) -> int:
        """Make a move.

        Args:
            move: a key of `moves`, or "the source dies" and its kin.
            fault: (n, what): happens at the n-th write in it.

        Returns:
            How many writes there were.
        """
        if move.endswith(" dies"):
            self._die(move.split()[1])
            return 0
        process = self._whose(move)
        disk = self._disks[process]
        disk.writes, disk.fault = 0, fault
        try:
            self.moves()[move]()
        except Death:
            self._die(process)
        if fault is not None and fault[1].endswith("error"):
            self.seen.errors += 1
        return disk.writes

    def _whose(self, move: str) -> str:
        """Whose writes may fail in a move."""
        if "reaches the source" in move or move.startswith(("the source", "the user")):
            return "source"
        if "resolve" in move and "arrives" not in move:
            return "resolver"
        return "source" if move.startswith("the source hears") else "destination"

    # The source.

    def _event(self, event: Event) -> None:
        assert self._engine is not None
        self._go_on(self._engine.step(event))

    def _go_on(self, action: Action) -> None:
        """Perform what nobody else has a part in, up to where the source waits."""
        assert self._engine is not None
        while True:
            self._at = action
            if isinstance(action, do.Prepare | do.Commit):
                self._say_there("PREPARE" if isinstance(action, do.Prepare) else "COMMIT")
                return
            if isinstance(action, do.Query):
                self._open_here = False
                return
            if isinstance(action, Finish):
                self._end(action)
                return
            action = self._engine.step(self._perform(action))

    def _perform(self, action: Action) -> Event:
        match action:
            case do.PauseCpus():
                self.runs_here = False
            case do.ResumeCpus():
                self.runs_here = True
            case do.Note(record):
                assert self._log is not None
                try:
                    self._log.write(record)
                except OSError:
                    return do.Failed(0.0, Reason.LOG_FAILED)
            case do.Abort():
                self._say_there("ABORT")
                self._open_here = False
            case do.Release():
                if self._log is not None and Record.RELEASED in self._log.records:
                    self._say_there("RELEASED")
                self._open_here = False
            case do.Sync():
                return do.Synced(0.0, 0, 0)
            case do.SendRam():
                return do.RamSent(0.0, 0, 0)
            case do.SendSums():
                return do.Checked(0.0)
            case _:
                pass
        return do.Done(0.0)

    def _end(self, finish: Finish) -> None:
        assert self._log is not None
        self.finish = finish
        self._open_here = False
        if finish.outcome is Outcome.IN_DOUBT:
            self._log.close()
            self._engine = None  # the command ends
        else:
            self._log.remove()

    def _say_there(self, what: str) -> None:
        if self._open_here:
            self._to_there.append(what)

    def _deliver_here(self) -> None:
        what = self._to_here.pop(0)
        answers: dict[str, Event] = {
            "READY": do.Done(0.0),
            "STARTED": do.Started(0.0),
            "REFUSED": do.Refused(0.0),
            "PROBLEM": do.Failed(0.0, Reason.PEER_REFUSED),
        }
        self._event(answers[what])

    def _cancel(self) -> None:
        assert self._engine is not None
        self._cancelled = True
        if self._engine.cancel():
            self._event(do.Failed(0.0, Reason.CANCELLED))

    def _stop_asking(self) -> None:
        self.seen.gave_up = True
        self._event(do.Failed(0.0, Reason.PEER_LOST))

    # Questions.

    def _may_ask(self, asker: str) -> bool:
        return len(self._questions) < MOST_QUESTIONS and all(q.asker != asker for q in self._questions)

    def _lose(self, index: int) -> None:
        del self._questions[index]

    def _asked(self, index: int) -> None:
        assert self._handover is not None
        standing = self._handover.query(TOKEN)
        self._questions[index].answer = standing
        self._answered(standing)

    def _answered(self, standing: Standing) -> None:
        if standing in (Standing.STARTED, Standing.ENDED, Standing.REFUSED):
            self.seen.answers.add(Standing.REFUSED if standing is Standing.REFUSED else Standing.STARTED)

    def _hear(self, index: int) -> None:
        question = self._questions.pop(index)
        if question.asker == "resolver":
            if self._resolver is not None and question.answer is not Standing.UNKNOWN:
                self._resolve_with(lambda coro: coro.send((question.answer, "")))
        elif isinstance(self._at, do.Query) and self._engine is not None and self.finish is None:
            if question.answer is Standing.REFUSED:
                self._event(do.Refused(0.0))
            elif question.answer is not Standing.UNKNOWN:
                self._event(do.Started(0.0, ended=question.answer is Standing.ENDED))

    # The destination: what destination.py does with these frames.

    def _say_here(self, what: str) -> None:
        if self._open_here:
            self._to_here.append(what)

    def _deliver_there(self) -> None:
        assert self._handover is not None
        what = self._to_there.pop(0)
        if what == "RELEASED":
            self._handover.released(TOKEN)
        elif self._stage == "over":
            pass
        elif what == "ABORT":
            self._lose_there()
        elif what == "PREPARE":
            if self._handover.prepared(TOKEN) is not None:
                self._say_here("PROBLEM")
                self._lose_there()
            else:
                self._stage = "ready"
                self._say_here("READY")
                if self.parts.starts_on_prepare:
                    self._take_over()
        else:
            self._take_over()

    def _take_over(self) -> None:
        assert self._handover is not None
        self._steps = self._handover.take_over(TOKEN)
        try:
            next(self._steps)
        except StopIteration as end:
            self._over(end.value)
            return
        self._stage = "starting"
        self.runs_there = self.seen.ran_there = True  # or may, from the first device on

    def _started(self, failure: Refusal | None) -> None:
        assert self._steps is not None
        if failure is not None:
            self.runs_there = self.seen.ran_there = False  # the CPUs come last, so nothing of it has run
        try:
            self._steps.send(failure)
        except StopIteration as end:
            self._over(end.value)

    def _over(self, refusal: Refusal | None) -> None:
        self._steps, self._stage = None, "over"
        self._answered(Standing.STARTED if refusal is None else Standing.REFUSED)
        self._say_here("STARTED" if refusal is None else "REFUSED")
        if refusal is not None:
            self._open_there = False

    def _lose_there(self) -> None:
        assert self._handover is not None
        self._handover.lost(TOKEN)
        self._stage, self._open_there = "over", False

    def _restart(self) -> None:
        self._handover = self.parts.handover(self._journal("destination"))
        self._stage, self._open_there = "over", False

    # Deaths.

    def _die(self, process: str) -> None:
        self.seen.deaths[process] += 1
        self._disks[process].died(process)
        if process == "source":
            self._engine, self._log, self.runs_here = None, None, False
            self._open_here = False
        elif process == "destination":
            self._handover, self._steps, self.runs_there = None, None, False
            self._to_there.clear()
        else:
            self._resolver = None

    # Who asks later.

    def _journal(self, process: str) -> Journal:
        return self.parts.journal(self._disks[process].seen_by(process))

    def _start_resolver(self) -> None:
        self._resolver = _resolving(self._journal("resolver"))
        self._resolve_with(lambda coro: coro.send(None))

    def _resolver_gives_up(self) -> None:
        self._resolve_with(lambda coro: coro.throw(StreamError(Reason.PEER_LOST, "nobody answers")))

    def _resolve_with(self, step: Callable[[Coroutine[Any, Any, list[Fate]]], object]) -> None:
        assert self._resolver is not None
        try:
            step(self._resolver)
        except StopIteration as end:
            self._resolver = None
            fates: list[Fate] = end.value
            self.seen.fates.update(set(fates) - {Fate.RUNNING, Fate.IN_DOUBT})

    # What tells two worlds apart.

    def key(self) -> tuple[object, ...]:
        """Return all that decides what may happen from here on, and whether it is right."""
        seen = self.seen
        return (
            of_engine(self._engine),
            type(self._at).__name__,
            None if self.finish is None else self.finish.outcome,
            of_handover(self._handover),
            self._stage,
            self._steps is not None,
            self._resolver is not None,
            tuple(of_disk(disk) for disk in {id(disk): disk for disk in self._disks.values()}.values()),
            (tuple(self._to_there), tuple(self._to_here), self._open_here, self._open_there),
            tuple((question.asker, question.answer) for question in self._questions),
            (self.runs_here, self.runs_there, self._cancelled, seen.ran_there, seen.errors, seen.gave_up),
            (frozenset(seen.answers), frozenset(seen.fates), tuple(seen.deaths.items())),
        )


@coroutine
def _ask(uri: str, token: str) -> Generator[str, tuple[Standing, str], tuple[Standing, str]]:
    del uri
    return (yield token)


async def _resolving(journal: Journal) -> list[Fate]:
    return [found.fate async for found in resolve(journal, _ask)]
