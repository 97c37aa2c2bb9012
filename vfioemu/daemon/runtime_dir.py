# SPDX-License-Identifier: MIT
"""Manage the runtime directory of a daemon: private, for one daemon at a time, left clean."""

import contextlib
import errno
import fcntl
import logging
import os
import shlex
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vfioemu import private
from vfioemu.syscalls import unix_sockets
from vfioemu.world import refusal

log: Final = logging.getLogger(__name__)

SOCKET: Final = "vfio.sock"
CONTROL: Final = "control.sock"
LOCK: Final = "lock"
PID: Final = "pid"
ROOT: Final = "root"
"""Tree of files that programs see as /dev/vfio and in /sys: daemon/tree.py."""
_SUN_PATH: Final = 108


class StartError(private.PlaceError):
    """A daemon cannot start here, or none of ours runs here; the text says why, `hint` what to do."""


def default_runtime_dir(instance: str = "default") -> Path:
    """Return an instance's directory in $VFIOEMU_RUNTIME_DIR, $XDG_RUNTIME_DIR/vfioemu or /tmp/vfioemu-UID.

    $XDG_RUNTIME_DIR is used only if it is our own directory: after `su` or `sudo` it is another user's.

    Raises:
        StartError: the name is not possible for an instance.
    """
    if instance in ("", ".", "..") or "/" in instance or "\0" in instance:
        raise StartError(
            f"{instance!r} cannot be the name of an instance: it is a path",
            "--runtime-dir takes paths",
        )
    if base := os.environ.get("VFIOEMU_RUNTIME_DIR"):
        return Path(base) / instance
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base) and os.path.isdir(base) and os.stat(base).st_uid == os.getuid():
        return Path(base) / "vfioemu" / instance
    return Path(f"/tmp/vfioemu-{os.getuid()}") / instance


def naming(directory: Path) -> str:
    """Return the command-line options that name this directory, with a leading blank; "" if it is the default."""
    base = default_runtime_dir().parent
    if directory.parent == base:
        usual = directory.name == os.environ.get("VFIOEMU_INSTANCE", "default")
        return "" if usual else f" --instance {shlex.quote(directory.name)}"
    return f" --runtime-dir {shlex.quote(os.fspath(directory))}"


def how_to_start(directory: Path) -> str:
    """Make a hint for users who find no daemon in a directory."""
    return f"`vfioemu serve{naming(directory)} --device MODEL --background` starts one"


