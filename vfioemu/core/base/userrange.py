# SPDX-License-Identifier: MIT
"""Checks of the system call layer on a buffer before any file operation runs (vfs_read, vfs_write)."""

import errno
from typing import Final

from vfioemu.core.base.errors import IoctlError

TASK_SIZE_MAX: Final = 0x7FFFFFFFF000
"""End of a user's addresses on x86-64 with four page table levels: no user memory at or above it."""

MAX_RW_COUNT: Final = 0x7FFFF000
"""No read or write moves more than this; the rest is a short count."""


def access_ok(addr: int, size: int) -> bool:
    """Tell whether [addr, addr+size) are addresses that a user may have at all (access_ok())."""
    return addr + size <= TASK_SIZE_MAX


def refuse_bad_range(addr: int, size: int, position: int = 0) -> None:
    """Check a range as vfs_read() and rw_verify_area() do: EFAULT outside user memory, EINVAL for a negative count.

    EINVAL, too, for bytes behind the largest offset that a file can have.
    """
    if not access_ok(addr, size):
        raise IoctlError(errno.EFAULT, f"{addr:#x}+{size:#x} is not user memory")
    if size >> 63:
        raise IoctlError(errno.EINVAL, f"a count of {size:#x} is negative")
    if (position + size) >> 63:
        raise IoctlError(errno.EINVAL, f"offset {position:#x} + {size:#x} passes 2^63")


def clip(size: int) -> int:
    """Return the count that a file operation sees: at most MAX_RW_COUNT bytes."""
    return min(size, MAX_RW_COUNT)
