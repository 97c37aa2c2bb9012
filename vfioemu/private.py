# SPDX-License-Identifier: MIT
"""Directories that are the user's own, on a way that nobody else can change.

What is made directly in a directory that everybody writes (/tmp, /dev/shm) has a name that anybody can take once it is
free again, while programs that were told it still run. So each user has one directory there, which stays; what is made
for a while is made below that.
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
"""Held by a lock for as long as somebody uses the directory that it is in."""
_NEW: Final = f"{_OWNER}.new"
"""What that is called until it is locked."""
_UNLOCKED: Final = 60.0
"""Seconds after which a directory without that file has been left by somebody who was killed."""
_LONGEST_BASE: Final = 70
"""Beside the names below it, what fits into a socket's name (sun_path)."""
_MOST_LINKS: Final = 40


class PlaceError(Exception):
    """A directory cannot be used, as somebody else could change it, or cannot be made; `hint` says what to do."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


# --- the way to a directory ---


def check_way(directory: Path) -> None:
    """Whoever may change a directory on the way can put another one in the place of ours: that is we and root.

    A directory with the sticky bit may be everybody's, if what is next on the way is ours or root's.

    Raises:
        PlaceError: somebody else can.
        OSError: it cannot be looked at.
    """
    trusted = {0, os.getuid(), os.stat("/").st_uid}  # in a user namespace root's files may be of nobody
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
    """Each entry on the way, links and what they lead through included, with the directory that it is in."""
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
    """Where the user's own directory may be, the best place first: where files come and go in memory.

    In $XDG_RUNTIME_DIR; $TMPDIR, if it is set; /dev/shm; /tmp: of those that leave room for a socket's name.
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
    """Make directories for ourselves, whatever the umask is: one that takes all from us leaves those that we cannot open."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_base(base: Path) -> None:
    """Make a directory of our own (0700), or see that the one that is there is.

    Raises:
        PlaceError: it is somebody else's, or others can write it or what is on the way to it.
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
    """Remove a directory of our own with all that is in it, as far as that is possible; nothing if it is not there.

    shutil.rmtree() has an fd open for each level, and leaves everything where the limit of open files is too near.
    Nobody else can put a link in the way of the paths that are taken then: check_way().
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
    """A new directory (0700) below one of our own, removed at the end; what was left by those who were killed goes as well.

    Args:
        name: begins the directory's name, with a dot before it.
        keep: leave it.

    Raises:
        PlaceError: nowhere can one be made; the text says why, for each place.
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
    """The directory, and the fd that holds its lock."""
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
        directory.chmod(0o700)  # the umask may have taken something away
        # Locked before it has its name: whoever sweeps takes an unlocked one for left.
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
                    directory.rmdir()  # if it is empty
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(directory)
        except OSError:
            pass  # somebody uses it
        finally:
            os.close(lock)