def own_runtime_dir(instance: str) -> Path:
    """Return the directory of an instance of our own; connecting shows whether a daemon runs there.

    Raises:
        StartError: the directory does not exist, another user could replace it before we connect, or it belongs to another user,
            who could have any daemon listen there.
    """
    directory = default_runtime_dir(instance)
    try:
        _check_way(directory)
        owner = directory.lstat().st_uid
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise StartError(f"cannot examine {directory}: {error.strerror}") from None
        raise StartError(
            f"no daemon runs in {directory}: {error.strerror}", how_to_start(directory)
        ) from None
    if owner != os.getuid():
        raise StartError(
            f"{directory} belongs to uid {owner}",
            "name another user's daemon by its directory, with --runtime-dir",
        )
    return directory


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """Make a new directory of our own, and remove it at the end.

    Raises:
        StartError: no place can be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(private.private_directory())
        except private.PlaceError as error:
            raise StartError(str(error), error.hint) from None
        yield directory


def make_private(directory: Path, *, shared: bool = False) -> None:
    """Make the directory with mode 0700, or check that an existing one is ours alone.

    With `shared`, others may reach the socket in it (0711); the daemon checks who connects.

    Raises:
        StartError: it is not a directory, not ours, or open to others.
    """
    for name in (SOCKET, CONTROL):
        check_length(directory / name)  # before anything is made that would have to be removed
    try:
        with private.any_umask():
            directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
        _check_way(directory)
        status = directory.lstat()
    except OSError as error:
        raise StartError(f"cannot make {directory}: {error.strerror}", _hint(error)) from None
    if not stat.S_ISDIR(status.st_mode):
        raise StartError(f"{directory} is not a directory")
    if status.st_uid != os.getuid():
        raise StartError(f"{directory} belongs to uid {status.st_uid}", "choose another with --runtime-dir")
    if status.st_mode & (0o066 if shared else 0o077):
        raise StartError(
            f"{directory} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 700 {shlex.quote(os.fspath(directory))}, or choose another with --runtime-dir",
        )
    if shared:
        try:
            directory.chmod(0o711)
        except OSError as error:
            raise StartError(f"cannot open {directory} to others: {error.strerror}") from None
        for parent in directory.resolve().parents:
            if not parent.stat().st_mode & stat.S_IXOTH:
                log.warning("other users cannot reach %s: they may not enter %s", directory, parent)


def _check_way(directory: Path) -> None:
    """Check that no other user can replace the directory, before a daemon is started or looked for in it.

    Raises:
        StartError: another user can.
        OSError: an entry of the path cannot be examined.
    """
    try:
        private.check_way(directory)
    except private.PlaceError as error:
        raise StartError(str(error), error.hint or "choose another with --runtime-dir") from None


def _hint(error: OSError) -> str:
    """Return a hint about the limit of the system that was hit."""
    told = refusal(error)
    return "" if told is None else told.hint


def check_length(path: Path) -> None:
    """Check that a socket's path fits into sun_path.

    Raises:
        StartError: it is too long.
    """
    length = len(os.fsencode(path))
    if length >= _SUN_PATH:
        raise StartError(
            f"socket path {path} has {length} bytes, the limit is {_SUN_PATH - 1}",
            "choose a shorter --runtime-dir",
        )


@contextlib.contextmanager
def occupied(directory: Path) -> Iterator[None]:
    """Hold the directory for one daemon, with its lock and pid file.

    Raises:
        StartError: another daemon runs here.
    """
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartError(f"cannot make {directory / LOCK}: {error.strerror}", _hint(error)) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"a daemon runs in {directory} already{_who(directory)}",
                f"`vfioemu stop{naming(directory)}` ends it, or choose another directory with --runtime-dir",
            ) from None
        except OSError as error:
            raise StartError(f"cannot lock {directory / LOCK}: {error.strerror}") from None
        pid = directory / PID
        try:
            _write_pid(pid)  # only the holder of the lock writes it
        except OSError as error:
            raise StartError(f"cannot write {pid}: {error.strerror}", _hint(error)) from None
        try:
            yield
        finally:
            pid.unlink(missing_ok=True)
    finally:
        os.close(lock)  # keep the file: the next daemon may have opened it, and would lock a removed file


def _write_pid(path: Path) -> None:
    """Write the pid file as a new file with mode 0600.

    Not the old file, whose mode the umask of another daemon decided: others might write it, or have it open for writing.
    """
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")


def _who(directory: Path) -> str:
    try:
        return f" (pid {int((directory / PID).read_text(encoding='ascii'))})"
    except (OSError, ValueError):
        return ""


@contextlib.contextmanager
def listening(path: Path, kind: socket.SocketKind, mode: int = 0o600) -> Iterator[socket.socket]:
    """Listen on a socket at `path` with that mode, and remove it at the end. A stale socket is replaced.

    Raises:
        StartError: another process listens there, or the socket cannot be made.
    """
    check_length(path)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC))
        if kind == socket.SOCK_SEQPACKET:
            # Inherited by connections (from Linux 6.16 on as early as connect()).
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            stack.enter_context(unix_sockets.bound(listener, path, mode))
        except OSError as error:
            hint = "end that daemon, or choose another directory" if error.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {path}: {error.strerror}", hint) from None
        listener.listen(socket.SOMAXCONN)
        yield listener
