# SPDX-License-Identifier: MIT
"""All that can happen in a hand-over, breadth first: every order of messages, every loss, every death in every write.

A state is reached by the moves that lead to it, and made by repeating them: generators cannot be copied. Two states are the same if
nothing that may follow can tell them apart (`World.key`). The first state that breaks a rule is one of those that take the fewest moves, so
its path is a counterexample that can be read.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vfioemu.migration.actions import Outcome
from vfioemu.migration.chaos.disk import DEATHS, Fault
from vfioemu.migration.chaos.world import Parts, World
from vfioemu.migration.journal import Fate, Standing

PROCESSES: Final = ("source", "destination", "resolver")


@dataclass(frozen=True, slots=True)
class Step:
    """A move, and the write in it that does not go well, if any."""

    move: str
    fault: tuple[int, Fault] | None = None

    def __str__(self) -> str:
        return self.move if self.fault is None else f"{self.move}; at write {self.fault[0]}: {self.fault[1]}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may go wrong in one hand-over.

    Attributes:
        deaths: of each process.
        errors: writes that fail.
        states: the search ends when it has seen so many.
    """

    deaths: int = 1
    errors: int = 1
    states: int = 1_000_000


@dataclass(slots=True)
class Report:
    """What an exploration has found.

    Attributes:
        states: how many there are.
        steps: how many lead from one to another.
        ends: how many states there are of each outcome of the source.
        broken: the rule that was broken; None: none was.
        path: how to get there.
        complete: everything within the bounds was seen.
    """

    states: int = 0
    steps: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    broken: str | None = None
    path: tuple[Step, ...] = ()
    complete: bool = True

    def __str__(self) -> str:
        how = "all states" if self.complete else "not all states"
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.ends.items()))
        text = f"{self.states} states, {self.steps} steps ({how}); ends of the source: {ends}"
        if self.broken is not None:
            text += f"\nBROKEN: {self.broken}\n" + "\n".join(f"  {step}" for step in self.path)
        return text


def explore(parts: Parts, bounds: Bounds | None = None) -> Report:
    """Explore all states of a hand-over; ends at the first that breaks a rule."""
    search = _Search(parts, bounds or Bounds())
    return search.run()


def broken_rule(world: World) -> str | None:
    """Say which rule a world breaks."""
    seen = world.seen
    if world.runs_here and world.runs_there:
        return "both sides run the guest"
    if world.runs_here and seen.ran_there:
        return "the source runs a guest that has run at the destination"
    if len(seen.answers) > 1:
        return "the destination has said STARTED and REFUSED"
    if Fate.NOT_MOVED in seen.fates and (seen.ran_there or Standing.STARTED in seen.answers):
        return "somebody was told that the guest never ran at the destination, where it ran"
    if Fate.NOT_MOVED in seen.fates and len(seen.fates) > 1:
        return "the same migration had two fates"
    outcome = None if world.finish is None else world.finish.outcome
    if outcome in (Outcome.FAILED, Outcome.CANCELLED) and not world.runs_here:
        return "the source says that it runs the guest, and does not"
    if outcome is Outcome.COMPLETED and not (seen.ran_there or world.seen.deaths["destination"]):
        return "the source says that the guest has moved, and it never ran there"
    return None


class _Search:
    def __init__(self, parts: Parts, bounds: Bounds) -> None:
        self._parts = parts
        self._bounds = bounds
        self._report = Report()
        self._numbers: dict[object, int] = {}
        self._from: list[tuple[int, Step] | None] = []
        self._queue: deque[int] = deque()
        self._back: list[list[int]] = []
        """For each state, those that lead to it without a fault."""
        self._clean: list[int] = []
        """States in which nobody has died."""
        self._owned: list[int] = []
        """Those of them in which all is over, and somebody runs the guest."""
        self._troubled: list[int] = []
        """States in which somebody has died, and not the source."""
        self._doubtful: set[int] = set()
        """Those of them in which it has stopped asking."""
        self._over: list[int] = []
        """Those of them in which the source's command has ended."""

    def run(self) -> Report:
        report = self._report
        self._arrive(World(self._parts), None)
        while self._queue and report.broken is None:
            if len(self._from) >= self._bounds.states:
                report.complete = False
                break
            self._expand(self._queue.popleft())
        if report.broken is None and report.complete:
            self._find_dead_ends()
        report.states = len(self._from)
        return report

    def _expand(self, number: int) -> None:
        path = self._path(number)
        world = self._replay(path)
        for move in list(world.moves()):
            after = self._replay(path)
            writes = after.make(move)
            self._arrive(after, (number, Step(move)))
            for fault in self._faults(world, writes):
                after = self._replay(path)
                after.make(move, fault)
                self._arrive(after, (number, Step(move, fault)))
        for process in PROCESSES:
            if world.alive(process) and world.seen.deaths[process] < self._bounds.deaths:
                after = self._replay(path)
                after.make(f"the {process} dies")
                self._arrive(after, (number, Step(f"the {process} dies")))

    def _faults(self, world: World, writes: int) -> Iterator[tuple[int, Fault]]:
        for nth in range(writes):
            for fault in Fault:
                if fault in DEATHS or world.seen.errors < self._bounds.errors:
                    yield nth, fault

    def _replay(self, path: tuple[Step, ...]) -> World:
        world = World(self._parts)
        for step in path:
            world.make(step.move, step.fault)
        return world

    def _path(self, number: int) -> tuple[Step, ...]:
        path = []
        while (origin := self._from[number]) is not None:
            number, step = origin
            path.append(step)
        return tuple(reversed(path))

    def _arrive(self, world: World, origin: tuple[int, Step] | None) -> None:
        report = self._report
        if any(count > self._bounds.deaths for count in world.seen.deaths.values()):
            return
        report.steps += 1
        key = world.key()
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._from)
            self._from.append(origin)
            self._back.append([])
            self._queue.append(number)
            self._judge(world, number)
        if origin is not None and origin[1].fault is None and not origin[1].move.endswith(" dies"):
            self._back[number].append(origin[0])

    def _judge(self, world: World, number: int) -> None:
        report = self._report
        report.broken = report.broken or broken_rule(world)
        if report.broken is not None and not report.path:
            report.path = self._path(number)
        finish = world.finish
        if finish is not None:
            report.ends[finish.outcome] = report.ends.get(finish.outcome, 0) + 1
        if world.seen.clean:
            self._clean.append(number)
            if finish is not None and (world.runs_here or world.runs_there):
                self._owned.append(number)
        elif world.alive("source") or finish is not None:
            self._troubled.append(number)
            if finish is not None:
                (self._doubtful.add if finish.outcome is Outcome.IN_DOUBT else self._over.append)(number)

    def _find_dead_ends(self) -> None:
        """Find a state that leads nowhere, though nothing more goes wrong."""
        self._require(self._clean, self._owned, "nobody will ever run the guest, though nobody has died")
        self._require(
            [number for number in self._troubled if number not in self._doubtful],
            self._over,
            "the source will never know who runs the guest",
        )

    def _require(self, states: list[int], goals: list[int], otherwise: str) -> None:
        reached, queue = set(goals), deque(goals)
        while queue:
            for number in self._back[queue.popleft()]:
                if number not in reached:
                    reached.add(number)
                    queue.append(number)
        for number in states:
            if number not in reached and self._report.broken is None:
                self._report.broken, self._report.path = otherwise, self._path(number)
