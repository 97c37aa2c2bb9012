# SPDX-License-Identifier: MIT
"""`vfioemu trace`: show calls of a running daemon's clients as strace would, with the reasons of errors."""

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from vfioemu.cli.output import go_on_without
from vfioemu.cli.tracing import checked
from vfioemu.cli.where import answer, connected, directory, runtime_dir_option
from vfioemu.trace import events as e
from vfioemu.trace.decode import DEFAULT_LIMIT
from vfioemu.trace.names import Style
from vfioemu.trace.summary import Summary
from vfioemu.trace.text import Look, Printer

EPILOG = """\b
EXPR is trace=WORDS (or just WORDS), kind=, status= or device=; a WORD is a
call, a class (%dma %dirty %migration %irq %region %group %reset %feature
%info %file %device), a glob or /REGEX; ! negates. All EXPRs must agree."""


STYLES = click.Choice([style.value for style in Style])


@click.command(name="trace", epilog=EPILOG)
@runtime_dir_option
@click.option("-e", "expressions", multiple=True, metavar="EXPR", callback=checked, help="Select, see below.")
@click.option("-c", "count", is_flag=True, help="Only count: a table at the end.")
@click.option("-Z", "failed", is_flag=True, help="Only calls that fail.")
@click.option("-z", "successful", is_flag=True, help="Only calls that succeed.")
@click.option("-o", "output", type=click.File("w", lazy=False), default="-", help="Write to this file.")
@click.option("-T", "duration", is_flag=True, help="Show how long calls took.")
@click.option("-ttt", "clock", is_flag=True, help="Show when, in seconds since 1970.")
@click.option("-X", "style", type=STYLES, default="abbrev", help="How names are printed. [abbrev]")
@click.option(
    "-s", "limit", type=click.IntRange(1, 1 << 16), default=DEFAULT_LIMIT, help="Elements shown. [8]"
)
@click.option("--json", "as_json", is_flag=True, help="Events, or the table, as JSON.")
def command(
    runtime_dir: Path | None,
    instance: str,
    expressions: tuple[str, ...],
    count: bool,
    failed: bool,
    successful: bool,
    output: IO[str],
    duration: bool,
    clock: bool,
    style: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show what the clients of a running daemon do, until Ctrl-C or its end."""
    if failed and successful:
        raise click.UsageError("-Z and -z together select nothing")
    if failed or successful:
        expressions += ("status=failed" if failed else "status=successful",)
    look = Look(Style(style), limit, duration, clock)
    show: Lines | Table = Table(Summary()) if count else Lines(output, Printer(look), as_json)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            for line in subscribed(directory(runtime_dir, instance), expressions, limit):
                show.line(line)
        if isinstance(show, Table):
            show.finish(output, as_json)
    except BrokenPipeError:
        go_on_without()  # as with `trace | head`: the reader has enough


@dataclass(frozen=True, slots=True)
class Lines:
    """Print events as they come."""

    output: IO[str]
    printer: Printer
    as_json: bool

    def line(self, line: bytes) -> None:
        """Print an event, given as a line of JSON."""
        text = line.decode() if self.as_json else self.printer.line(e.decode(line))
        self.output.write(text + "\n")
        self.output.flush()


@dataclass(frozen=True, slots=True)
class Table:
    """Count events."""

    summary: Summary

    def line(self, line: bytes) -> None:
        """Count an event, given as a line of JSON."""
        self.summary.add(e.decode(line))

    def finish(self, output: IO[str], as_json: bool) -> None:
        """Print the table."""
        text = json.dumps(self.summary.json()) if as_json else "\n".join(self.summary.lines())
        output.write(text + "\n")
        output.flush()


def subscribed(folder: Path, expressions: tuple[str, ...], limit: int) -> Iterator[bytes]:
    """Yield the lines of a daemon's events, from now to its end.

    Raises:
        CommandError: no daemon runs, or it refuses.
    """
    with connected(folder) as control:
        answer(control, "trace", filters=list(expressions), limit=limit)
        yield from control.events()
