# SPDX-License-Identifier: MIT
"""A daemon that goes to the background when it is ready: until then its errors are the command's."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOG: Final = "log"
"""In the runtime directory: what the daemon says from then on."""


def start(serve: Callable[[int], int]) -> tuple[str, int]:
    """Run a daemon in a process of its own.

    Args:
        serve: runs it, and returns its exit status; the fd that it is given gets the socket's path when it is ready.

    Returns:
        The socket's path and the pid; or "" and the exit status, if it did not start: it has said why.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ready, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ready)
        os.setsid()  # the terminal's ^C and its hang-up are not for us
        sys.exit(serve(theirs))
    os.close(theirs)
    with os.fdopen(ready, "rb") as pipe:
        path = os.fsdecode(pipe.read().rstrip(b"\n"))
    if path:
        return path, pid
    return "", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave_terminal(directory: Path) -> None:
    """Read nothing, and write into the directory's log, from now on: whoever started us gets its pipes closed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    for fd, opened in (
        (0, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)),
        (1, os.open(directory / LOG, flags, 0o600)),
    ):
        os.dup2(opened, fd)
        os.close(opened)
    os.dup2(1, 2)
