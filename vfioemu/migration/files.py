# SPDX-License-Identifier: MIT
"""The directory of a journal: on a file system (`Folder`), or nowhere (`Volatile`), which ends with the process."""

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Final

from vfioemu.private import make_base

_NAME: Final = re.compile(r"[0-9a-f]{32}\.(source|destination)")


class Folder:
    """A directory (0700) of our own, on a way that nobody else can change.

    A file is locked by flock(2), so it is the open file, and not the process, that has it: whoever has died has it no longer.

    Raises:
        PlaceError: it is another user's, or another user could replace it.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        make_base(path)
        self.path = path

    def create(self, name: str) -> "FolderFile":
        """Make a file and lock it, and return when its name survives a crash."""
        try:
            fd = self._open(name, os.O_CREAT | os.O_EXCL)
        except FileNotFoundError:  # another process has removed the directory, which was empty
            make_base(self.path)
            fd = self._open(name, os.O_CREAT | os.O_EXCL)
        file = FolderFile(fd)
        try:
            file.lock()
            self._sync()  # the name is in the directory, not in the file
        except BaseException:
            self.remove(name)
            file.close()
            raise
        return file

    def open(self, name: str) -> "FolderFile":
        """Open a file and lock it."""
        file = FolderFile(self._open(name, 0))
        try:
            file.lock()
        except BaseException:
            file.close()
            raise
        return file

    def names(self) -> list[str]:
        """List the files, the oldest first."""
        try:
            with os.scandir(self.path) as entries:
                found = [(_age(entry), entry.name) for entry in entries if _NAME.fullmatch(entry.name)]
        except FileNotFoundError:
            return []  # another process has removed the directory, which was empty
        return [name for _, name in sorted(found)]

    def remove(self, name: str) -> None:
        """Remove a file. It may be there again after a crash, which hurts nobody: it is over."""
        try:
            (self.path / name).unlink()
        except FileNotFoundError:
            pass

    def _open(self, name: str, flags: int) -> int:
        return os.open(self.path / name, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _sync(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _age(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        return 0  # removed meanwhile


class FolderFile:
    """A file of a `Folder`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def lock(self) -> None:
        """Take the lock; EAGAIN if a living process has it."""
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def read(self, most: int) -> bytes:
        """Read it from its beginning, up to `most` bytes."""
        parts, done = [], 0
        while done < most and (part := os.pread(self._fd, most - done, done)):
            parts.append(part)
            done += len(part)
        return b"".join(parts)

    def append(self, data: bytes) -> None:
        """Write at its end, and return when that survives a crash."""
        at = os.lseek(self._fd, 0, os.SEEK_END)
        while data:
            count = os.pwrite(self._fd, data, at)
            at += count
            data = data[count:]
        os.fsync(self._fd)

    def truncate(self, size: int) -> None:
        """Cut what is behind `size` bytes, and return when that survives a crash."""
        if os.fstat(self._fd).st_size != size:
            os.ftruncate(self._fd, size)
            os.fsync(self._fd)

    def close(self) -> None:
        """Close it, and give up the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Volatile:
    """No directory: what is written is known to this process only, and ends with it."""

    def __init__(self) -> None:
        self._files: dict[str, _VolatileFile] = {}

    def create(self, name: str) -> "_VolatileFile":
        """Make a file and lock it."""
        if name in self._files:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        file = self._files[name] = _VolatileFile()
        return file

    def open(self, name: str) -> "_VolatileFile":
        """Open a file and lock it."""
        if name not in self._files:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)  # its process, this one, lives

    def names(self) -> list[str]:
        """List the files, the oldest first."""
        return list(self._files)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._files.pop(name, None)


class _VolatileFile:
    def __init__(self) -> None:
        self._data = bytearray()

    def read(self, most: int) -> bytes:
        return bytes(self._data[:most])

    def append(self, data: bytes) -> None:
        self._data += data

    def truncate(self, size: int) -> None:
        del self._data[size:]

    def close(self) -> None:
        pass
