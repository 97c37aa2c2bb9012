# SPDX-License-Identifier: MIT
"""From an ioctl number to a handler, by the registry."""

import errno
from collections.abc import Callable
from typing import TypeAlias, cast

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import lookup

Handler: TypeAlias = Callable[[Caller, int], Steps[int]]


def handler(target: object, kind: FdKind, cmd: int) -> Handler | None:
    """The method of `target` that serves ioctl `cmd` on fds of `kind`, or None."""
    row = lookup(kind, cmd)
    return None if row is None else cast("Handler | None", getattr(target, row.handler, None))


def ioctl(file: File, caller: Caller, cmd: int, arg: int) -> Steps[int]:
    """Serve an ioctl whose handlers are the file's own methods; ENOTTY for what it does not have."""
    serve = handler(file, file.kind, cmd)
    if serve is None:
        raise IoctlError(errno.ENOTTY, f"a {file.kind} fd has no ioctl {cmd:#x}")
    return (yield from serve(caller, arg))
