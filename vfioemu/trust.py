# SPDX-License-Identifier: MIT
"""Check who owns the daemon that a client talks to: the user that VFIOEMU_UID names, or our own.

By the time a socket's name is used, it may be anybody's; and the listener is given memory and fds. So ask the kernel for the
credentials of the process that called listen(2) (SO_PEERCRED), before the first byte is sent. csrc/preload/trust.c does the
same for the preload library.
"""

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final, NamedTuple, Protocol

VARIABLE: Final = "VFIOEMU_UID"
"""Environment variable: UID as this process sees it, or UID:NAMESPACE, in the user namespace with that inode number."""

_UCRED: Final = struct.Struct("=iII")
_MOST: Final = (1 << 32) - 2
_LONGEST: Final = 20
"""Most digits of a 64-bit number."""


class StrangerError(PermissionError):
    """The listener is a process of another user."""


class Connected(Protocol):
    """A connected socket, of the standard library or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """Call getsockopt(2)."""


class Trusted(NamedTuple):
    """A user whose daemon is trusted.

    Attributes:
        uid: the user's number.
        namespace: inode number of the user namespace that `uid` belongs to; 0 for our own.
        exact: `uid` was given as we see it, so it need not be mapped.
    """

    uid: int
    namespace: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.uid}:{self.namespace}" if self.namespace else str(self.uid)


def own() -> Trusted:
    """Return our own user."""
    return Trusted(os.geteuid(), _namespace(), exact=False)


def named() -> Trusted:
    """Return the user that VFIOEMU_UID names; our own if it is not set.

    Raises:
        StrangerError: EPERM, the variable does not hold a UID.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return own()
    uid, colon, namespace = text.partition(":")
    if not _is_number(uid) or int(uid) > _MOST or (colon and not _is_number(namespace)):
        raise StrangerError(
            errno.EPERM, f"{VARIABLE}={text!r} is not UID or UID:NAMESPACE: no daemon is trusted"
        )
    return Trusted(int(uid), int(namespace or 0), exact=not colon)


def seen(uid: int) -> Trusted:
    """Return the user that has this number in our namespace."""
    return Trusted(uid, 0, exact=True)


def check(sock: Connected, path: str | os.PathLike[str], who: Trusted | None = None) -> None:
    """Check that the process listening at `path` belongs to the trusted user.

    Args:
        sock: connected to `path`; nothing has been sent yet.
        path: the socket's path.
        who: the trusted user; None for the one that VFIOEMU_UID names, or our own.

    Raises:
        StrangerError: EPERM, it belongs to another user.
    """
    who = who or named()
    _, peer, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    expected = who.uid
    if who.namespace and _namespace() not in (0, who.namespace):
        expected = os.geteuid()  # other numbers there: only our own user can be recognized
    if peer != expected:
        raise StrangerError(
            errno.EPERM,
            f"it is a process of uid {peer} that listens there, not of uid {expected}; {VARIABLE} names whom to trust",
        )
    if not who.exact and not _is_mapped(peer) and not _is_ours(Path(path).parent):
        raise StrangerError(
            errno.EPERM,
            f"uid {peer} is anybody who has no number in this user namespace; {VARIABLE}={peer} trusts them all",
        )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _LONGEST


def _namespace() -> int:
    """Return the inode number of our user namespace; 0 if it cannot be read."""
    try:
        return os.stat("/proc/self/ns/user").st_ino
    except OSError:
        return 0


def _is_mapped(uid: int) -> bool:
    """Return True if a uid of our namespace stands for one user; the overflow uid (65534) stands for all unmapped ones."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    return any(first <= uid < first + count for first, _, count in (map(int, line.split()) for line in lines))


def _is_ours(directory: Path) -> bool:
    """Return True if only the owner of a directory can enter it, and we can: then the directory is ours."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not stat.S_IMODE(os.fstat(fd).st_mode) & 0o077
    finally:
        os.close(fd)
