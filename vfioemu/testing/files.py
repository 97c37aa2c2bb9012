# SPDX-License-Identifier: MIT
"""What the fds of an in-memory process refer to, and what its system calls return."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from vfioemu.core.file import File

EVENTFD_MAX: Final = (1 << 64) - 2

_NAMES: Final[Mapping[int, str]] = {errno.EOPNOTSUPP: "EOPNOTSUPP"}  # Python knows it as ENOTSUP


def errno_name(number: int) -> str:
    """The symbolic name of an errno as glibc's strerrorname_np() has it."""
    return _NAMES.get(number) or errno.errorcode.get(number, str(number))


class Result(NamedTuple):
    """What a system call returned: the value and, if it is -1, the errno's name."""

    ret: int
    err: str | None = None


class MemoryEventFd:
    """An eventfd: the counter, and how many references the core holds to it."""

    is_eventfd = True

    def __init__(self) -> None:
        self.count = 0
        self.references = 0
        self.watchers: list[MemoryWatcher] = []

    def signal(self) -> None:
        """eventfd_signal(): add one, at most up to the largest value."""
        self.add(min(1, EVENTFD_MAX - self.count))

    def add(self, count: int) -> None:
        """Add to the counter; whoever watches the eventfd takes it away again."""
        self.count += count
        if self.count and self.watchers:
            self.count = 0
            for watcher in list(self.watchers):
                watcher.then()

    def close(self) -> None:
        """eventfd_ctx_put()."""
        if self.references <= 0:
            raise AssertionError("an eventfd reference was dropped twice")
        self.references -= 1


class MemoryWatcher:
    """Calls `then` when the eventfd has been signalled; holds a reference to it."""

    def __init__(self, eventfd: MemoryEventFd, then: Callable[[], object]) -> None:
        self._eventfd = eventfd
        self.then = then
        eventfd.watchers.append(self)
        eventfd.add(0)

    def close(self) -> None:
        """Stop."""
        if self in self._eventfd.watchers:
            self._eventfd.watchers.remove(self)
            self._eventfd.close()


class NullDevice:
    """An open /dev/null: an fd that is none of ours."""


Opened: TypeAlias = File | MemoryEventFd | NullDevice


@dataclass(eq=False, slots=True)
class OpenFile:
    """The kernel's struct file: what is open, and how many fds and running calls refer to it."""

    what: Opened
    references: int = 0
