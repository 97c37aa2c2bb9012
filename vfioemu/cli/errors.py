# SPDX-License-Identifier: MIT
"""How a command fails: one line that says what, one hint that says what next, and an exit code that scripts can use."""

import sys
from typing import IO, Any, Final

import click

FAILED: Final = 1
USAGE: Final = 2
INTERNAL: Final = 70
MISSING: Final = 77


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


def report(message: str, hint: str = "", file: IO[Any] | None = None) -> None:
    """Print an error in the form that all commands use."""
    stream = sys.stderr if file is None else file
    print(f"vfioemu: error: {message}", file=stream)
    if hint:
        print(f"  hint: {hint}", file=stream)
