# SPDX-License-Identifier: MIT
"""Who else has an eventfd: the kernel tells a driver when the last fd of it is closed, and nobody tells us.

Our own copy keeps the file open, so we can only look: each eventfd has a number of its own, which /proc tells of each fd.
"""

import os
from collections.abc import Collection
from typing import Final

import trio

from vfioemu.io.base.fds import duplicate

_KEY: Final = "eventfd-id:"
_LINK: Final = "anon_inode:[eventfd]"


def is_abandoned(fd: int, clients: Collection[int], own: int = 1) -> bool:
    """Tell whether no client has the eventfd. No if that cannot be seen: a system may hide it.

    Args:
        fd: ours.
        clients: the processes that could have it, into which we must be able to look; this one may be among them.
        own: how many fds of it this process has for itself.
    """
    number = _number("self", str(fd))
    if number is None or 0 in clients:  # another PID namespace
        return False
    try:
        everybody = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
    except OSError:
        return False
    us = os.getpid()
    if us in clients and _count(us, number) > own:
        return False
    return not any(_has(pid, number, unknown=pid in clients) for pid in everybody if pid != us)


async def look_abandoned(fd: int, clients: Collection[int], patience: float, *, own: int) -> bool:
    """Do the same in a thread, since looking at everybody's fds takes its time; no answer in `patience` seconds is a no.

    Shielded: whoever asks is a handler.

    Raises:
        IoctlError: EMFILE, ENFILE: we have no fd for the copy that the thread looks at, which `own` counts.
    """
    copy = duplicate(fd)
    answers: list[bool] = []

    def look() -> None:
        try:
            answers.append(is_abandoned(copy, clients, own))
        finally:
            os.close(copy)

    with trio.CancelScope(deadline=trio.current_time() + patience, shield=True):
        try:
            await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        except RuntimeError:  # the system has no thread for us now
            os.close(copy)
    return answers == [True]


def _count(pid: int, number: str) -> int:
    return sum(
        _is_eventfd(pid, fd) and _number(str(pid), fd) == number for fd in os.listdir(f"/proc/{pid}/fd")
    )


def _has(pid: int, number: str, *, unknown: bool) -> bool:
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return unknown
    except OSError:
        return False  # it has exited
    return any(_is_eventfd(pid, fd) and _number(str(pid), fd) == number for fd in fds)


def _is_eventfd(pid: int, fd: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}") == _LINK
    except OSError:
        return False


def _number(pid: str, fd: str) -> str | None:
    """Read the number of an eventfd; None before Linux 5.2, and if the fd has been closed."""
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as lines:
            return next((line.removeprefix(_KEY).strip() for line in lines if line.startswith(_KEY)), None)
    except OSError:
        return None
