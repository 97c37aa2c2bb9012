# SPDX-License-Identifier: MIT
"""Move a daemon to the background once it is ready; until then its errors are the command's."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOG: Final = "log"
"""File in the runtime directory that gets the daemon's later output."""


def start(serve: Callable[[int], int]) -> tuple[str, int]:
    """Run a daemon in a process of its own.

    Args:
        serve: runs it and returns its exit status; writes the socket's path to the given fd when it is ready.

    Returns:
        The socket's path and the pid; or "" and the exit status, if it did not start and has reported why.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ready, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ready)
        os.setsid()  # leave the terminal: no SIGINT and SIGHUP from it
        sys.exit(serve(theirs))
    os.close(theirs)
    with os.fdopen(ready, "rb") as pipe:
        path = os.fsdecode(pipe.read().rstrip(b"\n"))
    if path:
        return path, pid
    return "", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave_terminal(directory: Path) -> None:
    """Redirect stdin to /dev/null and output to the log in the directory, so that the starter's pipes get closed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    for fd, opened in (
        (0, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)),
        (1, os.open(directory / LOG, flags, 0o600)),
    ):
        os.dup2(opened, fd)
        os.close(opened)
    os.dup2(1, 2)
