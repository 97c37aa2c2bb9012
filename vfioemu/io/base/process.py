# SPDX-License-Identifier: MIT
"""Which number the process at the other end of a socket has in /proc: proved, not assumed.

The pid that the kernel tells of a peer is one of our PID namespace. What is mounted at /proc may show another
(`unshare -p`, a container with its host's /proc): there the same number is somebody else, or nobody. A pidfd means the
process itself, and its fdinfo has the number that it has where it is read. Nor is a number ours to use for longer than the
process lives, which the pidfd tells as well.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SO_PEERPIDFD: Final = 77
_INT: Final = struct.Struct("=i")


class Peer:
    """The process at the other end of a socket, for as long as it is asked about.

    Args:
        pidfd: it; -1 if the system gives none.
        pid: its number in our namespace.
    """

    def __init__(self, pidfd: int, pid: int) -> None:
        self._pidfd = pidfd
        self._pid = pid

    def number(self) -> int:
        """Return its number in /proc.

        Raises:
            OSError: it has none there (ESRCH), or nobody can tell.
        """
        number = self._pid if self._pidfd < 0 and _shows_our_namespace() else self._by_fdinfo()
        if number <= 0:
            raise OSError(errno.ESRCH, "/proc does not show the process")
        return number

    def _by_fdinfo(self) -> int:
        """Read it from the pidfd's fdinfo. 0: it is not seen there; -1: it has ended."""
        if self._pidfd < 0:
            return 0
        for line in Path(f"/proc/self/fdinfo/{self._pidfd}").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "Pid":
                return int(value)
        return 0


def _shows_our_namespace() -> bool:
    """Tell whether /proc is of our PID namespace: then we have one number there, our own."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "NSpid":
            return value.split() == [str(os.getpid())]
    return False


@contextlib.contextmanager
def peer_of(sock: socket.socket, pid: int) -> Iterator[Peer]:
    """Look at the process that has connected a socket, whose number in our namespace is `pid`, while the block lasts."""
    pidfd = -1
    try:
        pidfd = _INT.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, _INT.size))[0]
    except OSError:
        with contextlib.suppress(OSError):  # before Linux 6.5, or it is dead by now
            pidfd = os.pidfd_open(pid) if pid > 0 else -1
    try:
        yield Peer(pidfd, pid)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def name_of(sock: socket.socket, pid: int) -> str:
    """Read the name (comm) of the process that has connected a socket.

    Raises:
        OSError: nobody can tell.
    """
    with peer_of(sock, pid) as peer:
        number = peer.number()
        name = Path(f"/proc/{number}/comm").read_text("utf-8", "replace").strip()
        if peer.number() != number:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        return name
