# SPDX-License-Identifier: MIT
"""Make directories that belong to the user alone, below a path that nobody else can change.

A name directly in a directory that everybody can write (/tmp, /dev/shm) can be taken by anybody as soon as it is free again,
while programs that were given the name still run. So each user has one directory there, which is never removed; temporary
directories are made below it.
"""

import contextlib
import errno
import fcntl
import os
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_OWNER: Final = ".owner"
"""File in each directory; its user holds a flock(2) on it for as long as the directory is in use."""
_NEW: Final = f"{_OWNER}.new"
"""Name of that file until it is locked."""
_UNLOCKED: Final = 60.0
"""Seconds after which a directory without that file is taken for the remains of a killed process."""
_LONGEST_BASE: Final = 70
"""Longest base directory, in bytes: with the names below it, it must fit into sun_path (108 bytes)."""
_MOST_LINKS: Final = 40


class PlaceError(Exception):
    """Report a directory that cannot be made, or that another user could change; `hint` says what to do."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


# --- the way to a directory ---


def check_way(directory: Path) -> None:
    """Check that nobody except root and us can replace a directory on the path.

    A directory with the sticky bit may be writable by everybody, if the next entry on the path is ours or root's.

    Raises:
        PlaceError: another user can change the path.
        OSError: an entry cannot be examined.
    """
    trusted = {0, os.getuid(), os.stat("/").st_uid}  # in a user namespace, root may show as the overflow uid
    for parent, entry in _steps(directory):
        above, status = parent.stat(), entry.lstat()
        shared = above.st_mode & stat.S_IWOTH or (
            above.st_mode & stat.S_IWGRP and above.st_gid not in (0, os.getgid())
        )
        if shared and not above.st_mode & stat.S_ISVTX:
            who = "everybody" if above.st_mode & stat.S_IWOTH else f"the group {above.st_gid}"
            raise PlaceError(
                f"{parent} can be written by {who}: {entry.name} in it could be replaced",
                f"chmod go-w {shlex.quote(os.fspath(parent))}",
            )
        if status.st_uid not in ({0, os.getuid()} if shared else trusted):
            raise PlaceError(f"{entry} belongs to uid {status.st_uid}")


def _steps(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (parent, entry) for each entry on the path, including symbolic links and the entries they lead through."""
    here = Path("/")
    left = list(reversed(directory.absolute().parts[1:]))
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            here = here.parent
            continue
        entry = here / part
        yield here, entry
        if not entry.is_symlink():
            here = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(directory))
        target = os.readlink(entry)
        if target.startswith("/"):
            here = Path("/")
        left.extend(reversed([word for word in target.split("/") if word not in ("", ".")]))


# --- a directory of our own ---


def bases() -> Iterator[Path]:
    """Yield candidates for the user's own directory, best first: those in memory come before those on disk.

    These are $XDG_RUNTIME_DIR, $TMPDIR if set, /dev/shm and /tmp; paths too long for a socket below them are left out.
    """
    own = f"vfioemu-{os.getuid()}"
    places = (
        (os.environ.get("XDG_RUNTIME_DIR"), "vfioemu"),
        (os.environ.get("TMPDIR"), own),
        ("/dev/shm", own),
        ("/tmp", own),
    )
    for place, name in places:
        if place and os.path.isabs(place) and len(os.fsencode(place)) + len(name) < _LONGEST_BASE:
            yield Path(place) / name


@contextlib.contextmanager
def any_umask() -> Iterator[None]:
    """Set the umask to 077 while a directory is made.

    A umask that removes the owner's own bits would make a directory that we could not open.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_base(base: Path) -> None:
    """Make a directory of our own (mode 0700), or check one that exists.

    Raises:
        PlaceError: it belongs to another user, or others can write to it or to its path.
        OSError: it cannot be made.
    """
    check_way(base.parent)
    with contextlib.suppress(FileExistsError), any_umask():
        base.mkdir(0o700)
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.getuid():
            raise PlaceError(f"{base} belongs to uid {status.st_uid}")
        if status.st_mode & 0o022:
            raise PlaceError(
                f"{base} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
                f"chmod 700 {shlex.quote(os.fspath(base))}",
            )
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)
    check_way(base)


def remove_tree(directory: Path) -> None:
    """Remove a directory of our own and its contents, as far as possible; do nothing if it does not exist.

    shutil.rmtree() holds one fd per level and gives up near RLIMIT_NOFILE, so a walk by paths follows it. Paths are safe here:
    check_way() has shown that nobody else can put a link on them.
    """
    shutil.rmtree(directory, ignore_errors=True)
    if not os.path.lexists(directory):
        return
    for parent, folders, files in os.walk(directory, topdown=False):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                (os.unlink if name in files or os.path.islink(path) else os.rmdir)(path)
    with contextlib.suppress(OSError):
        os.rmdir(directory)


@contextlib.contextmanager
def private_directory(name: str = "run", *, keep: bool = False) -> Iterator[Path]:
    """Make a new directory (0700) below one of our own, and remove it at the end.

    Also removes directories that killed processes left behind.

    Args:
        name: prefix of the directory's name, after a dot.
        keep: leave the directory at the end.

    Raises:
        PlaceError: no place can be used; the text gives the reason for each.
    """
    directory, lock = _make(name)
    try:
        yield directory
    finally:
        if keep:
            with contextlib.suppress(OSError):
                (directory / _OWNER).unlink()
        else:
            remove_tree(directory)
        os.close(lock)


def _make(name: str) -> tuple[Path, int]:
    """Make the directory; return it with the fd that holds its lock."""
    refused = []
    hint = ""
    for base in bases():
        try:
            make_base(base)
            _sweep(base)
            return _make_in(base, name)
        except PlaceError as error:
            refused.append(str(error))
            hint = hint or error.hint
        except OSError as error:
            refused.append(f"{base}: {error.strerror}")
    raise PlaceError(
        "no private directory can be made: " + "; ".join(refused),
        hint or "set XDG_RUNTIME_DIR to a directory of your own (mode 0700)",
    )


def _make_in(base: Path, name: str) -> tuple[Path, int]:
    directory = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=base))
    try:
        directory.chmod(0o700)  # the umask may have cleared some of the bits
        # Lock the file before it gets its name: _sweep() removes a directory whose file has the name and no lock.
        new = directory / _NEW
        lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(directory / _OWNER)
        except BaseException:
            os.close(lock)
            raise
    except BaseException:
        remove_tree(directory)
        raise
    return directory, lock


def _sweep(base: Path) -> None:
    """Remove directories whose owner was killed."""
    for directory in base.glob(".*-*"):
        try:
            lock = os.open(directory / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            with contextlib.suppress(OSError):
                if time.time() - directory.lstat().st_mtime > _UNLOCKED:
                    (directory / _NEW).unlink(missing_ok=True)
                    directory.rmdir()  # succeeds only if it is empty
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(directory)
        except OSError:
            pass  # locked: in use
        finally:
            os.close(lock)
