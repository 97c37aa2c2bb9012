# SPDX-License-Identifier: MIT
"""From the number of an ioctl to the function that serves it: one table for each kind of fd."""

import errno
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.profile import Profile
from vfioemu.uapi.kinds import FdKind

T = TypeVar("T")
F = TypeVar("F", bound=File)

Table: TypeAlias = Mapping[int, Callable[[T, Caller, int], Steps[int]]]
"""By the number of an ioctl: what serves it, given the object, the caller and the third argument of ioctl(2)."""


def serving(
    table: "Table[T]", profile: Profile, kind: FdKind, cmd: int
) -> Callable[[T, Caller, int], Steps[int]] | None:
    """Return what serves ioctl `cmd` on fds of `kind`; None if the table or the kernel release does not have it."""
    return table.get(cmd) if profile.serves(kind, cmd) else None


def ioctl(table: "Table[F]", file: F, caller: Caller, cmd: int, arg: int) -> Steps[int]:
    """Serve an ioctl of `file` by its table; ENOTTY for what the table or the kernel release does not have."""
    serve = serving(table, file.profile, file.kind, cmd)
    if serve is None:
        raise IoctlError(errno.ENOTTY, f"a {file.kind} fd has no ioctl {cmd:#x}")
    return (yield from serve(file, caller, arg))
