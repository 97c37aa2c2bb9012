# SPDX-License-Identifier: MIT
"""Reading and writing process memory by address, with the kernel's checks: a bad address is an error, never a signal.

process_vm_readv() and process_vm_writev() honour page protections (unlike /proc/PID/mem), so an mprotect()ed page
fails as it would in copy_to_user(). Used by the client library on its own process, and by a private daemon on its
clients. ctypes, not cffi: these are libc's functions, nothing of ours is compiled for them.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any, Final

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))  # type: ignore[mutable-override]  # it is constant


_readv: Final = _libc.process_vm_readv
_writev: Final = _libc.process_vm_writev
for _function in (_readv, _writev):
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = (
        ctypes.c_int,
        ctypes.POINTER(_IoVec),
        ctypes.c_ulong,
        ctypes.POINTER(_IoVec),
        ctypes.c_ulong,
        ctypes.c_ulong,
    )
_madvise: Final = _libc.madvise
_madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)

MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
PAGE: Final = 4096
_TOP: Final = 1 << 63


def address_of(buffer: bytes | bytearray | memoryview) -> tuple[int, object]:
    """Where the bytes of a buffer are, and an object that must live as long as the address is used.

    A read-only memoryview is copied: ctypes gives no address of it.
    """
    if not isinstance(buffer, bytes):
        if not len(buffer):
            return 0, buffer
        try:
            array = (ctypes.c_char * memoryview(buffer).nbytes).from_buffer(buffer)
        except TypeError:
            buffer = bytes(buffer)
        else:
            return ctypes.addressof(array), array
    pointer = ctypes.c_char_p(buffer)
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0, buffer


def probe(pid: int) -> None:
    """Whether the system lets us reach the memory of process `pid`.

    Raises:
        OSError: it does not (EPERM, ESRCH, ENOSYS).
    """
    byte = ctypes.create_string_buffer(1)
    ours = _IoVec(ctypes.addressof(byte), 1)
    theirs = _IoVec(0, 1)
    if _readv(pid, ours, 1, theirs, 1, 0) < 0 and ctypes.get_errno() != errno.EFAULT:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read_into(pid: int, address: int, out: bytearray | memoryview) -> int:
    """Fill `out` from `address` of process `pid`: how many bytes could be read.

    Raises:
        OSError: the process cannot be reached (ESRCH, EPERM); a bad address is a short count instead.
    """
    return _transfer(_readv, pid, address, out)


def write(pid: int, address: int, data: bytes | bytearray | memoryview) -> int:
    """Write `data` to `address` of process `pid`: how many leading bytes were written.

    Raises:
        OSError: the process cannot be reached (ESRCH, EPERM); a bad address is a short count instead.
    """
    return _transfer(_writev, pid, address, data)


def read_own(address: int, out: bytearray | memoryview) -> int:
    """Fill `out` from `address` of this process: how many bytes it may read there."""
    return read_into(os.getpid(), address, out)


def write_own(address: int, data: bytes | bytearray | memoryview) -> int:
    """Write `data` to `address` of this process: how many leading bytes it may write there."""
    return write(os.getpid(), address, data)


def read_pinned(address: int, out: bytearray | memoryview) -> int:
    """As `read_own`, for hardware: protections do not matter, they were looked at when the memory was pinned."""
    done = read_own(address, out)
    view = memoryview(out).cast("B")
    if done < len(view):
        done += _by_force(os.O_RDONLY, lambda mem: os.preadv(mem, [view[done:]], address + done))
    return done


def write_pinned(address: int, data: bytes | bytearray | memoryview) -> int:
    """As `write_own`, for hardware."""
    done = write_own(address, data)
    view = memoryview(data).cast("B")
    if done < len(view):
        done += _by_force(os.O_WRONLY, lambda mem: os.pwrite(mem, view[done:], address + done))
    return done


def _by_force(how: int, access: Callable[[int], int]) -> int:
    try:
        mem = os.open("/proc/self/mem", how | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return access(mem)
    except OSError:
        return 0
    finally:
        os.close(mem)


def _transfer(function: Any, pid: int, address: int, buffer: bytes | bytearray | memoryview) -> int:
    """Repeat a process_vm_*v call until it stops; the kernel transfers page by page up to the first bad one."""
    local, keep = address_of(buffer)
    size = memoryview(buffer).nbytes
    done = 0
    while done < size and address + done < _TOP:
        ours = _IoVec(local + done, size - done)
        theirs = _IoVec(address + done, size - done)
        count = function(pid, ours, 1, theirs, 1, 0)
        if count > 0:
            done += count
            continue
        error = ctypes.get_errno()
        if count == 0 or error in (errno.EFAULT, errno.EIO, errno.ENOMEM, errno.EINVAL):
            break
        raise OSError(error, os.strerror(error))
    del keep
    return done


def populate(address: int, npages: int, *, writable: bool) -> int:
    """Make pages of this process present from the one that holds `address`: how many leading pages now are.

    madvise() does not tell how far it came, so a failure is bisected.
    """
    start = address & ~(PAGE - 1)
    advice = MADV_POPULATE_WRITE if writable else MADV_POPULATE_READ
    npages = min(npages, max((_TOP - start) // PAGE, 0))
    done = 0
    step = npages
    while done < npages:
        step = min(step, npages - done)
        if _madvise(start + done * PAGE, step * PAGE, advice) == 0:
            done += step
        elif ctypes.get_errno() == errno.EINTR:
            continue
        elif step == 1:
            break
        else:
            step = (step + 1) // 2
    return done
