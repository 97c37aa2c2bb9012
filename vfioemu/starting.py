# SPDX-License-Identifier: MIT
"""Start our own commands as child processes. They load no code from the current directory, and end when we end."""

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
"""Write ends of pipes, for systems without pidfds: the kernel closes them when this process ends."""


def python(module: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """Build the command line that runs a module of ours.

    With -P, a `queue.py` or a folder `vfioemu` in the current directory is not imported in place of the real one.
    """
    return [sys.executable, "-P", "-m", module, *(os.fspath(argument) for argument in arguments)]


def command(*arguments: str | os.PathLike[str]) -> list[str]:
    """Build the command line of `vfioemu ARGUMENTS`."""
    return python("vfioemu.cli.main", *arguments)


def lifeline() -> int:
    """Return an fd that becomes readable when this process ends, however it ends; the caller closes it.

    A child watches it. Asking getppid() instead would be a race: the child may have another parent by then.
    """
    try:
        return os.pidfd_open(os.getpid())
    except OSError:  # a seccomp filter refuses it
        ours, theirs = os.pipe()
        _kept.append(theirs)
        return ours


def dying_with_us(number: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """Return a function for the child to call before exec: it arranges that `number` is sent when our thread ends.

    For programs that take no lifeline (PR_SET_PDEATHSIG).
    """
    prctl = ctypes.CDLL(None).prctl
    ours = os.getpid()

    def call() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != ours:
            os._exit(128 + number)

    return call


@contextlib.contextmanager
def held_interrupts() -> Iterator[None]:
    """Block SIGINT while a process is forked.

    Python runs its fork hooks in the child before any line of ours; an interrupt there would be handled by nobody.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_a_worker(parent: int) -> None:
    """Prepare a forked worker: ignore SIGINT, and get SIGKILL when the parent ends.

    Must be the worker's first call. The parent handles ^C.

    Args:
        parent: pid of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by held_interrupts()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def start_daemon(
    arguments: Sequence[str | os.PathLike[str]], *, pass_fds: Sequence[int] = (), **options: Any
) -> tuple["subprocess.Popen[bytes]", str]:
    """Start `vfioemu ARGUMENTS`, a daemon, and wait until it is ready or has ended.

    Args:
        arguments: `serve` and its options.
        pass_fds: further fds to inherit.
        options: of subprocess.Popen.

    Returns:
        The process, and the path of its socket; the path is "" if the daemon has ended or is about to.
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
        process.terminate()  # SIGTERM, not SIGKILL: it may have a directory to remove
        process.wait()
        raise
