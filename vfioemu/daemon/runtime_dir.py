# SPDX-License-Identifier: MIT
"""Where a daemon's sockets are: a private directory, one daemon to a directory, no litter."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOCKET: Final = "vfio.sock"
CONTROL: Final = "control.sock"
LOCK: Final = "lock"
PID: Final = "pid"
ROOT: Final = "root"
"""The tree of files that programs see as /dev/vfio and in /sys: daemon/tree.py."""
_SUN_PATH: Final = 108
_PRIVATE: Final = "vfioemu-run-"
_STARTING: Final = 60.0
"""Seconds in which a daemon has certainly taken its lock."""
_LONGEST_BASE: Final = 70
"""Beside the directory's name and the sockets', what fits into sun_path."""


class StartError(Exception):
    """A daemon cannot start here, or none of ours has; the text says why, `hint` what to do."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


def default_runtime_dir(instance: str = "default") -> Path:
    """$VFIOEMU_RUNTIME_DIR, $XDG_RUNTIME_DIR/vfioemu or /tmp/vfioemu-UID, and the instance's directory in it.

    $XDG_RUNTIME_DIR counts if it is our own directory: `su` and `sudo` leave another user's there, a reboot none.

    Raises:
        StartError: an instance cannot have that name.
    """
    if instance in ("", ".", "..") or "/" in instance or "\0" in instance:
        raise StartError(
            f"{instance!r} cannot be the name of an instance: it names a directory",
            "--runtime-dir takes paths",
        )
    if base := os.environ.get("VFIOEMU_RUNTIME_DIR"):
        return Path(base) / instance
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base) and os.path.isdir(base) and os.stat(base).st_uid == os.getuid():
        return Path(base) / "vfioemu" / instance
    return Path(f"/tmp/vfioemu-{os.getuid()}") / instance


def own_runtime_dir(instance: str) -> Path:
    """Where a daemon of our own is looked for by its instance's name. Whether one runs there is seen by connecting.

    Raises:
        StartError: nothing is there, which somebody else could change before we connect; or he was there first, and could
            have any daemon listen.
    """
    directory = default_runtime_dir(instance)
    try:
        _check_parent(directory.parent)
        owner = directory.lstat().st_uid
    except OSError as error:
        raise StartError(
            f"no daemon runs in {directory}: {error.strerror}", "`vfioemu serve` starts one"
        ) from None
    if owner != os.getuid():
        raise StartError(
            f"{directory} belongs to uid {owner}", "the daemon of somebody else is named by its directory"
        )
    return directory


