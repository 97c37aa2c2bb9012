# SPDX-License-Identifier: MIT
"""Standard output and error of a command, which may be closed, full, or a pipe that nobody reads any more.

What a command has done is told by its exit status, so that must not depend on who listens. Whoever only prints fails when
its output is lost; whoever does something goes on without.
"""

import io
import os
import select
import sys
from typing import Any, Final, TextIO

_STDOUT: Final = 1
_STDERR: Final = 2


class _Raw(io.FileIO):
    """A file descriptor that takes everything: what cannot be written is lost, and once that is so, all that follows."""

    def __init__(self, fd: int, *, strict: bool, error: OSError | None) -> None:
        super().__init__(fd, "w", closefd=False)
        self.strict = strict
        self.lost: OSError | None = None
        self._closed = error
        self._told = False

    def write(self, data: Any) -> int:
        """Write, or lose, all of it; the error is raised once, if somebody wants to know."""
        left = memoryview(data).cast("B")
        if left:
            self.lost = self.lost or self._closed
        size = len(left)
        while left and self.lost is None:
            try:
                left = left[os.write(self.fileno(), left) :]
            except BlockingIOError:
                select.select([], [self.fileno()], [])
            except OSError as error:
                self.lost = error
                null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(null, self.fileno())  # also what children of ours write
                os.close(null)
        if self.lost is not None and self.strict and not self._told:
            self._told = True
            raise self.lost
        return size


_raw: dict[int, _Raw] = {}


def open_missing() -> dict[int, OSError]:
    """Put /dev/null where there is no standard input, output or error: no file of ours shall have such a number.

    A program that we execute finds it closed, as we did.
    """
    missing = {}
    for fd in (0, _STDOUT, _STDERR):
        try:
            os.fstat(fd)
        except OSError as error:
            missing[fd] = error
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # the lowest number that is free
    return missing


def make_steady() -> None:
    """Let no print() fail but where `strict` wants it. Only in a process of our own: a test may have put others there."""
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        return
    missing = open_missing()
    sys.stdout = _steady(_STDOUT, sys.stdout, missing.get(_STDOUT), strict=True)
    sys.stderr = _steady(_STDERR, sys.stderr, missing.get(_STDERR), strict=False)


def _steady(fd: int, old: TextIO | None, error: OSError | None, *, strict: bool) -> TextIO:
    raw = _raw[fd] = _Raw(fd, strict=strict, error=error)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding if old is not None else "utf-8",
        errors="backslashreplace",  # names of files and devices may be anything
        line_buffering=fd == _STDERR or raw.isatty() or bool(old is not None and old.line_buffering),
        write_through=os.environ.get("PYTHONUNBUFFERED", "") != "",
    )


def go_on_without() -> None:
    """Lose standard output, if it comes to that, without an error: what this command does is more than to print."""
    if _STDOUT in _raw:
        _raw[_STDOUT].strict = False


def was_wanted() -> bool:
    """Whether to print was all that was asked for."""
    return _STDOUT in _raw and _raw[_STDOUT].strict


def is_ours(error: BaseException) -> bool:
    """Whether it says that standard output is lost."""
    return _STDOUT in _raw and error is _raw[_STDOUT].lost


def finish() -> OSError | None:
    """Write what has not been written yet; what became of standard output, if it was lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # it is returned, or was standard error
    return _raw[_STDOUT].lost if _STDOUT in _raw else None
