# SPDX-License-Identifier: MIT
"""Taking connections: of clients, and of whoever commands the daemon."""

import errno
import logging
import socket
import struct
from typing import Final

import trio

log: Final = logging.getLogger(__name__)

UCRED: Final = struct.Struct("=iii")
"""struct ucred: pid, uid, gid."""
_PAUSE: Final = 0.1
_FORBIDDEN: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
"""What a filter of system calls says."""


async def accept(listener: socket.socket) -> tuple[socket.socket, int, int]:
    """Wait for a connection: its socket, and the pid and the uid of who made it.

    *Failures* are logged, and the next connection is waited for: ECONNABORTED, or EMFILE and its kin, where those who
    have fds are given the time to finish.

    Raises:
        OSError: no connection can ever be taken, as accept() is forbidden.
    """
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno in _FORBIDDEN:
                raise
            log.warning("accept: %s", error.strerror)
            await trio.sleep(_PAUSE)
            continue
        pid, uid, _ = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
        return sock, pid, uid
