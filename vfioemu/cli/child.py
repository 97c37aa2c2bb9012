# SPDX-License-Identifier: MIT
"""A program in our place: what becomes of it becomes of us, and signals for us are for it.

The program stays in our process group, so the terminal is as much its own as if the shell had started it; what the
terminal sends to the group (^C, ^Z, hang-up, a new size) reaches it without our help, and we must not send it twice.
What somebody sends to us alone is sent on. It cannot outlive us: the kernel kills it when we are killed.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from vfioemu.cli.errors import CommandError
from vfioemu.cli.program import CANNOT_RUN, NOT_FOUND, Program

_FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGTSTP,
)
_WATCHED: Final = frozenset({*_FORWARDED, signal.SIGCHLD})
_JOB_STOPS: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_PYTHONS: Final = ("SIGPIPE", "SIGXFZ", "SIGXFSZ")
"""Signals that the interpreter ignores for itself."""
_PR_SET_PDEATHSIG: Final = 1


def run(program: Program, environment: Mapping[str, str], ended: Callable[[int, int], None]) -> int:
    """Execute a program and wait for its end.

    Args:
        program: what.
        environment: its environment.
        ended: is told when another child of ours ends: its pid and wait status.

    Returns:
        The wait status of the program. The signals stay blocked: what is left to do is to end as it has.

    Raises:
        CommandError: it cannot be executed.
    """
    try:
        signal.sigtimedwait((), 0)
    except OSError as error:  # a program that is not waited for would be left alone
        raise CommandError(
            f"the system refuses rt_sigtimedwait: {error.strerror}",
            "a filter of system calls (seccomp), or a container, may forbid it",
        ) from None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    return _wait(_start(program, environment, mask), ended)


def _start(program: Program, environment: Mapping[str, str], mask: Iterable[int]) -> int:
    prctl = ctypes.CDLL(None).prctl
    ours = os.getpid()
    failed, theirs = os.pipe()  # close-on-exec: closed without a word if execve() succeeds
    pid = os.fork()
    if not pid:
        try:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != ours:
                os.kill(os.getpid(), signal.SIGKILL)
            for name in _PYTHONS:
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_DFL)
            for caught in _FORWARDED:  # as execve() will do: until then one would be an exception here
                if callable(signal.getsignal(caught)):
                    signal.signal(caught, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execve(program.path, program.arguments, environment)
        except OSError as error:
            os.write(theirs, str(error.errno).encode())
        finally:
            os._exit(CANNOT_RUN)
    # What the terminal has sent before there was a child is not in its own queue.
    for early in signal.sigpending() & frozenset(_FORWARDED):
        if signal.sigtimedwait([early], 0):
            os.kill(pid, early)
    os.close(theirs)
    with os.fdopen(failed, "rb") as pipe:
        number = pipe.read()
    if number:
        os.waitpid(pid, 0)
        code = NOT_FOUND if int(number) == errno.ENOENT else CANNOT_RUN
        raise CommandError(f"{program.path}: {os.strerror(int(number))}", exit_code=code)
    return pid


def _wait(pid: int, ended: Callable[[int, int], None]) -> int:
    while True:
        info = signal.sigwaitinfo(_WATCHED)
        if info.si_signo != signal.SIGCHLD:
            # From the kernel (the terminal): the whole group has it. From the program: it was for its group too.
            if info.si_pid != pid if info.si_code <= 0 else _is_for_us_alone(info.si_signo):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, info.si_signo)
            continue
        result = None
        while True:  # all that have ended: who ended before the program is told of, too
            try:
                child, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                if result is None:  # pragma: no cover - the program is waited for here only
                    raise CommandError(f"the program (pid {pid}) is gone") from None
                break
            if not child:
                break
            if child != pid:
                if not os.WIFSTOPPED(status):
                    ended(child, status)
            elif not os.WIFSTOPPED(status):
                result = status
            elif os.WSTOPSIG(status) in _JOB_STOPS:
                _stop_too(pid)
        if result is not None:
            return result


def _is_for_us_alone(number: int) -> bool:
    """Of what the kernel sends: that its terminal is gone is told to the leader of a session only, who is to end.

    That is us where a terminal, ssh or tmux runs us without a shell.
    """
    return number in (signal.SIGHUP, signal.SIGCONT) and os.getsid(0) == os.getpid()


def _stop_too(pid: int) -> None:
    """The program has been stopped by the terminal: so are we, for the shell that waits for us; then both go on.

    The default action of SIGTSTP, and not SIGSTOP: without a shell that could continue us, nothing happens.
    """
    previous = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])  # stopped here until SIGCONT
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
    if previous is not None:
        signal.signal(signal.SIGTSTP, previous)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def end_like(status: int) -> int:
    """End as a program with that wait status has ended: the exit code, or no return at all."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])
    )  # one core is enough
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    return 128 + number
