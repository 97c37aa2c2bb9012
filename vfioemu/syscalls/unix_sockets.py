# SPDX-License-Identifier: MIT
"""Bind UNIX sockets to paths. A socket file outlives its listener, so the next one must remove it."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def bound(listener: socket.socket, path: str | os.PathLike[str], mode: int = 0o600) -> Iterator[None]:
    """Bind a socket to `path` with that mode, replacing a stale socket; remove it at the end.

    Raises:
        OSError: from `remove_stale` or bind(2).
    """
    place = Path(path)
    remove_stale(place, listener.type)
    mask = os.umask(~mode & 0o777)  # chmod(2) after bind(2) would let others connect in between
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(mask)
    mine = place.lstat()
    try:
        yield
    finally:
        # Unlink while we still listen: then nobody has replaced the socket meanwhile, not even by one that got our inode number.
        with contextlib.suppress(OSError):
            if os.path.samestat(place.lstat(), mine):
                place.unlink()


def remove_stale(path: Path, kind: int) -> None:
    """Remove a socket of our own that nobody listens on; do nothing if there is none.

    Args:
        path: its path; a symbolic link is not followed, as bind(2) does not follow it.
        kind: SOCK_STREAM or SOCK_SEQPACKET, the type of a possible listener.

    Raises:
        OSError: EADDRINUSE, somebody listens there; EEXIST, not a socket; EPERM, it belongs to another user; from lstat(2) and
            unlink(2).
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, "it exists and is not a socket")
    if _is_listened_on(path, kind):
        raise OSError(errno.EADDRINUSE, "somebody listens there")
    if status.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM, f"nobody listens there, but the socket belongs to uid {status.st_uid}"
        )
    path.unlink(missing_ok=True)


def _is_listened_on(path: Path, kind: int) -> bool:
    """Try to connect. Only ECONNREFUSED means that nobody listens; EAGAIN is a listener with a full backlog."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)  # connect(2) would wait for room in the backlog without limit
        return probe.connect_ex(os.fspath(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
