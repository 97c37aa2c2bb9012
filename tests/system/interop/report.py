# SPDX-License-Identifier: MIT
"""What the interop suite found: a table for the terminal, and docs/interop.md."""

import datetime as dt
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.system.interop.guestimage import GuestImage
from tests.system.interop.programs import Qemu

_PAGE = """\
<!-- SPDX-License-Identifier: MIT -->
<!-- Written by `make test-interop`; not by hand. -->
# Interoperability

Unmodified QEMUs run on devices that vfioemu emulates: they boot Linux, whose own drivers use the devices, and migrate it
live while a device writes into its memory. No KVM (TCG), no hardware, no kernel module. This is the last run of
`make test-interop`; what each line does is in tests/system/interop/.

| | |
|---|---|
| date | {date} |
| QEMU | {qemus} |
| guest | Linux {guest} (Debian), busybox |
| host | Linux {host}, Python {python} |
| result | {passed} of {total} passed |

A migration ends with the destination paused. Then each page that a device writes to has to hold the last write to it, and
the whole of guest memory has to be as it is at the source; only then the guest goes on, and its devices from where they
were. Downtime is what QEMU reports; the machine that this ran on had other work as well.

QEMU 7.2 without KVM now and then loses what the guest's own CPU has written, with and without VFIO devices (a page that is
written between two of its dirty syncs; found and mended in 2024 by N. Piggin as "physmem: Fix migration dirty bitmap coherency
with TCG memory access"; the docstring of `LostByQemuError` in tests/system/interop/test_migration.py says more). Such a migration
is tried again, and that is said below; the pages that devices write to have to be right in it too.

| QEMU | what | | seconds | found |
|---|---|---|---|---|
{rows}
"""


@dataclass(slots=True)
class Entry:
    """A test's row.

    Attributes:
        qemu: the QEMU that ran; None if it is of no matter.
        guest: the guest that it ran.
        title: what was tried.
        notes: what was found.
        passed: how it ended; None while it runs.
        seconds: how long it took.
    """

    qemu: Qemu | None
    guest: GuestImage
    title: str
    notes: list[str] = field(default_factory=list)
    passed: bool | None = None
    seconds: float = 0.0

    def note(self, text: str) -> None:
        """Something worth telling."""
        self.notes.append(text)

    def cells(self) -> tuple[str, str, str, str, str]:
        """For a table."""
        version = self.qemu.version.split()[0] if self.qemu else ""
        result = "ok" if self.passed else "FAILED"
        return version, self.title, result, f"{self.seconds:.0f}", "; ".join(self.notes)


class Report:
    """All entries of a run."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """One more."""
        self.entries.append(entry)

    def table(self) -> str:
        """For a terminal."""
        rows = [entry.cells() for entry in self.entries]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) + "\n"
            for row in rows
        )

    def page(self) -> str:
        """docs/interop.md."""
        return _PAGE.format(
            date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
            qemus=", ".join(sorted({entry.qemu.version for entry in self.entries if entry.qemu}, key=_order)),
            guest=self.entries[0].guest.release,
            host=platform.release(),
            python=platform.python_version(),
            passed=sum(entry.passed is True for entry in self.entries),
            total=len(self.entries),
            rows="\n".join(self._rows()),
        )

    def _rows(self) -> Iterator[str]:
        for entry in self.entries:
            yield "| " + " | ".join(entry.cells()) + " |"


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split()[0].split("."))
