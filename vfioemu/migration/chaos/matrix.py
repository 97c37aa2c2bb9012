# SPDX-License-Identifier: MIT
"""All faults in all phases, held against the table; and several faults at once, drawn from a seed, of which only the rules are known."""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from vfioemu.migration.chaos.cell import NOTHING_CAME, Blow, Ending, run_cell
from vfioemu.migration.chaos.faults import Fault, Phase
from vfioemu.migration.chaos.table import EXPECTED
from vfioemu.private import private_directory

MOST_BLOWS: Final = 4
"""Of one migration that is drawn from a seed."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A migration with its blows, and what came of it.

    Attributes:
        expected: what had to; "" if only the rules are known.
    """

    blows: tuple[Blow, ...]
    ending: Ending
    expected: str = ""

    @property
    def right(self) -> bool:
        """Whether all is as it has to be."""
        return not self.ending.wrong and self.expected in ("", str(self.ending))

    def __str__(self) -> str:
        what = "; ".join(map(str, self.blows))
        text = f"{what}: {self.ending} after {self.ending.seconds:.1f} s"
        if self.expected and self.expected != str(self.ending):
            text += f", expected {self.expected}"
        if self.ending.detail:
            text += f" ({self.ending.detail})"
        return "\n  ".join([text, *self.ending.wrong])


@contextmanager
def _places() -> Iterator[Callable[[], str]]:
    """Make a new directory for each call."""
    with private_directory("chaos") as base:
        count = 0

        def place() -> str:
            nonlocal count
            count += 1
            path = base / str(count)
            path.mkdir()
            return os.fspath(path)

        yield place


def run_matrix(
    faults: Iterable[Fault] = tuple(Fault), phases: Iterable[Phase] = tuple(Phase)
) -> Iterator[Cell]:
    """Run the cells of the table, fault by fault."""
    phases = tuple(phases)
    with _places() as place:
        for fault in faults:
            for phase in phases:
                blow = Blow(phase, fault)
                yield Cell((blow,), run_cell(place(), [blow]), EXPECTED[phase, fault])


def draw(seed: int) -> tuple[Blow, ...]:
    """Draw the blows of a migration: two to four, in any phases."""
    source = random.Random(seed)
    count = source.randint(2, MOST_BLOWS)
    blows = {Blow(source.choice(list(Phase)), source.choice(list(Fault))) for _ in range(count)}
    return tuple(sorted(blows, key=lambda blow: (list(Phase).index(blow.phase), blow.fault)))


def run_seed(seed: int) -> Cell:
    """Run a migration with the blows of a seed."""
    return run_blows(draw(seed))


def run_blows(blows: Sequence[Blow]) -> Cell:
    """Run a migration of which only the rules are known: it has one owner at most, an end, and no traceback."""
    with _places() as place:
        ending = run_cell(place(), blows)
    ending.wrong = [what for what in ending.wrong if what != NOTHING_CAME]
    return Cell(tuple(blows), ending)


def shrink(blows: Sequence[Blow], wrong: Callable[[Sequence[Blow]], bool]) -> tuple[Blow, ...]:
    """Leave out as many blows as can be, as long as it still goes wrong."""
    kept = list(blows)
    for blow in list(kept):
        fewer = [other for other in kept if other is not blow]
        if wrong(fewer):
            kept = fewer
    return tuple(kept)
