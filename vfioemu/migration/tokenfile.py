# SPDX-License-Identifier: MIT
"""The secret of a UNIX socket: `PATH.token` beside it, 0600, made by who listens and read by who connects.

SO_PEERCRED tells a uid, and that is not always enough: root, or our own user, in a container that was given the socket
and nothing else, has the same number; so has a program of ours that somebody talks into connecting to any path. Who
has not the file cannot bring a guest, nor take one.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from vfioemu.migration.peers import Peers
from vfioemu.migration.plan import Reason
from vfioemu.migration.stream import StreamError

SUFFIX: Final = ".token"
BYTES: Final = 32


@contextmanager
def made(path: str) -> Iterator[bytes]:
    """Make a new secret for the socket at `path`, which is ours, and remove it in the end.

    Raises:
        OSError: the file cannot be written.
    """
    secret = secrets.token_bytes(BYTES)
    name = path + SUFFIX
    with suppress(FileNotFoundError):
        os.unlink(name)  # of a process that was killed; nobody else listens on the socket
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        mine = os.fstat(fd)
        os.write(fd, secret.hex().encode() + b"\n")
    finally:
        os.close(fd)
    try:
        yield secret
    finally:
        with suppress(OSError):
            if os.path.samestat(os.lstat(name), mine):
                os.unlink(name)


def read(path: str, peers: Peers) -> bytes:
    """Read the secret of the socket at `path`.

    Raises:
        StreamError: PEER_UNTRUSTED: there is none, or not one that its owner has kept for himself.
    """
    name = path + SUFFIX
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            data = os.read(fd, 2 * BYTES + 2)
        finally:
            os.close(fd)
    except OSError as error:
        raise _useless(name, error.strerror or str(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise _useless(name, "not a file")
    if not peers.allow(status.st_uid):
        raise _useless(name, f"it is of uid {status.st_uid}; only {peers} is trusted")
    if status.st_mode & 0o077:
        raise _useless(name, f"mode {status.st_mode & 0o777:04o}: others can read or write it")
    try:
        secret = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != BYTES:
        raise _useless(name, f"not {BYTES} bytes as hexadecimal text")
    return secret


def _useless(name: str, why: str) -> StreamError:
    return StreamError(Reason.PEER_UNTRUSTED, f"the token of who listens cannot be used: {name}: {why}")
