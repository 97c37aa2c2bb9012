# SPDX-License-Identifier: MIT
"""Report how a command fails: a line that says what, a hint that says what to do, and an exit code for scripts."""

import sys
from typing import IO, Any, Final, NoReturn

import click

from vfioemu.printable import printable
from vfioemu.world import end_of

FAILED: Final = 1
USAGE: Final = 2
INTERNAL: Final = 70
MISSING: Final = 77
_LONGEST: Final = 4096


class CommandError(click.ClickException):
    """A command cannot do its work.

    Args:
        message: what failed, and why.
        hint: what to do next.
        exit_code: one of the exit codes in `vfioemu --help`.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc]  # each error has its own

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error."""
        report(self.message, self.hint, file)


def cannot_start(process: str, status: int) -> NoReturn:
    """End with the status of a process of ours that ended before it was ready, or report the signal that killed it.

    Args:
        process: its name for people.
        status: its exit status, after it reported the error itself; -n if signal n ended it.
    """
    if 0 < status < 128:
        raise SystemExit(status)
    told = end_of(process, status)
    raise CommandError(told.what, told.hint)


def report(message: str, hint: str = "", file: IO[Any] | None = None) -> None:
    """Print an error in the form that all commands use."""
    stream = sys.stderr if file is None else file
    print(f"vfioemu: error: {_lines(message)}", file=stream)
    if hint:
        print(f"  hint: {_lines(hint)}", file=stream)


def _lines(text: str) -> str:
    """Escape the text line by line: line breaks are ours, everything else that could command a terminal is not."""
    return "\n".join(printable(line, _LONGEST) for line in text.split("\n"))
