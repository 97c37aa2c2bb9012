# SPDX-License-Identifier: MIT
"""What each side of a hand-over has to know after its death: one small file for each migration and side.

    DIR/<token>.source         BEGUN, COMMIT, then RELEASED or RESUMED
    DIR/<token>.destination    BEGUN, READY, STARTED or REFUSED

A file for each token, and not one log for all, because a directory then serves any number of processes at once, also both sides of
one machine, and because a file that is over can go. Who writes a file holds a flock(2) on it as long as it lives: a file that
can be locked is a dead process's, and is settled by whoever asks (`settle`). Nothing else tells that a process is dead for certain.

`Files` is what is wanted of a file system; files.py does it with the kernel, the explorer in memory, with crashes.
"""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, Protocol

from vfioemu.migration.records import DamagedError, Entry, Record, decode, encode

MOST_FILES: Final = 256
"""Files of dead processes that are kept; a token whose file is gone is unknown, which settles nothing, and hurts nobody."""


class Role(StrEnum):
    """Whose file it is."""

    SOURCE = "source"
    DESTINATION = "destination"


class Standing(StrEnum):
    """What a destination makes of one token."""

    LOADING = "loading"
    READY = "ready"
    STARTING = "starting"
    STARTED = "started"
    ENDED = "ended"
    """It was started, or told to start, and the process that had it is dead, and the guest with it."""
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Fate(StrEnum):
    """What became of a guest."""

    MOVED = "moved"
    """The destination runs it."""
    ENDED = "ended"
    """The destination was told to start it, and has died since."""
    NOT_MOVED = "not_moved"
    """The destination has never run it, and never will; at the source it ended with its client."""
    IN_DOUBT = "in_doubt"
    """Nobody answers who knows."""
    RUNNING = "running"
    """The client of the source lives; it will say it."""


class File(Protocol):
    """An open file that nobody else has locked. Methods raise OSError."""

    def read(self, most: int) -> bytes:
        """Read it from its beginning, up to `most` bytes."""

    def append(self, data: bytes) -> None:
        """Write at its end, and return when that survives a crash."""

    def truncate(self, size: int) -> None:
        """Cut what is behind `size` bytes, and return when that survives a crash."""

    def close(self) -> None:
        """Close it, and give up the lock."""


class Files(Protocol):
    """A directory of our own. Methods raise OSError."""

    def create(self, name: str) -> File:
        """Make a file and lock it, and return when its name survives a crash; EEXIST if there is one."""

    def open(self, name: str) -> File:
        """Open a file and lock it; ENOENT, or EAGAIN if a living process has it."""

    def names(self) -> list[str]:
        """List all files, the oldest first."""

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if it is gone."""


class Log:
    """The file of one migration and side, locked.

    Attributes:
        token: the migration.
        entries: what is in it.
    """

    def __init__(
        self, files: Files, name: str, file: File, entries: Sequence[Entry] = (), size: int = 0
    ) -> None:
        self.token = name.partition(".")[0]
        self.entries = list(entries)
        self._files = files
        self._name = name
        self._file: File | None = file
        self._size = size

    @property
    def records(self) -> list[Record]:
        """The kinds of all records."""
        return [entry.record for entry in self.entries]

    def write(self, record: Record, *, uri: str = "", guest: str = "", why: str = "") -> None:
        """Write a record, and return when it survives a crash.

        Raises:
            OSError: that is not known; a part of it, or all of it, may be there.
        """
        if self._file is None:
            raise OSError(errno.EBADF, f"the log of {self.token} is closed")
        entry = Entry(
            record=record, when=round(time.time(), 3), uri=uri, guest=guest, pid=os.getpid(), why=why[:1000]
        )
        self._file.truncate(self._size)  # what an earlier write has left that failed
        line = encode(entry)
        self._file.append(line)
        self._size += len(line)
        self.entries.append(entry)

    def take_back(self, record: Record) -> None:
        """Cut the last such record and what is behind it, where nothing can be added: a full disk still gets shorter.

        Raises:
            OSError: it may still be there.
        """
        kept = self.entries[: len(self.entries) - 1 - self.records[::-1].index(record)]
        self._size = sum(len(encode(entry)) for entry in kept)
        self.entries = kept
        if self._file is not None:
            self._file.truncate(self._size)

    def close(self) -> None:
        """Give it up; it stays for whoever asks."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Give it up, and remove it: nobody will ever ask."""
        try:
            self._files.remove(self._name)
        except OSError:
            pass  # it stays, which hurts nobody
        self.close()


class Journal:
    """All logs of a directory.

    Args:
        files: the directory.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def begin(self, role: Role, token: str, *, uri: str = "", guest: str = "") -> Log:
        """Begin the log of a new migration, with BEGUN.

        Raises:
            OSError: EEXIST, there is one; or it cannot be written.
        """
        self._prune()
        name = f"{token}.{role}"
        log = Log(self._files, name, self._files.create(name))
        try:
            log.write(Record.BEGUN, uri=uri, guest=guest)
        except OSError:
            log.remove()
            raise
        return log

    def take(self, role: Role, token: str) -> Log:
        """Open the log of a process that is dead.

        Raises:
            OSError: ENOENT, there is none; EAGAIN, its process lives.
            DamagedError: it says nothing.
        """
        name = f"{token}.{role}"
        file = self._files.open(name)
        try:
            entries, size = decode(file.read(1 << 20))
        except BaseException:
            file.close()
            raise
        return Log(self._files, name, file, entries, size)

    def tokens(self, role: Role) -> Iterator[str]:
        """List the tokens of which there is a log, the oldest first."""
        for name in self._files.names():
            token, _, kind = name.partition(".")
            if kind == role:
                yield token

    def settle(self, token: str) -> Standing:
        """Find out what became of a guest at a destination that may be dead; if it had not been told to start, it never will be.

        Returns:
            ENDED, REFUSED, or UNKNOWN: there is no log, or its process lives, or it cannot be read or written.
        """
        try:
            log = self.take(Role.DESTINATION, token)
        except (OSError, DamagedError):
            return Standing.UNKNOWN
        try:
            standing = outcome(log.records)
            if standing is Standing.LOADING:
                log.write(Record.REFUSED, why="the destination has died before it started the guest")
                standing = Standing.REFUSED
        except OSError:
            return Standing.UNKNOWN
        finally:
            log.close()
        return standing

    def _prune(self) -> None:
        """Remove the oldest files of dead processes, so that there are less than MOST_FILES."""
        try:
            names = self._files.names()
        except OSError:
            return
        for name in names[: max(0, len(names) - MOST_FILES + 1)]:
            try:
                file = self._files.open(name)
            except OSError:
                continue  # its process lives, or it has gone meanwhile
            try:
                self._files.remove(name)
            except OSError:
                pass  # it stays, which hurts nobody
            finally:
                file.close()


def outcome(records: list[Record]) -> Standing:
    """Read what became of a guest at a destination that is dead: ENDED, REFUSED, or LOADING if nothing is settled."""
    for record in reversed(records):
        if record is Record.STARTED:
            return Standing.ENDED
        if record is Record.REFUSED:
            return Standing.REFUSED
    return Standing.LOADING
