# SPDX-License-Identifier: MIT
"""What the fds of an in-memory process refer to, and what its system calls return."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from vfioemu.core.base.effects import EventFd, Steps
from vfioemu.core.base.file import File, Mapped
from vfioemu.testing.memory import Memory

EVENTFD_MAX: Final = (1 << 64) - 2
EVENTFD_SIZE: Final = 8

_NAMES: Final[Mapping[int, str]] = {errno.EOPNOTSUPP: "EOPNOTSUPP"}  # Python knows it as ENOTSUP


def errno_name(number: int) -> str:
    """Return the symbolic name of an errno, as glibc's strerrorname_np() has it."""
    return _NAMES.get(number) or errno.errorcode.get(number, str(number))


class Result(NamedTuple):
    """The result of a system call: the value and, if it is -1, the errno's name."""

    ret: int
    err: str | None = None


class MemoryEventFd(EventFd):
    """An eventfd: the counter, how many references the core holds to it, and what fds refer to."""

    opened: "OpenFile"

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


def fd_of(steps: Steps[Mapped]) -> Steps[int]:
    """Return the fd that an mmap() shows, without the place in it."""
    return (yield from steps).fd


def read_eventfd(eventfd: MemoryEventFd, memory: Memory, addr: int, size: int) -> Result:
    """Read a non-blocking eventfd: EINVAL, EAGAIN, EFAULT."""
    if size < EVENTFD_SIZE:
        return Result(-1, "EINVAL")
    if not eventfd.count:
        return Result(-1, "EAGAIN")
    count, eventfd.count = eventfd.count, 0
    written = memory.write(addr, count.to_bytes(EVENTFD_SIZE, "little"))
    return Result(EVENTFD_SIZE) if written == EVENTFD_SIZE else Result(-1, "EFAULT")


def write_eventfd(eventfd: MemoryEventFd, memory: Memory, addr: int, size: int) -> Result:
    """Add to the counter of an eventfd: EINVAL, EFAULT, EAGAIN."""
    if size < EVENTFD_SIZE:
        return Result(-1, "EINVAL")
    data = memory.read(addr, EVENTFD_SIZE)
    if len(data) < EVENTFD_SIZE:
        return Result(-1, "EFAULT")
    count = int.from_bytes(data, "little")
    if count > EVENTFD_MAX:
        return Result(-1, "EINVAL")
    if eventfd.count + count > EVENTFD_MAX:
        return Result(-1, "EAGAIN")
    eventfd.add(count)
    return Result(EVENTFD_SIZE)
