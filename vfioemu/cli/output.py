# SPDX-License-Identifier: MIT
"""Standard output and error of a command, which may be closed, full, or a pipe without a reader.

A command's exit status says what it did, so a lost output must not change it. A command whose only effect is its output fails
when that is lost; any other goes on.
"""

import io
import os
import select
import sys
from typing import Any, Final, TextIO

_STDOUT: Final = 1
_STDERR: Final = 2


class _Raw(io.FileIO):
    """A file descriptor that accepts every write: after the first failed one, all output is dropped."""

    def __init__(self, fd: int, *, strict: bool, error: OSError | None) -> None:
        super().__init__(fd, "w", closefd=False)
        self.strict = strict
        self.lost: OSError | None = None
        self._closed = error
        self._told = False

    def write(self, data: Any) -> int:
        """Write or drop all of it; the error is raised once, if `strict`."""
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
                os.dup2(null, self.fileno())  # for children of ours, too
                os.close(null)
        if self.lost is not None and self.strict and not self._told:
            self._told = True
            raise self.lost
        return size


_raw: dict[int, _Raw] = {}


def open_missing() -> dict[int, OSError]:
    """Open /dev/null in place of a missing stdin, stdout or stderr, so that no other file gets such a number.

    It is close-on-exec: a program that we execute finds the fd closed, as we did.
    """
    missing = {}
    for fd in (0, _STDOUT, _STDERR):
        try:
            os.fstat(fd)
        except OSError as error:
            missing[fd] = error
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # takes the lowest free number, which is `fd`
    return missing


def make_steady() -> None:
    """Make print() fail only where `strict` says so; skipped if somebody, as a test, has replaced the streams."""
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
    """Accept the loss of standard output without an error, for a command that does more than to print."""
    if _STDOUT in _raw:
        _raw[_STDOUT].strict = False


def was_wanted() -> bool:
    """Return True if the command's only effect is its output."""
    return _STDOUT in _raw and _raw[_STDOUT].strict


def is_ours(error: BaseException) -> bool:
    """Return True if the error is the loss of standard output."""
    return _STDOUT in _raw and error is _raw[_STDOUT].lost


def finish() -> OSError | None:
    """Flush the output; return the error by which standard output was lost, if it was."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # returned below, unless it was standard error
    return _raw[_STDOUT].lost if _STDOUT in _raw else None
