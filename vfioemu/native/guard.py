# SPDX-License-Identifier: MIT
"""Access memory that may vanish: mappings of files that another process can truncate (csrc/vfe_guard.h)."""

import os

from vfioemu._kernel import ffi, lib
from vfioemu.native.bitmap import Buffer


def install() -> None:
    """Install the SIGBUS handler: guarded accesses survive the signal, all others end the process as before.

    Raises:
        OSError: from sigaction(2).
    """
    if number := lib.vfe_guard_install():
        raise OSError(number, os.strerror(number))


def read(address: int, size: int) -> bytes | None:
    """Read `size` bytes of mapped memory; None if some of them do not exist any more."""
    out = bytearray(size)
    shared = ffi.cast("void *", address)
    target = ffi.from_buffer(out, require_writable=True)
    if lib.vfe_guarded_copy(target, shared, size, shared) < size:
        return None
    return bytes(out)


def write(address: int, data: Buffer) -> int:
    """Write to mapped memory; return the number of leading bytes written."""
    shared = ffi.cast("void *", address)
    size = memoryview(data).nbytes
    return lib.vfe_guarded_copy(shared, ffi.from_buffer(data), size, shared)
