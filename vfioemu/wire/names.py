# SPDX-License-Identifier: MIT
"""Abstract socket names that tell the holder of a token what it is: ``vfioemu/DAEMON/KIND/SERIAL``.

Anybody can bind such a name, so it is information and not proof.
"""

import socket
from typing import Final, NamedTuple

from vfioemu.uapi.kinds import FdKind

PREFIX: Final = "vfioemu/"


class TokenName(NamedTuple):
    """The parts of a token's name."""

    daemon_id: bytes
    kind: FdKind
    serial: int

    def address(self) -> bytes:
        """Return the abstract socket address."""
        return f"\0{PREFIX}{self.daemon_id.hex()}/{self.kind}/{self.serial}".encode("ascii")


def parse(address: object) -> TokenName | None:
    """Parse a peer's name as getpeername(2) returns it; None if it is not a token's."""
    if not isinstance(address, bytes) or not address.startswith(b"\0" + PREFIX.encode()):
        return None
    parts = address[1 + len(PREFIX) :].split(b"/")
    if len(parts) != 3 or len(parts[0]) != 32 or not parts[2].isdigit() or len(parts[2]) > 20:
        return None
    try:
        return TokenName(
            bytes.fromhex(parts[0].decode("ascii")), FdKind(parts[1].decode("ascii")), int(parts[2])
        )
    except ValueError:
        return None


def of_fd(fd: int) -> TokenName | None:
    """Return the name of the token `fd`; None if the fd is not a token, or its peer hung up."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if sock.family != socket.AF_UNIX:
            return None
        return parse(sock.getpeername())
    except OSError:
        return None
    finally:
        sock.detach()
