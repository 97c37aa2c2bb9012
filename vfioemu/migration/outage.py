# SPDX-License-Identifier: MIT
"""How long a guest stands still: from the pause of its CPUs to the destination's STARTED, and everything in it.

Nothing that happens in that time is left out, whoever wants it: what the guest waits for is its outage. Whoever adds a step to the
stopped phase marks its end, and the parts then still add up.
"""

from dataclasses import dataclass, field
from typing import Final

BASE: Final = 5.0
"""Seconds: a destination that answers at all needs far less."""
DOWNTIMES: Final = 10.0
PER_GIB: Final = 2.0
"""Seconds for a GiB of pages that are compared."""


def default_max_outage(downtime: float, ram_bytes: int, *, verify: bool) -> float:
    """Return after how many seconds a stop is ended if the user has not said it: what goes well takes far less.

    Args:
        downtime: that is aimed at, in seconds.
        ram_bytes: of the guest.
        verify: all of it is compared.
    """
    return BASE + DOWNTIMES * downtime + (PER_GIB * ram_bytes / (1 << 30) if verify else 0.0)


@dataclass(slots=True)
class Timeline:
    """When what was over, on the clock of the driver.

    Attributes:
        began: the migration.
        paused: the CPUs stand still.
        started: the destination has said that it runs the guest.
        resumed: the guest runs here again.
        ended: the migration is over.
        marks: (name, end) of each step since the pause, in their order.
    """

    began: float = 0.0
    paused: float | None = None
    started: float | None = None
    resumed: float | None = None
    ended: float = 0.0
    marks: list[tuple[str, float]] = field(default_factory=list)

    def mark(self, step: str, now: float) -> None:
        """Note that a step of the stopped phase is over; a name that comes twice counts together."""
        self.marks.append((step, now))

    @property
    def outage(self) -> float | None:
        """Seconds, to the microsecond; None if the guest never stood still, or stands still for all that is known."""
        if self.paused is None:
            return None
        until = self.started if self.started is not None else self.resumed
        return None if until is None else _microseconds(until - self.paused) / 1e6

    @property
    def parts(self) -> dict[str, float]:
        """What the outage was spent on, in seconds, in order; they add up to it exactly, counted in microseconds.

        Of a guest that goes on here, the last one is `resume`: all since the last step that was finished.
        """
        if self.paused is None:
            return {}
        marks = list(self.marks)
        if self.started is not None:
            marks.append(("commit", self.started))
        elif self.resumed is not None:
            marks.append(("resume", self.resumed))
        parts: dict[str, int] = {}
        before = 0
        for step, at in marks:
            # Differences of rounded moments, not rounded differences: those do not add up.
            after = _microseconds(at - self.paused)
            parts[step] = parts.get(step, 0) + after - before
            before = after
        return {step: length / 1e6 for step, length in parts.items()}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
