# SPDX-License-Identifier: MIT
"""Rows, rounds and the table.

A row is a ratio: what a thing of ours takes, against what the machine needs for the plain version of it (the floor).
Both are measured in turns, at least nine rounds, so that a busy neighbour meets both alike; the ratio is that of the two
medians. A row that misses its goal says so, and changes nothing else: a benchmark informs, it does not fail.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from rich.console import Console
from rich.table import Table

ROUNDS: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        suite: which part of the program is measured.
        name: what.
        ratio: the result.
        goal: what it should be; None for a row that only informs.
        at_least: the goal is a lower bound; else an upper one.
        detail: the two times behind the ratio, and how far the rounds were apart.
    """

    suite: str
    name: str
    ratio: float
    goal: float | None
    at_least: bool = False
    detail: str = ""

    @property
    def ok(self) -> bool | None:
        """Whether the goal is met."""
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "ok": self.ok}


class Unavailable(Exception):
    """A suite needs something that is not here; the text says what, and how to get it."""


Suite: TypeAlias = Callable[[], Iterator[Row]]
"""Measures, and gives rows as they are ready."""


def interleave(
    runs: Mapping[str, Callable[[], float]], rounds: int = ROUNDS, warm: int = 1
) -> dict[str, list[float]]:
    """Call each of `runs` once a round, in turns; each returns how long it took. `warm` rounds before do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm + rounds):
        for name, run in runs.items():
            taken = run()
            if number >= warm:
                times[name].append(taken)
    return times


def time_text(seconds: float) -> str:
    """Seconds for people."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def compare(
    suite: str,
    name: str,
    ours: Sequence[float],
    floor: Sequence[float],
    *,
    goal: float | None,
    inverse: bool = False,
    note: str = "",
) -> Row:
    """Make the row of two interleaved series of times.

    Args:
        suite: as in `Row`.
        name: as in `Row`.
        ours: seconds, by round.
        floor: seconds, by round.
        goal: as in `Row`.
        inverse: the ratio is one of speeds (floor's time / our time), and the goal a lower bound.
        note: for the detail.
    """
    mine, theirs = statistics.median(ours), statistics.median(floor)
    ratios = sorted((b / a if inverse else a / b) for a, b in zip(ours, floor, strict=True))
    detail = f"{time_text(mine)} / {time_text(theirs)}; {len(ours)} rounds {ratios[0]:.3g}..{ratios[-1]:.3g}"
    return Row(
        suite=suite,
        name=name,
        ratio=theirs / mine if inverse else mine / theirs,
        goal=goal,
        at_least=inverse,
        detail=f"{detail}; {note}" if note else detail,
    )


def table(rows: Sequence[Row]) -> Table:
    """Make the table that is printed."""
    out = Table(title="each row: a ratio against its floor in the same run", title_justify="left")
    for column, justify in (("suite", "left"), ("row", "left"), ("ratio", "right"), ("goal", "right")):
        out.add_column(column, justify=justify, no_wrap=column != "row")  # type: ignore[arg-type]  # a Literal
    out.add_column("")
    out.add_column("median of ours / of the floor", style="dim")
    suite = ""
    for row in rows:
        goal = "" if row.goal is None else f"{'>=' if row.at_least else '<='} {row.goal:g}"
        mark = {None: "", True: "ok", False: "[bold]falls short[/bold]"}[row.ok]
        out.add_row(
            "" if row.suite == suite else row.suite, row.name, f"{row.ratio:.3g}", goal, mark, row.detail
        )
        suite = row.suite
    return out


def print_table(rows: Sequence[Row]) -> None:
    """Print all rows, and how many of the goals are met."""
    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    console.print(table(rows))
    judged = [row.ok for row in rows if row.ok is not None]
    console.print(f"{sum(judged)} of {len(judged)} goals met")
