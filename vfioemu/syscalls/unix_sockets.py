# SPDX-License-Identifier: MIT
"""Places in the file system that UNIX sockets are bound to: they outlive whoever listened, and the next one has to clear them."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def bound(listener: socket.socket, path: str | os.PathLike[str], mode: int = 0o600) -> Iterator[None]:
    """Bind a socket to `path` with that mode, in the place of one on which nobody listens; remove it at the end.

    Raises:
        OSError: what `remove_stale` says, or bind(2).
    """
    place = Path(path)
    remove_stale(place, listener.type)
    mask = os.umask(~mode & 0o777)  # chmod() afterwards would leave a moment in which others can connect
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(mask)
    mine = place.lstat()
    try:
        yield
    finally:
        # While we still listen: nobody clears our place and takes it before this, not even one whose socket gets our inode.
        with contextlib.suppress(OSError):
            if os.path.samestat(place.lstat(), mine):
                place.unlink()


def remove_stale(path: Path, kind: int) -> None:
    """Remove a socket of our own on which nobody listens; it is fine if there is nothing.

    Args:
        path: where it is; a symbolic link is not followed, since what it leads to is not what bind(2) would make.
        kind: SOCK_STREAM or SOCK_SEQPACKET, what listens there if somebody does.

    Raises:
        OSError: EADDRINUSE, somebody listens there; EEXIST, it is no socket; EPERM, it is another user's; what lstat(2) and
            unlink(2) say.
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
    """Ask by a connection. Only ECONNREFUSED says that nobody is there: EAGAIN is somebody whose queue of connections is full."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)  # connect(2) would wait for room in that queue as long as its owner likes
        return probe.connect_ex(os.fspath(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
