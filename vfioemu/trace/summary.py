# SPDX-License-Identifier: MIT
"""Count calls: the table of strace -c."""

from dataclasses import dataclass
from typing import Any

from vfioemu.trace import events as e
from vfioemu.trace.filter import names

_HEAD = ("% time", "seconds", "usecs/call", "calls", "errors", "ioctl")
_RULE = ("------", "-----------", "-----------", "---------", "---------", "-" * 32)


@dataclass(slots=True)
class Row:
    """Counts of one call."""

    calls: int = 0
    errors: int = 0
    microseconds: int = 0


class Summary:
    """Count events; a feature is counted under its own name."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.lost = 0

    def add(self, event: e.AnyEvent) -> None:
        """Count an event; events that are not calls are ignored."""
        if isinstance(event, e.Lost):
            self.lost += event.count
        if not isinstance(event, e.CALLS):
            return
        row = self.rows.setdefault(names(event)[-1], Row())
        row.calls += 1
        row.errors += event.errno is not None
        row.microseconds += event.dur_us

    def _sorted(self) -> list[tuple[str, Row]]:
        return sorted(self.rows.items(), key=lambda item: (-item[1].microseconds, item[0]))

    def lines(self) -> list[str]:
        """Format the table, with the most expensive call first."""
        total = sum(row.microseconds for row in self.rows.values())
        lines = [_line(_HEAD), _line(_RULE)]
        for name, row in self._sorted():
            share = 100 * row.microseconds / total if total else 0.0
            lines.append(
                _line(
                    (
                        f"{share:.2f}",
                        f"{row.microseconds / 1e6:.6f}",
                        str(row.microseconds // row.calls),
                        str(row.calls),
                        str(row.errors or ""),
                        name,
                    )
                )
            )
        calls, errors = (sum(getattr(r, what) for r in self.rows.values()) for what in ("calls", "errors"))
        per_call = str(total // calls) if calls else ""
        lines += [
            _line(_RULE),
            _line(("100.00", f"{total / 1e6:.6f}", per_call, str(calls), str(errors or ""), "total")),
        ]
        if self.lost:
            lines.append(f"{self.lost} events were lost: the reader was too slow")
        return lines

    def json(self) -> list[dict[str, Any]]:
        """Return the table for programs."""
        return [
            {"ioctl": name, "calls": row.calls, "errors": row.errors, "usecs": row.microseconds}
            for name, row in self._sorted()
        ]


def _line(cells: tuple[str, ...]) -> str:
    time, seconds, per_call, calls, errors, name = cells
    return f"{time:>6} {seconds:>11} {per_call:>11} {calls:>9} {errors:>9} {name}"
