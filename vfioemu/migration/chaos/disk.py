# SPDX-License-Identifier: MIT
"""A directory for journals in memory, with the deaths of who writes it, before, in the middle of, and after each write."""

import errno
import os
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens at a write."""

    NOTHING_AND_DEATH = "the writer dies, and nothing of it is there"
    HALF_AND_DEATH = "the writer dies, and half of it is there"
    ALL_AND_DEATH = "the writer dies, and all of it is there"
    NOTHING_AND_ERROR = "it fails, and nothing of it is there"
    HALF_AND_ERROR = "it fails, and half of it is there"
    ALL_AND_ERROR = "it fails, and all of it is there"


DEATHS = (Fault.NOTHING_AND_DEATH, Fault.HALF_AND_DEATH, Fault.ALL_AND_DEATH)
"""Faults after which the writer does nothing more."""


class Death(BaseException):
    """The process that writes has died in this write."""


@dataclass(slots=True)
class _Content:
    """A file: its bytes, how many of them survive a crash of the machine, and who has it locked."""

    data: bytes = b""
    durable: int = 0
    owner: str = ""


class Disk:
    """The directory, which outlives all processes.

    Attributes:
        writes: how many there were since `fault` was set.
        fault: (n, what): what happens at the n-th write from now on, from 0.
        synced: a write survives a crash of the machine when it returns.
        full: nothing can be written.
    """

    def __init__(self) -> None:
        self.files: dict[str, _Content] = {}
        self.writes = 0
        self.fault: tuple[int, Fault] | None = None
        self.synced = True
        self.full = False

    def seen_by(self, process: str) -> "View":
        """Return the directory as a process has it open."""
        return View(self, process)

    def died(self, process: str) -> None:
        """Give up the locks of a process that has died, and lose what it has not synced, as if the machine had died, too."""
        for content in self.files.values():
            if content.owner == process:
                content.owner = ""
                content.data = content.data[: content.durable]

    def state(self) -> tuple[tuple[str, bytes, str], ...]:
        """Return all that tells two disks apart."""
        return tuple((name, content.data, content.owner) for name, content in self.files.items())


class View:
    """`Files` of one process."""

    def __init__(self, disk: Disk, process: str) -> None:
        self._disk = disk
        self._process = process

    def create(self, name: str) -> "Open":
        """Make a file and lock it."""
        if self._disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        if name in self._disk.files:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._disk.files[name] = _Content(owner=self._process)
        return Open(self._disk, self._disk.files[name])

    def open(self, name: str) -> "Open":
        """Open a file and lock it."""
        content = self._disk.files.get(name)
        if content is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if content.owner:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)
        content.owner = self._process
        return Open(self._disk, content)

    def names(self) -> list[str]:
        """List the files, the oldest first."""
        return list(self._disk.files)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._disk.files.pop(name, None)


class Open:
    """An open file, locked."""

    def __init__(self, disk: Disk, content: _Content) -> None:
        self._disk = disk
        self._content = content

    def read(self, most: int) -> bytes:
        """Read it from its beginning."""
        return self._content.data[:most]

    def append(self, data: bytes) -> None:
        """Write at its end, or do what the fault says."""
        disk = self._disk
        if disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number, disk.writes = disk.writes, disk.writes + 1
        fault = disk.fault[1] if disk.fault is not None and disk.fault[0] == number else None
        if fault in (Fault.NOTHING_AND_DEATH, Fault.NOTHING_AND_ERROR):
            data = b""
        elif fault in (Fault.HALF_AND_DEATH, Fault.HALF_AND_ERROR):
            data = data[: len(data) // 2]
        self._content.data += data
        if disk.synced:
            self._content.durable = len(self._content.data)
        if fault in DEATHS:
            raise Death
        if fault is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, size: int) -> None:
        """Cut what is behind `size` bytes."""
        self._content.data = self._content.data[:size]
        self._content.durable = min(self._content.durable, size)

    def close(self) -> None:
        """Give up the lock."""
        self._content.owner = ""