def volatile_base() -> Path:
    """Where a directory for one run belongs: where files are made and removed in memory, if there is such a place.

    $XDG_RUNTIME_DIR; $TMPDIR, if it is set; /dev/shm; /tmp: the first that can be used and leaves room for a socket's name.
    """
    for name in (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/dev/shm"):
        if name and len(os.fsencode(name)) <= _LONGEST_BASE and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    return Path("/tmp")


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A new directory of our own, removed at the end; what daemons that were killed have left goes as well."""
    base = volatile_base()
    _sweep(base)
    with tempfile.TemporaryDirectory(prefix=_PRIVATE, dir=base, ignore_cleanup_errors=True) as name:
        yield Path(name)


def _sweep(base: Path) -> None:
    """Remove private directories of ours whose daemon is gone without having done so."""
    for directory in base.glob(f"{_PRIVATE}*"):
        try:
            status = directory.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _STARTING:
                continue
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            pass  # it runs
        finally:
            os.close(lock)


def make_private(directory: Path, *, shared: bool = False) -> None:
    """Make the directory, mode 0700, or check that the one that is there is ours alone.

    With `shared`, others may pass through it to the socket (0711), which checks who they are.

    Raises:
        StartError: it is not a directory, not ours, or others may use it.
    """
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        _check_parent(directory.parent)
        status = directory.lstat()
    except OSError as error:
        raise StartError(f"cannot make {directory}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise StartError(f"{directory} is not a directory")
    if status.st_uid != os.getuid():
        raise StartError(f"{directory} belongs to uid {status.st_uid}", "choose another with --runtime-dir")
    if status.st_mode & (0o066 if shared else 0o077):
        raise StartError(
            f"{directory} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 700 {directory}, or choose another with --runtime-dir",
        )
    if shared:
        try:
            directory.chmod(0o711)
        except OSError as error:
            raise StartError(f"cannot open {directory} to others: {error.strerror}") from None


def _check_parent(parent: Path) -> None:
    """A directory in /tmp may be somebody else's who knew its name before us: he can put another daemon in our place.

    Raises:
        OSError: it cannot be looked at.
        StartError: it is so.
    """
    for place in (parent.absolute(), parent.resolve()):  # who owns a link can have it lead elsewhere
        if not place.parent.stat().st_mode & stat.S_IWOTH:
            continue
        status = place.lstat()
        if status.st_uid not in (0, os.getuid()):
            raise StartError(f"{parent} belongs to uid {status.st_uid}", "choose another with --runtime-dir")
        if stat.S_ISLNK(status.st_mode):
            continue
        if status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            raise StartError(f"{parent} can be written by everybody", f"chmod 700 {parent}")


def check_length(path: Path) -> None:
    """A socket's path has to fit into sun_path.

    Raises:
        StartError: it does not.
    """
    length = len(os.fsencode(path))
    if length >= _SUN_PATH:
        raise StartError(
            f"the socket path {path} has {length} bytes, the most is {_SUN_PATH - 1}",
            "choose a shorter --runtime-dir",
        )


@contextlib.contextmanager
def occupied(directory: Path) -> Iterator[None]:
    """Hold the directory for one daemon; its lock and pid file.

    Raises:
        StartError: another daemon runs here.
    """
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartError(f"cannot make {directory / LOCK}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"a daemon runs in {directory} already{_who(directory)}",
                f"`vfioemu stop --runtime-dir {directory}` ends it, or choose another directory with --runtime-dir",
            ) from None
        except OSError as error:
            raise StartError(f"cannot lock {directory / LOCK}: {error.strerror}") from None
        pid = directory / PID
        try:
            pid.write_text(f"{os.getpid()}\n", encoding="ascii")
        except OSError as error:
            raise StartError(f"cannot write {pid}: {error.strerror}") from None
        try:
            yield
        finally:
            pid.unlink(missing_ok=True)
    finally:
        os.close(lock)  # the file stays: to remove it would race with the next daemon


def _who(directory: Path) -> str:
    try:
        return f" (pid {int((directory / PID).read_text(encoding='ascii'))})"
    except (OSError, ValueError):
        return ""


@contextlib.contextmanager
def listening(path: Path, kind: socket.SocketKind, mode: int = 0o600) -> Iterator[socket.socket]:
    """A listening socket at `path` with that mode; removed at the end. A stale one, on which nobody listens, is replaced.

    Raises:
        StartError: somebody listens there, or it cannot be made.
    """
    check_length(path)
    _remove_stale(path, kind)
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        if (
            kind == socket.SOCK_SEQPACKET
        ):  # inherited by connections (from Linux 6.16 on as early as connect())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        mask = os.umask(~mode & 0o777)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise StartError(f"cannot listen on {path}: {error.strerror}") from None
        finally:
            os.umask(mask)
        inode = path.lstat().st_ino
        listener.listen(socket.SOMAXCONN)
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()
    finally:
        listener.close()


def _remove_stale(path: Path, kind: socket.SocketKind) -> None:
    """Remove a socket that nobody listens on.

    Raises:
        StartError: somebody does, or it is no socket.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"cannot look at {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise StartError(f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(os.fspath(path))
    if result != errno.ECONNREFUSED:
        raise StartError(
            f"cannot listen on {path}: somebody does already", "end that daemon, or choose another place"
        )
    path.unlink(missing_ok=True)
