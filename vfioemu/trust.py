# SPDX-License-Identifier: MIT
"""Whose daemon a client talks to: that user's whom VFIOEMU_UID names, or our own. csrc/preload/trust.c does the same.

A socket's name can be anybody's by the time it is used, and who listens there is given memory and fds. So the kernel is
asked whose process that is (SO_PEERCRED: of who began to listen), before the first byte is sent.
"""

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final, NamedTuple, Protocol

VARIABLE: Final = "VFIOEMU_UID"
"""UID, as this process sees it; or UID:NAMESPACE, the number in the user namespace with that inode number."""

_UCRED: Final = struct.Struct("=iII")
_MOST: Final = (1 << 32) - 2
_LONGEST: Final = 20
"""Digits of a number of 64 bits."""


class StrangerError(PermissionError):
    """It is somebody else's process that listens."""


class Connected(Protocol):
    """A socket, of the standard library or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """getsockopt(2)."""


class Trusted(NamedTuple):
    """A user.

    Attributes:
        uid: his number.
        namespace: the user namespace in which that is his number; 0: the one that we are in, whichever it is.
        exact: the number was named as we see it, so nothing else is asked.
    """

    uid: int
    namespace: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.uid}:{self.namespace}" if self.namespace else str(self.uid)


def own() -> Trusted:
    """Our own user."""
    return Trusted(os.geteuid(), _namespace(), exact=False)


def named() -> Trusted:
    """Whom VFIOEMU_UID names; our own user if it is not set.

    Raises:
        StrangerError: it is no UID.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return own()
    uid, colon, namespace = text.partition(":")
    if not _is_number(uid) or int(uid) > _MOST or (colon and not _is_number(namespace)):
        raise StrangerError(
            errno.EPERM, f"{VARIABLE}={text!r} is no UID, nor UID:NAMESPACE: no daemon is trusted"
        )
    return Trusted(int(uid), int(namespace or 0), exact=not colon)


def seen(uid: int) -> Trusted:
    """The user who has that number for us."""
    return Trusted(uid, 0, exact=True)


def check(sock: Connected, path: str | os.PathLike[str], who: Trusted | None = None) -> None:
    """See that it is a daemon of the trusted user that listens at `path`, where `sock` is connected to.

    Args:
        sock: connected, nothing sent.
        path: where.
        who: whose daemon it should be; None: whom VFIOEMU_UID names, or our own user.

    Raises:
        StrangerError: it is not.
    """
    who = who or named()
    _, peer, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    expected = who.uid
    if who.namespace and _namespace() not in (0, who.namespace):
        expected = os.geteuid()  # numbers differ; his is the same as ours, or nothing can be said of him
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
    """The inode number of our user namespace; 0 if nobody can tell."""
    try:
        return os.stat("/proc/self/ns/user").st_ino
    except OSError:
        return 0


def _is_mapped(uid: int) -> bool:
    """Whether a number of our user namespace is one user's: that of those who have none (65534) is not."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    return any(first <= uid < first + count for first, _, count in (map(int, line.split()) for line in lines))


def _is_ours(directory: Path) -> bool:
    """Whether a directory is ours alone: only its owner, who is not privileged over it, can open such a one."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not stat.S_IMODE(os.fstat(fd).st_mode) & 0o077
    finally:
        os.close(fd)
