# SPDX-License-Identifier: MIT
"""Give mappings back to the kernel (csrc/vfe_unmap.h)."""

import os

from vfioemu._kernel import ffi, lib


def unmap(address: int, size: int) -> None:
    """Unmap whole pages, with Python's interpreter lock released.

    Raises:
        OSError: ENOMEM, splitting a mapping would exceed vm.max_map_count.
    """
    if number := lib.vfe_unmap(ffi.cast("void *", address), size):
        raise OSError(number, os.strerror(number))
