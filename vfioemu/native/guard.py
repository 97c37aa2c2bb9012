# SPDX-License-Identifier: MIT
"""Access to memory that may go away: mappings of files that somebody else can truncate (csrc/vfe_guard.h)."""

import os

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import Buffer


def install() -> None:
    """Handle SIGBUS from now on: guarded accesses survive it, all others end as they would have.

    Raises:
        OSError: signals cannot be handled here.
    """
    if number := lib.vfe_guard_install():
        raise OSError(number, os.strerror(number))


def read(address: int, size: int) -> bytes | None:
    """Read mapped memory; None if some of it is not there."""
    out = bytearray(size)
    shared = ffi.cast("void *", address)
    target = ffi.from_buffer(out, require_writable=True)
    if lib.vfe_guarded_copy(target, shared, size, shared) < size:
        return None
    return bytes(out)


def write(address: int, data: Buffer) -> int:
    """Write to mapped memory: how many leading bytes are written."""
    shared = ffi.cast("void *", address)
    size = memoryview(data).nbytes
    return lib.vfe_guarded_copy(shared, ffi.from_buffer(data), size, shared)
