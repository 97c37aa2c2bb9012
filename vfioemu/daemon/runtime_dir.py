# SPDX-License-Identifier: MIT
"""Where a daemon's sockets are: a private directory, one daemon to a directory, no litter."""

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
"""The tree of files that programs see as /dev/vfio and in /sys: daemon/tree.py."""
_SUN_PATH: Final = 108


class StartError(private.PlaceError):
    """A daemon cannot start here, or none of ours has; the text says why, `hint` what to do."""


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


def naming(directory: Path) -> str:
    """The options of a command that mean this directory, with a blank before them; "" if it is what they mean by default."""
    base = default_runtime_dir().parent
    if directory.parent == base:
        usual = directory.name == os.environ.get("VFIOEMU_INSTANCE", "default")
        return "" if usual else f" --instance {shlex.quote(directory.name)}"
    return f" --runtime-dir {shlex.quote(os.fspath(directory))}"


def how_to_start(directory: Path) -> str:
    """A hint for whoever finds no daemon there."""
    return f"`vfioemu serve{naming(directory)} --device MODEL --background` starts one"


def own_runtime_dir(instance: str) -> Path:
    """Where a daemon of our own is looked for by its instance's name. Whether one runs there is seen by connecting.

    Raises:
        StartError: nothing is there, which somebody else could change before we connect; or he was there first, and could
            have any daemon listen.
    """
    directory = default_runtime_dir(instance)
    try:
        _check_way(directory)
        owner = directory.lstat().st_uid
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise StartError(f"cannot look at {directory}: {error.strerror}") from None
        raise StartError(
            f"no daemon runs in {directory}: {error.strerror}", how_to_start(directory)
        ) from None
    if owner != os.getuid():
        raise StartError(
            f"{directory} belongs to uid {owner}", "the daemon of somebody else is named by its directory"
        )
    return directory


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """A new directory of our own, removed at the end.

    Raises:
        StartError: there is no place for one.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(private.private_directory())
        except private.PlaceError as error:
            raise StartError(str(error), error.hint) from None
        yield directory


def make_private(directory: Path, *, shared: bool = False) -> None:
    """Make the directory, mode 0700, or check that the one that is there is ours alone.

    With `shared`, others may pass through it to the socket (0711), which checks who they are.

    Raises:
        StartError: it is not a directory, not ours, or others may use it.
    """
    for name in (SOCKET, CONTROL):
        check_length(directory / name)  # before anything is made that would be left
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
                log.warning("other users cannot come to %s: %s is closed to them", directory, parent)


def _check_way(directory: Path) -> None:
    """A daemon is not looked for, nor started, where somebody else can put another one in its place.

    Raises:
        StartError: he can.
        OSError: something on the way cannot be looked at.
    """
    try:
        private.check_way(directory)
    except private.PlaceError as error:
        raise StartError(str(error), error.hint or "choose another with --runtime-dir") from None


def _hint(error: OSError) -> str:
    """Which limit of the system it was."""
    told = refusal(error)
    return "" if told is None else told.hint


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
            _write_pid(pid)
        except OSError as error:
            raise StartError(f"cannot write {pid}: {error.strerror}", _hint(error)) from None
        try:
            yield
        finally:
            pid.unlink(missing_ok=True)
    finally:
        os.close(lock)  # the file stays: to remove it would race with the next daemon


def _write_pid(path: Path) -> None:
    """Whatever the umask is, others must not be able to write it, nor have written it before us."""
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
    """A listening socket at `path` with that mode; removed at the end. A stale one, on which nobody listens, is replaced.

    Raises:
        StartError: somebody listens there, or it cannot be made.
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
            hint = "end that daemon, or choose another place" if error.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {path}: {error.strerror}", hint) from None
        listener.listen(socket.SOMAXCONN)
        yield listener
