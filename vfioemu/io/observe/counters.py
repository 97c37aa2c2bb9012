# SPDX-License-Identifier: MIT
"""What the daemon has counted: calls by name and answer, bytes by way. Bounded, whatever clients send."""

import errno as _errno
from collections.abc import Iterator
from typing import Final

from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS
from vfioemu.wire import messages as m

OTHER: Final = "other"
_NAMES: Final = {(ioctl.kind, ioctl.number): ioctl.name for ioctl in IOCTLS}
_CALLS: Final = {
    m.OPEN: "open",
    m.READ: "read",
    m.WRITE: "write",
    m.PREAD: "pread",
    m.PWRITE: "pwrite",
    m.MMAP: "mmap",
    m.STAT: "stat",
    m.MEM_SHARE: "mem_share",
    m.LIMITS: "limits",
    m.FORGET: "forget",
    m.MEM_UNSHARE: "mem_unshare",
    m.ATTR_READ: "attr_read",
    m.ATTR_WRITE: "attr_write",
    m.ATTR_MMAP: "attr_mmap",
    m.MEM_LEAVES: "mem_leaves",
    m.MEM_RETURNS: "mem_returns",
    m.MEM_HOLE: "mem_hole",
    m.MEM_REGION: "mem_region",
}


def call_name(type: int, kind: FdKind | None, cmd: int) -> str:
    """What a call is called: an ioctl by its C name."""
    if type == m.IOCTL:
        return OTHER if kind is None else _NAMES.get((kind, cmd), OTHER)
    return _CALLS.get(type, OTHER)


def errno_name(number: int) -> str:
    """EINVAL for 22; the empty string for success."""
    return _errno.errorcode.get(number, str(number)) if number else ""


class Counters:
    """Counters of a daemon.

    Attributes:
        calls: (type, fd kind, cmd or 0 for unknown ones, errno) -> how many.
        refused_peers: connections that were ended because the peer broke the protocol or its time limit.
        remarks: what has been seen that no call shows, by its kind: memory that was discarded under a mapping, ...
        bugs: handlers that failed with something else than an errno.
    """

    __slots__ = ("bugs", "calls", "refused_peers", "remarks")

    def __init__(self) -> None:
        self.calls: dict[tuple[int, FdKind | None, int, int], int] = {}
        self.refused_peers = 0
        self.bugs = 0
        self.remarks: dict[str, int] = {}

    def count(self, type: int, kind: FdKind | None, cmd: int, result: int) -> None:
        """Count a call by its result."""
        key = (type, kind, cmd, 0 if result >= 0 else -result)
        try:
            self.calls[key] += 1
        except KeyError:
            if type != m.IOCTL or kind is None or (kind, cmd) not in _NAMES:
                key = (type, kind, 0, key[3])
            self.calls[key] = self.calls.get(key, 0) + 1

    def named_calls(self) -> Iterator[tuple[str, str, int]]:
        """Each (name, errno name or "", count)."""
        for (call, kind, cmd, error), count in self.calls.items():
            yield call_name(call, kind, cmd), errno_name(error), count
