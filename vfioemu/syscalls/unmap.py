# SPDX-License-Identifier: MIT
"""Giving mappings back (csrc/vfe_unmap.h)."""

import os

from vfioemu._kernel import ffi, lib


def unmap(address: int, size: int) -> None:
    """Unmap whole pages, without Python's lock.

    Raises:
        OSError: ENOMEM: the kernel would need one mapping more than a process may have.
    """
    if number := lib.vfe_unmap(ffi.cast("void *", address), size):
        raise OSError(number, os.strerror(number))
