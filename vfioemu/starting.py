# SPDX-License-Identifier: MIT
"""How we start ourselves: commands in processes of their own, which take no code from the current directory and end with us."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_kept: list[int] = []
"""Ends of pipes that are closed when we end, where there are no pidfds."""


def python(module: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """The command line of a module of ours. -P: `queue.py`, or a folder `vfioemu`, where the user stands is not ours."""
    return [sys.executable, "-P", "-m", module, *(os.fspath(argument) for argument in arguments)]


def command(*arguments: str | os.PathLike[str]) -> list[str]:
    """The command line of `vfioemu ARGUMENTS`."""
    return python("vfioemu.cli.main", *arguments)


def lifeline() -> int:
    """An fd for a child to watch: readable as soon as this process has ended, however it does; the caller closes it.

    There is no moment to miss, as there is for a child that asks who its parent is: it may have another by then.
    """
    try:
        return os.pidfd_open(os.getpid())
    except OSError:  # a filter of system calls
        ours, theirs = os.pipe()
        _kept.append(theirs)
        return ours


def dying_with_us(number: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """What a child calls before it executes a program that takes no lifeline: it gets that signal when our thread ends."""
    prctl = ctypes.CDLL(None).prctl
    ours = os.getpid()

    def call() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != ours:
            os._exit(128 + number)

    return call


@contextlib.contextmanager
def held_interrupts() -> Iterator[None]:
    """Hold ^C back while a process is forked: in it, hooks of Python's run before any line of ours could take it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_a_worker(parent: int) -> None:
    """What a forked process calls first that works for another: ^C is for that one, with which this one ends.

    Args:
        parent: its pid.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # held_interrupts()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def start_daemon(
    arguments: Sequence[str | os.PathLike[str]], *, pass_fds: Sequence[int] = (), **options: Any
) -> tuple["subprocess.Popen[bytes]", str]:
    """Start `vfioemu ARGUMENTS`, a daemon, and wait until it is ready or has ended.

    Args:
        arguments: `serve` and its options.
        pass_fds: what else it inherits.
        options: of subprocess.Popen.

    Returns:
        Its process, and its socket's path; "" if it has ended, or will at once.
    """
    ready, theirs = os.pipe()
    life = lifeline()
    try:
        line = command(*arguments, "--ready-fd", str(theirs), "--exit-with-fd", str(life))
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, pass_fds=[theirs, life, *pass_fds], **options
        )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(theirs)
        os.close(life)
    try:
        with os.fdopen(ready, "rb") as pipe:
            return process, os.fsdecode(pipe.read().rstrip(b"\n"))
    except BaseException:
        process.terminate()  # and not killed: it may have made its directory, and not yet told us
        process.wait()
        raise
