# SPDX-License-Identifier: MIT
"""Show a migration while it runs: JSON events on stdout, or lines and (on a terminal) a bar on stderr.

Everything shown is made from the events of vfioemu.migration.events; a script sees the same events with --json. The summary is
the result, so it goes to stdout.
"""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from vfioemu.cli.values import duration
from vfioemu.migration import events
from vfioemu.migration.events import Told
from vfioemu.migration.messages import Likeness
from vfioemu.printable import printable_json
from vfioemu.sizes import format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

HEADINGS = " round  dirty pages  new pages        sent           rate        left   threshold"


class Display(Protocol):
    """A consumer of events."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    def show(self, event: Told) -> None:
        """Show one event."""


def make_display(*, json: bool, quiet: bool) -> Display:
    """Choose the display for this terminal, or for output without one."""
    if json:
        return JsonDisplay()
    if quiet or not sys.stderr.isatty():
        return TextDisplay(quiet=quiet)
    return BarDisplay()


class Building:
    """Report on stderr how far a slow build of a guest is; a fast one is built in silence."""

    EVERY = 1.0
    """Seconds between two reports."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        """Report that `done` of `total` bytes of RAM are built."""
        now = time.monotonic()
        if now - self._said >= self.EVERY and done < total:
            self._said = now
            text = f" building the guest: {format_size(done)} of {format_size(total)}"
            self._open = sys.stderr.isatty()
            print(
                f"\r\x1b[K{text}" if self._open else text,
                end="" if self._open else "\n",
                file=sys.stderr,
                flush=True,
            )
        elif done >= total and self._open:
            self._open = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class JsonDisplay:
    """Print one JSON event per line on stdout."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Told) -> None:
        """Print one event."""
        print(printable_json(msgspec.json.encode(event)).decode(), flush=True)


