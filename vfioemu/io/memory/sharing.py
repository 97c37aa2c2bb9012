# SPDX-License-Identifier: MIT
"""Which files of a client may be mapped here, and what can become of such a mapping.

A memfd that is sealed against shrinking never lets an access of ours fault. Any other file can be truncated under the
mapping, run out of huge pages or of room on its disk: accesses to it are guarded (kernel/guard.py). In a daemon that
several users share, a file must not be able to make us wait for a client either, as one on FUSE or on a network can.
"""

import ctypes
import errno
import fcntl
import os
import stat
from typing import Final

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.memory.mm import PAGE

_F_GET_SEALS: Final = 1034
_SEAL_SHRINK: Final = 2
_SEAL_WRITES: Final = 8 | 16  # F_SEAL_WRITE, F_SEAL_FUTURE_WRITE
_LOCAL: Final = {
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x958458F6: "hugetlbfs",
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
}
"""File systems (linux/magic.h) whose page faults nobody but the kernel answers."""
_SECRET: Final = 0x5345434D
"""memfd_secret()."""


class _Statfs(ctypes.Structure):
    _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_char * 256))  # type: ignore[mutable-override]  # it is constant


_fstatfs: Final = ctypes.CDLL(None, use_errno=True).fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.POINTER(_Statfs))


def is_shmem(fd: int) -> bool:
    """Tell whether this is a memfd, or a file on tmpfs or hugetlbfs: they alone have seals, and to ask for these never waits."""
    try:
        fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        return False
    return True


def is_local(fd: int) -> bool:
    """Tell whether the file is on a file system that nobody but the kernel answers for. To ask any other one may wait for ever."""
    return _magic(fd) in _LOCAL


def _magic(fd: int) -> int:
    found = _Statfs()
    return 0 if _fstatfs(fd, found) else int(found.type & 0xFFFFFFFF)


def needs_guard(fd: int, *, trusted: bool) -> bool:
    """Tell whether accesses to a mapping of this file may fault.

    Args:
        fd: the file; unless the client is trusted, `is_shmem` or `is_local` has said yes of it.
        trusted: the client may make us wait: the daemon is its own.

    Raises:
        IoctlError: EPERM, and why it cannot be mapped at all.
    """
    if not trusted and not is_shmem(fd) and not is_local(fd):
        raise IoctlError(errno.EPERM, "a file system that might make us wait")
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise IoctlError(errno.EPERM, "neither a memfd nor a regular file")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise IoctlError(errno.EPERM, "the file is not open for reading and writing")
    try:
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        seals = 0  # no memfd, and nothing like it
        if _magic(fd) == _SECRET:
            raise IoctlError(errno.EPERM, "secret memory, which no device can have") from None
    if seals & _SEAL_WRITES:
        raise IoctlError(errno.EPERM, "the memfd is sealed against writing")
    # A hole in a file of huge pages can run out of them.
    return not seals & _SEAL_SHRINK or os.fstatvfs(fd).f_bsize != PAGE
