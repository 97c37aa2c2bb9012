# SPDX-License-Identifier: MIT
"""Allocate, protect, read and write this process's own memory, as the recording program did."""

import ctypes
import mmap
from collections.abc import Mapping
from typing import Final

PAGE: Final = mmap.PAGESIZE
GUARD: Final = 8 << 20
PROTECTIONS: Final[Mapping[str, int]] = {
    "none": 0,
    "r": mmap.PROT_READ,
    "rw": mmap.PROT_READ | mmap.PROT_WRITE,
}

_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_MADV_NOHUGEPAGE: Final = 15
_FAILED: Final = ctypes.c_void_p(-1).value
_FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def allocate(size: int, protection: str, fill: int, align: int) -> int:
    """Allocate anonymous private memory with inaccessible guards of 8 MiB before and after it; return its address.

    Without huge pages, as the recording program had none.
    """
    room = -(-size // PAGE) * PAGE
    start = _map(None, room + 2 * GUARD + align, 0, 0) + GUARD
    start = -(-start // align) * align
    _map(start, room, PROTECTIONS["rw"], _MAP_FIXED)
    _check(_libc.madvise(start, room, _MADV_NOHUGEPAGE))
    if fill:
        ctypes.memset(start, fill, size)
    if protection != "rw":
        protect(start, size, protection)
    return start


def map_file(fd: int, size: int, protection: str, offset: int = 0) -> int:
    """Map a file with mmap(MAP_SHARED); return the address."""
    address = _libc.mmap(None, size, PROTECTIONS[protection], mmap.MAP_SHARED, fd, offset)
    return _address(address)


def protect(address: int, size: int, protection: str) -> None:
    """Call mprotect(2)."""
    _check(_libc.mprotect(address, size, PROTECTIONS[protection]))


def unmap(address: int, size: int) -> None:
    """Call munmap(2)."""
    _check(_libc.munmap(address, size))


def peek(address: int, size: int) -> bytes:
    """Read memory; an unreadable address ends the process."""
    return ctypes.string_at(address, size)


def poke(address: int, data: bytes | bytearray) -> None:
    """Write memory; an unwritable address ends the process."""
    ctypes.memmove(address, bytes(data), len(data))


def _map(address: int | None, size: int, protection: int, flags: int) -> int:
    return _address(_libc.mmap(address, size, protection, _FLAGS | flags, -1, 0))


def _address(result: int | None) -> int:
    if result is None or result == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    return result


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "a memory call failed")
