# SPDX-License-Identifier: MIT
"""The number of writes that are due at a time: a rate without a clock of its own."""

from typing import Final

TICK: Final = 0.002
"""Writes come in bunches: not more often than this, unless a batch is full before."""
MAX_LAG: Final = 0.25
"""Seconds of delay that a device which was held up makes up for; the rest is forgotten."""
FASTEST: Final = 10_000_000
"""Writes a second that still are a rate; beyond, and for 0, it is as many as possible."""
_SLACK: Final = 1e-3
"""A time computed from a count gives back that count, rounding errors or not."""


class Pace:
    """Counts what was done since the rate was set."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._done = 0

    def restart(self) -> None:
        """Forget what is due; the count begins with the next call of `due`."""
        self._start = None

    def due(self, now: float, rate: int, most: int) -> int:
        """Return the number of writes to do now, at most `most`; `now` is in seconds, `rate` in writes a second."""
        if not 0 < rate <= FASTEST:
            return most
        if self._start is None:
            self._start = now
            self._done = 0
        due = max(0, int((now - self._start) * rate + _SLACK) - self._done)
        if due > rate * MAX_LAG + most:
            self._start = now - most / rate
            self._done = 0
            due = most
        return min(due, most)

    def done(self, count: int) -> None:
        """Count writes that have been done."""
        self._done += count

    def next(self, now: float, rate: int, batch: int) -> float:
        """Return the time, in seconds, when enough will be due to be worth a call."""
        if not 0 < rate <= FASTEST or self._start is None:
            return now
        bunch = max(1, min(batch, int(rate * TICK)))
        return max(now, self._start + (self._done + bunch) / rate)
