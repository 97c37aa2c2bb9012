# SPDX-License-Identifier: MIT
"""Whose process is at the other end of a connection, and whether that one may have, or bring, a guest's memory.

A UNIX socket tells the uid of its peer (SO_PEERCRED: of who connected, or of who began to listen). TCP does not, but
on loopback both ends are sockets of this kernel, and /proc/net/tcp and tcp6 name the uid of each: that of the line
whose addresses are ours, exchanged. A socket that no process has (any more, or not yet: before accept()) is shown
there as root's with inode 0, and is nobody's.
"""

import os
import socket
import struct
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

_TABLES: Final = ("tcp", "tcp6")
_TRIES: Final = 3
"""The tables are read while they change: a line can be missed."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Who may be at the other end.

    Attributes:
        uids: theirs; None: anybody, also who cannot be told.
    """

    uids: frozenset[int] | None

    def allow(self, uid: int | None) -> bool:
        """Whether a peer may be served: `uid` is its, None if nobody knows it."""
        return self.uids is None or uid in self.uids

    def __str__(self) -> str:
        if self.uids is None:
            return "anybody"
        return " or ".join(
            f"uid {uid}" for uid in sorted(self.uids, key=lambda uid: (uid != os.getuid(), uid))
        )


def own() -> Peers:
    """Whoever this process belongs to, and root, who can do what he likes anyway."""
    return Peers(frozenset({os.getuid(), 0}))


def peer_uid(sock: socket.socket) -> int | None:
    """Whose the other end of a connected socket is; None if that cannot be told."""
    if sock.family == socket.AF_UNIX:
        uid: int | None = _unix_uid(sock)
    else:
        try:
            ours, theirs = sock.getsockname(), sock.getpeername()
        except OSError:
            return None  # it has gone
        found = (find_owner(ours, theirs) for _ in range(_TRIES))
        uid = next((one for one in found if one is not None), None)
    return None if uid == _stranger() else uid


def find_owner(
    ours: tuple[str, int], theirs: tuple[str, int], proc: Path = Path("/proc/self/net")
) -> int | None:
    """Find the uid of the socket at the other end of a TCP connection within this machine; None if there is none.

    Args:
        ours: address and port of our end, as getsockname() has them.
        theirs: of the other end.
        proc: where the tables are.
    """
    local, remote = _shown(theirs), _shown(ours)
    for name in _TABLES:
        try:
            table = (proc / name).read_bytes()
        except OSError:
            continue
        for mine, other in zip(local, remote, strict=True):
            at = table.find(f": {mine} {other} ".encode())
            if at >= 0:
                fields = table[at : table.find(b"\n", at)].split()
                if len(fields) > 9 and fields[9] != b"0":
                    return int(fields[7])
    return None


def _shown(address: tuple[str, int]) -> list[str]:
    """Format an address as the tables have it: as IPv4 and as IPv6, for an IPv6 socket may speak to an IPv4 one."""
    ip = ip_address(address[0].partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    packed = [ip.packed] if isinstance(ip, IPv6Address) else [ip.packed, b"\0" * 10 + b"\xff\xff" + ip.packed]
    return [
        "".join(f"{word:08X}" for word in struct.unpack(f"={len(one) // 4}I", one)) + f":{address[1]:04X}"
        for one in packed
    ]


def _unix_uid(sock: socket.socket) -> int | None:
    size = struct.calcsize("3i")
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    except OSError:
        return None
    uid = int(struct.unpack("3I", data)[1])
    return None if uid == 0xFFFFFFFF else uid


@cache
def _stranger() -> int | None:
    """Find the uid that stands for everybody whom this user namespace does not know; None where all are known."""
    try:
        first, _, count = Path("/proc/self/uid_map").read_text(encoding="ascii").split()[:3]
        if int(first) == 0 and int(count) == 0xFFFFFFFF:
            return None
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534
