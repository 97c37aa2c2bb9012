# SPDX-License-Identifier: MIT
"""Run a program as our child: forward signals to it, and exit as it does.

The program stays in our process group, so it owns the terminal as if the shell had started it. What the terminal sends to the
group (^C, ^Z, hang-up, a new size) reaches it without us, and must not be sent twice. What somebody sends to our pid alone is
forwarded. It cannot outlive us: the kernel kills it when we are killed (PR_SET_PDEATHSIG).
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
"""Signals that the interpreter ignores, and that a program must not inherit as ignored."""
_PR_SET_PDEATHSIG: Final = 1


def run(program: Program, environment: Mapping[str, str], ended: Callable[[int, int], None]) -> int:
    """Execute a program and wait for its end.

    Args:
        program: the program.
        environment: its environment.
        ended: called with the pid and wait status of any other child of ours that ends.

    Returns:
        The wait status of the program. The signals stay blocked: the caller ends next, as the program did.

    Raises:
        CommandError: it cannot be executed.
    """
    try:
        signal.sigtimedwait((), 0)
    except OSError as error:  # check before the start: without it we could not wait for the program
        raise CommandError(
            f"the system refuses rt_sigtimedwait: {error.strerror}",
            "a filter of system calls (seccomp), or a container, may forbid it",
        ) from None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    return _wait(_start(program, environment, mask), ended)


def _start(program: Program, environment: Mapping[str, str], mask: Iterable[int]) -> int:
    prctl = ctypes.CDLL(None).prctl
    ours = os.getpid()
    failed, theirs = os.pipe()  # close-on-exec: reads as empty if execve() succeeds
    pid = os.fork()
    if not pid:
        try:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != ours:
                os.kill(os.getpid(), signal.SIGKILL)
            for name in _PYTHONS:
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_DFL)
            for (
                caught
            ) in _FORWARDED:  # as execve() will do; before it, a signal would raise an exception here
                if callable(signal.getsignal(caught)):
                    signal.signal(caught, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execve(program.path, program.arguments, environment)
        except OSError as error:
            os.write(theirs, str(error.errno).encode())
        finally:
            os._exit(CANNOT_RUN)
    # The child did not get what the terminal sent before the fork.
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
            # Sent by the kernel (the terminal) or by the program to its group: the child has it already.
            if info.si_pid != pid if info.si_code <= 0 else _is_for_us_alone(info.si_signo):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, info.si_signo)
            continue
        result = None
        while True:  # one SIGCHLD may stand for several children
            try:
                child, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                if result is None:  # pragma: no cover - the program is waited for here only
                    raise CommandError(f"the program (pid {pid}) was waited for elsewhere") from None
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
    """Return True for a signal of the kernel that only the leader of a session gets, when its terminal hangs up, and we are it.

    We are the leader where a terminal, ssh or tmux runs us without a shell.
    """
    return number in (signal.SIGHUP, signal.SIGCONT) and os.getsid(0) == os.getpid()


def _stop_too(pid: int) -> None:
    """Stop when the terminal has stopped the program, so that the shell notices; on SIGCONT continue both.

    SIGTSTP with its default action, not SIGSTOP: it does nothing in an orphaned group, where no shell could continue us.
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
    """End as a program with this wait status did: return the exit code, or raise its signal and not return."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])
    )  # the program has dumped core already
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    return 128 + number
