# SPDX-License-Identifier: MIT
"""What the daemon has counted: calls by fd kind, name and answer. Bounded, whatever clients send."""

import errno as _errno
from collections.abc import Iterator
from typing import Final

from vfioemu.io.transport import IOCTL
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS

OTHER: Final = "other"
_IOCTLS: Final = {(ioctl.kind, ioctl.number): ioctl.name for ioctl in IOCTLS}


def call_name(kind: FdKind | None, op: str, cmd: int) -> str:
    """Name a call: an ioctl by its C name, or "other"; everything else by its `op`."""
    if op == IOCTL:
        return OTHER if kind is None else _IOCTLS.get((kind, cmd), OTHER)
    return op


def errno_name(number: int) -> str:
    """Name an errno: EINVAL for 22; the empty string for success."""
    return _errno.errorcode.get(number, str(number)) if number else ""


class Counters:
    """Counters of a daemon.

    Attributes:
        calls: (fd kind or None, op, ioctl number or 0, errno) -> how many. Unknown ioctls are all number 0: whoever sends each
            of the 2^32 numbers once must not make this grow.
        refused_peers: connections that were ended because the peer broke the protocol or its time limit.
        remarks: what has been seen that no call shows, by its kind: memory that was discarded under a mapping, ...
        bugs: handlers that failed with something else than an errno.
    """

    __slots__ = ("bugs", "calls", "refused_peers", "remarks")

    def __init__(self) -> None:
        self.calls: dict[tuple[FdKind | None, str, int, int], int] = {}
        self.refused_peers = 0
        self.bugs = 0
        self.remarks: dict[str, int] = {}

    def count(self, kind: FdKind | None, op: str, cmd: int, result: int) -> None:
        """Count a call by its result.

        Args:
            kind: of the file; None for a call on none.
            op: "ioctl", or the name of another call. The set of names is the transports' own, never a client's.
            cmd: of an ioctl; 0 otherwise.
            result: a negative errno, or success.
        """
        key = (kind, op, cmd, 0 if result >= 0 else -result)
        try:
            self.calls[key] += 1
        except KeyError:
            if (kind, cmd) not in _IOCTLS:
                key = (kind, op, 0, key[3])
            self.calls[key] = self.calls.get(key, 0) + 1

    def remark(self, kind: str) -> None:
        """Count a remark of that kind."""
        self.remarks[kind] = self.remarks.get(kind, 0) + 1

    def named_calls(self) -> Iterator[tuple[str, str, int]]:
        """Return each (name, errno name or "", count)."""
        for (kind, op, cmd, error), count in self.calls.items():
            yield call_name(kind, op, cmd), errno_name(error), count
