# SPDX-License-Identifier: MIT
"""The one exception with which the core answers a caller.

Everything else that escapes a handler is a bug of ours: the boundary that drives handlers answers EIO, logs the
traceback, and the daemon lives. `why` is for traces and logs; it never reaches the wire, because the kernel's answer
is the number alone.
"""

import errno as _errno


class IoctlError(Exception):
    """A system call's refusal: the kernel's errno, and why, for people.

    Args:
        errno: the positive errno that the caller gets.
        why: one sentence that names field and value, e.g. ``"argsz 31 < 32"``.
    """

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(errno, why)
        self.errno = errno
        self.why = why

    @property
    def name(self) -> str:
        """The errno's symbolic name, ``"EINVAL"``."""
        return _errno.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def header_why(argsz: int, minsz: int, flags: int, known: int) -> str:
    """Why the first two fields of an argument are refused: too short, else with flags that are not known."""
    return f"argsz {argsz} < {minsz}" if argsz < minsz else f"unknown flags {flags & ~known:#x}"
