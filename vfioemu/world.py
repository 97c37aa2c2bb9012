# SPDX-License-Identifier: MIT
"""Tell refusals of the system, reported in one line with their cause, from bugs of ours.

This is the one place that decides it. A command ends with status 1 for the former; with 70 and a traceback for the latter.
"""

import errno
import linecache
import os
import re
import resource
import signal
import traceback
from typing import Final, NamedTuple

from vfioemu.private import PlaceError

_OURS: Final = frozenset(
    {errno.EBADF, errno.EINVAL, errno.EFAULT, errno.ENOTSOCK, errno.EISCONN, errno.ENOTCONN, errno.EALREADY}
    | {
        errno.EDESTADDRREQ,
        errno.ENOTTY,
        errno.ECHILD,
        errno.EDOM,
        errno.ERANGE,
        errno.EOPNOTSUPP,
        errno.EDEADLK,
    }
)
"""Errnos that mean that our call was wrong."""
_CALLED: Final = re.compile(r"(?:[a-zA-Z_]\w*\.)*?([a-z_]\w*)(?:\.__init__)?\(")
_NO_THREAD: Final = "can't start new thread"
_NO_ROOM: Final = (
    "failed to map segment",
    "cannot allocate memory",
    "too many open files",
    "input/output error",
)
"""Texts of the dynamic linker about a module that exists but cannot be loaded for lack of resources."""
_FORBIDDEN: Final = "a filter of system calls (seccomp), or a container, may forbid it"


class Refusal(NamedTuple):
    """A refusal of the system.

    Attributes:
        what: what was refused, and why.
        hint: what to do about it; may be empty.
    """

    what: str
    hint: str = ""

    def __str__(self) -> str:
        return self.what


class RefusedError(Exception):
    """The system refused something to another process of ours, which reported it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.what)
        self.refusal = refusal


def end_of(process: str, status: int) -> Refusal:
    """Describe a process of ours that ended before it was ready, without a message of its own.

    Args:
        process: its name for people.
        status: its exit status; -n if signal n ended it.
    """
    if status >= 0:
        return Refusal(f"{process} ended with status {status} before it was ready")
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = "the system kills what uses too much memory; `dmesg` tells" if -status == signal.SIGKILL else ""
    return Refusal(f"{process} was ended by {name} before it was ready", hint)


def refusal(error: BaseException) -> Refusal | None:
    """Describe an error as a refusal of the system; None if it is a bug of ours."""
    if isinstance(error, BaseExceptionGroup):
        return _of_all(error)
    if isinstance(error, RefusedError):
        return error.refusal
    if isinstance(error, PlaceError):
        return Refusal(str(error), error.hint)
    if isinstance(error, MemoryError):
        return Refusal("not enough memory", _limit(resource.RLIMIT_AS, "-v"))
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return Refusal("cannot start another thread", _limit(resource.RLIMIT_NPROC, "-u"))
    if isinstance(error, ImportError):
        text = str(error)
        return Refusal(text) if any(sign in text.lower() for sign in _NO_ROOM) else None
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _OURS:
        if error.strerror and error.strerror != os.strerror(error.errno):
            return Refusal(error.strerror)  # raised by ourselves, with a complete text
        return Refusal(_what(error), _hint(error))
    return None


def _of_all(group: "BaseExceptionGroup[BaseException]") -> Refusal | None:
    """Return the first refusal of an exception group; None if any member is a bug."""
    told = [refusal(error) for error in group.exceptions]
    return None if None in told else told[0]


def _what(error: OSError) -> str:
    why = error.strerror or os.strerror(error.errno or 0)
    if error.filename is None:
        call = _call_of(error)
        return f"{call}: {why}" if call else f"the system refuses what we need: {why}"
    name = (
        error.filename if error.filename2 is None else error.filename2
    )  # of symlink() and rename(): the name that is made
    return f"{os.fsdecode(name) if isinstance(name, str | bytes) else name}: {why}"


def _call_of(error: BaseException) -> str:
    """Return the name of the call that raised the error, read from the source line; "" if it is unknown."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or frames[-1].lineno is None or frames[-1].colno is None:
        return ""
    line = linecache.getline(frames[-1].filename, frames[-1].lineno)
    found = _CALLED.match(line[frames[-1].colno :])
    return "" if found is None else found[1].strip("_")


def _hint(error: OSError) -> str:
    if error.errno == errno.EMFILE:
        return _limit(resource.RLIMIT_NOFILE, "-n")
    if error.errno == errno.EAGAIN and error.filename is None:
        return _limit(resource.RLIMIT_NPROC, "-u")
    if error.errno == errno.ENOSPC:
        return "its file system has no space or no inodes left"
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS) and error.filename is None:
        return _FORBIDDEN
    return ""


def _limit(number: int, option: str) -> str:
    soft, _ = resource.getrlimit(number)
    return "" if soft == resource.RLIM_INFINITY else f"`ulimit {option}` is {soft}"
