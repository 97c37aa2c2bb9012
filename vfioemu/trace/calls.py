# SPDX-License-Identifier: MIT
"""Make events of calls from what was captured; the caller, who drives handlers, adds the rest."""

from typing import Any, Final

from vfioemu.trace import events as e
from vfioemu.trace.decode import DEFAULT_LIMIT, Capture, Decoder
from vfioemu.trace.names import errno_name, ioctl_name
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import lookup

STRING: Final = 256
"""Limit of the bytes of a read or write that are kept; a Capture for one needs no larger images."""


def outcome(result: int, why: str) -> dict[str, Any]:
    """Return the fields of a call that tell its result; `result` is a negative errno on failure."""
    return {
        "ret": max(result, -1),
        "errno": errno_name(-result) if result < 0 else None,
        "why": (why or None) if result < 0 else None,
    }


def ioctl(
    kind: FdKind,
    cmd: int,
    argument: int,
    capture: Capture,
    result: int,
    why: str = "",
    *,
    limit: int = DEFAULT_LIMIT,
    **rest: Any,
) -> e.Ioctl:
    """Make the event of an ioctl that was answered."""
    row = lookup(kind, cmd)
    decoder = Decoder(capture, limit)
    arg = decoder.argument(row, argument)
    out = decoder.changes(row, argument, worked=result >= 0)
    if row is not None and row.returns_fd and result in capture.fds:
        out = {"fd": result, "is": capture.fds[result]}
    return e.Ioctl(
        **outcome(result, why), **rest, kind=kind, ioctl=ioctl_name(kind, cmd), cmd=cmd, arg=arg, out=out
    )


def transfer(
    kind: FdKind,
    op: str,
    address: int,
    size: int,
    offset: int | None,
    capture: Capture,
    result: int,
    why: str = "",
    **rest: Any,
) -> e.Transfer:
    """Make the event of a read or write that was answered; `offset` is None for calls without one."""
    image = capture.written if op in ("read", "pread64") else capture.read
    data = bytes(image.prefix(address, min(size, STRING))).decode("latin-1")
    return e.Transfer(
        **outcome(result, why), **rest, kind=kind, op=op, size=size, offset=offset, data=data or None
    )
