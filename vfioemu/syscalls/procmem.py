# SPDX-License-Identifier: MIT
"""Read and write process memory by address, with the kernel's checks: a bad address is an error, never a signal.

process_vm_readv(2) and process_vm_writev(2) honour page protections (unlike /proc/PID/mem), so an mprotect()ed page fails
as it would in copy_to_user(). The client library uses this on its own process, a private daemon on its clients. ctypes is
enough, as these are functions of libc; cffi is for C code of ours.
"""

import ctypes
import errno
import mmap
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


def address_of(buffer: bytes | bytearray | memoryview | mmap.mmap) -> tuple[int, object]:
    """Return the address of a buffer's bytes, and an object to keep alive while the address is used.

    A read-only memoryview is copied, because ctypes cannot take its address.
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
    """Check that the system lets us reach the memory of process `pid`.

    Raises:
        OSError: EPERM, ESRCH or ENOSYS.
    """
    byte = ctypes.create_string_buffer(1)
    ours = _IoVec(ctypes.addressof(byte), 1)
    theirs = _IoVec(0, 1)
    if _readv(pid, ours, 1, theirs, 1, 0) < 0 and ctypes.get_errno() != errno.EFAULT:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read_into(pid: int, address: int, out: bytearray | memoryview) -> int:
    """Fill `out` from `address` of process `pid`; return the number of bytes read.

    Raises:
        OSError: ESRCH or EPERM if the process cannot be reached. A bad address gives a short count instead.
    """
    return _transfer(_readv, pid, address, out)


def write(pid: int, address: int, data: bytes | bytearray | memoryview) -> int:
    """Write `data` to `address` of process `pid`; return the number of leading bytes written.

    Raises:
        OSError: ESRCH or EPERM if the process cannot be reached. A bad address gives a short count instead.
    """
    return _transfer(_writev, pid, address, data)


def read_own(address: int, out: bytearray | memoryview) -> int:
    """Fill `out` from `address` of this process; return the number of bytes read."""
    return read_into(os.getpid(), address, out)


def write_own(address: int, data: bytes | bytearray | memoryview) -> int:
    """Write `data` to `address` of this process; return the number of leading bytes written."""
    return write(os.getpid(), address, data)


def read_pinned(address: int, out: bytearray | memoryview) -> int:
    """Read like `read_own`, as hardware: protections are ignored, because they were checked when the memory was pinned."""
    done = read_own(address, out)
    view = memoryview(out).cast("B")
    if done < len(view):
        done += _by_force(os.O_RDONLY, lambda mem: os.preadv(mem, [view[done:]], address + done))
    return done


def write_pinned(address: int, data: bytes | bytearray | memoryview) -> int:
    """Write like `write_own`, as hardware."""
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
    """Repeat a process_vm_*v call until it stops; the kernel transfers page by page up to the first bad page."""
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
    """Make `npages` pages of this process present, from the one that holds `address`; return the number of leading pages present.

    madvise(2) does not report how far it came, so a failure is bisected.
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
