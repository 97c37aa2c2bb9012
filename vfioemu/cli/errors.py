# SPDX-License-Identifier: MIT
"""How a command fails: one line that says what, one hint that says what next, and an exit code that scripts can use."""

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
        message: what happened to which thing, and why.
        hint: what to do next.
        exit_code: see protocol of exit codes in `vfioemu --help`.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc]  # each error has its own

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        report(self.message, self.hint, file)


def cannot_start(process: str, status: int) -> NoReturn:
    """A process of ours has ended before it was ready: end as it did, if that tells why, as it has said itself.

    Args:
        process: what it is.
        status: its exit status; -n: signal n ended it, so that it could say nothing.
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
    """Several lines are ours; whatever else could command a terminal came from somebody else."""
    return "\n".join(printable(line, _LONGEST) for line in text.split("\n"))