class TextDisplay:
    """Print plain lines."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._headings = False
        self._hello: events.Hello | None = None
        self._verified: events.Verified | None = None
        self._lost: list[events.LostWrite] = []
        self._late: list[events.LateWrite] = []
        self._ledger: events.LedgerRead | None = None
        self._late_writes = 0
        self._audit: events.Audited | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Told) -> None:
        """Print one event."""
        match event:
            case events.Hello():
                self._hello = event
                self._greet(event)
            case events.Listening(uri=uri):
                self._line(f" listening on {uri}")
            case events.Warned(detail=detail):
                self._line(f" warning: {detail}")
            case events.Phase(phase=phase):
                if phase in _PHASES:
                    self._line(f" {_PHASES[phase]}")
            case events.Round():
                self._round(event)
            case events.Throttled(share=share):
                self._line(
                    f" the CPUs stand still for {share:.0%} of the time" if share else " the CPUs run freely"
                )
            case events.Owner(owner=owner, side=side):
                if owner == "destination":
                    self._line(
                        " the guest runs here now" if side == owner else " the destination runs the guest"
                    )
            case events.LostWrite():
                self._lost.append(event)
            case events.Verified():
                self._verified = event
            case events.LateWrite():
                self._late.append(event)
            case events.LedgerRead():
                self._ledger = event
                self._late_writes += event.late
            case events.Audited():
                self._audit = event
            case events.Alive():
                self._alive(event)
            case events.Resolved():
                what = f"{event.guest or 'a guest'} -> {event.uri}" if event.uri else "a migration"
                why = f": {event.detail}" if event.detail else ""
                print(f" {what} ({event.token}): {_FATES[event.fate]}{why}", flush=True)
            case events.End():
                self._end(event)
            case _:
                pass

    def _line(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def _greet(self, event: events.Hello) -> None:
        limit = f"{format_size(event.bandwidth)}/s" if event.bandwidth else "unlimited"
        self._line(
            f" {event.guest} -> {event.uri}\n   RAM {format_size(event.ram_bytes)}, {event.cpus} CPUs, bandwidth {limit},"
            f" downtime limit {duration(event.downtime)}"
        )
        for device in event.devices:
            self._line(
                f"   {device.name} in {device.container}: {' '.join(device.migration) or 'no migration'};"
                f" dirty pages by {_TRACKERS[device.tracker]}"
            )

    def _round(self, event: events.Round) -> None:
        if not self._headings:
            self._line(HEADINGS)
            self._headings = True
        self._line(
            f" {event.number:5d} {event.pages:12d} {event.dirtied:10d} {format_size(event.ram_bytes):>11}"
            f" {format_size(event.bandwidth) + '/s':>14}{format_size(event.remaining):>12}{format_size(event.threshold):>12}"
        )

    def _alive(self, event: events.Alive) -> None:
        devices = ", ".join(f"{name} {count} DMA writes" for name, count in event.dma_writes.items())
        where = "here" if event.side == "destination" else "on the source"
        parts = [f"{event.cpu_writes} CPU writes", devices] if devices else [f"{event.cpu_writes} CPU writes"]
        print(f" alive {where}: {', '.join(parts)} in {duration(event.seconds)}", flush=True)

    def _end(self, event: events.End) -> None:
        if event.side == "destination":
            self._end_verified()
            return
        self._end_outage(event)
        if event.outcome == "completed":
            print(
                f" completed in {duration(event.seconds)}: {event.rounds} rounds, {format_size(event.ram_bytes)} of RAM sent"
                f" ({event.zero_pages} zero pages left out), {format_size(event.device_bytes)} of device state"
            )
        else:
            # The command prints the detail in words at its end.
            reason = (
                f" ({event.reason})"
                if event.reason is not None and event.reason.value != event.outcome.value
                else ""
            )
            runs = "the source runs the guest" if event.source_runs else "THE SOURCE DOES NOT RUN THE GUEST"
            print(f" {event.outcome.replace('_', ' ')}{reason} after {duration(event.seconds)}\n {runs}")
        if event.outcome == "completed" and self._verified is None:
            print(" nothing was verified but the sums of what was sent (--no-verify)")
        self._end_verified()
        self._end_ledger()
        sys.stdout.flush()

    def _end_outage(self, event: events.End) -> None:
        parts = " + ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in event.outage_parts.items())
        if event.outage is not None:
            limit = duration(event.downtime)
            held = f", ABOVE THE LIMIT of {limit}" if event.above_limit else f" (limit {limit})"
            print(f" outage {event.outage * 1000:.1f} ms{held} = {parts}")
        elif parts:
            print(f" the guest stands still; until now {parts} ms")

    def _end_verified(self) -> None:
        done = self._verified
        if done is None:
            return
        for lost in self._lost:
            write = f" seq {lost.write}" if lost.write is not None else ""
            print(
                f" LOST {lost.origin or 'unknown'}{write} iova {lost.iova:#x} ({lost.block} page {lost.page}):"
                f" the destination holds {lost.held}"
            )
        for device in done.devices:
            if device.result is Likeness.SAME:
                blind = [part.what for part in device.parts if part.result is Likeness.NOT_COMPARED]
                if blind:
                    self._line(f" {device.device} is the same; not compared: {', '.join(blind)}")
            else:
                print(f" {_LIKENESS[device.result]} {device.device}: {device.detail}")
        for text in done.early_writes:
            print(f" EARLY {text}: written at the destination before its start")
        pages = f"{done.pages - done.mismatched_pages}/{done.pages} pages"
        same = sum(device.result is Likeness.SAME for device in done.devices)
        devices = f"{same}/{len(done.devices)} devices"
        if done.mismatched_pages:
            lost_writes = f", {done.mismatched_pages} pages with lost writes"
        else:
            lost_writes = ", 0 lost DMA writes" if done.devices else ""  # without a device there is no DMA
        print(f" verified {pages}, {devices}{lost_writes}", flush=True)

    def _end_ledger(self) -> None:
        for write in self._late:
            which = "" if write.write is None else f" write {write.write}"
            where = f"{write.block} page {write.page}" if write.block else "outside of RAM"
            after = "" if write.after is None else f", {write.after * 1000:.1f} ms after the CPUs were paused"
            print(f" LATE {write.origin}{which} iova {write.iova:#x} ({where}){after}; found {write.moment}")
        there = self._verified.ledger if self._verified is not None else ""
        if there:
            print(f" writes at the destination before its start NOT COMPARED: {there}")
        audit = self._audit
        if audit is not None:
            for text in audit.first:
                print(f" CHANGED {text}: nobody accounts for it")
        if self._ledger is None:
            return
        said = [f"{self._late_writes} late write{'s' if self._late_writes != 1 else ''}"]
        if self._ledger.not_compared:
            said[0] += f" of CPUs, those of devices NOT COMPARED: {self._ledger.not_compared}"
        if audit is not None:
            said.append(f"{audit.different} of {audit.pages} pages changed since they were summed")
        print(f" ledger: {', '.join(said)}", flush=True)


_PHASES = {"stopping": "the guest stands still", "rollback": "back to the source"}
_FATES = {
    "moved": "the destination runs it",
    "ended": "the destination was told to start it, and has died since: nobody runs it",
    "not_moved": "the destination has never run it and never will; at the source it ended with its client: nobody runs it",
    "in_doubt": "NOBODY KNOWS whether the destination runs it",
    "running": "not over",
}
_LIKENESS = {Likeness.DIFFERS: "DIFFERENT", Likeness.NOT_COMPARED: "NOT COMPARED"}
_TRACKERS = {
    "device": "its own DMA log",
    "container": "the container's DIRTY_PAGES",
    "all-dirty": "nobody: all RAM is always dirty",
}


class BarDisplay(TextDisplay):
    """Print lines, and below them a bar with the progress of the round."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._pages = 0

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn(" {task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[left]} left  {task.fields[rate]}/s  {task.fields[writes]} CPU writes"),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def show(self, event: Told) -> None:
        """Show one event."""
        if isinstance(event, events.Progress):
            self._update(event)
        elif isinstance(event, events.Synced):
            self._pages = event.pages
        elif isinstance(event, events.End | events.Alive):
            self._stop()
        super().show(event)

    def _update(self, event: events.Progress) -> None:
        if self._bar is None:
            return
        if self._task is None:
            self._task = self._bar.add_task("", total=1.0, left="", rate="", writes=0)
        total = max(self._pages * 4096, event.remaining, 1)
        self._bar.update(
            self._task,
            description=f"round {event.number}",
            total=total,
            completed=total - event.remaining,
            left=format_size(event.remaining),
            rate=format_size(event.bandwidth),
            writes=event.cpu_writes,
        )

    def _line(self, text: str) -> None:
        if self._bar is None:
            super()._line(text)
        else:
            self._bar.console.print(text, markup=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
