# SPDX-License-Identifier: MIT
"""Signalling a client's eventfd as the kernel's eventfd_signal() does: never waiting, a full counter is signalled.

The file description is shared with the client, who may have made it blocking and may fill it at any moment; so a plain
write() could block the daemon, and to set O_NONBLOCK would change the client's own reads. But Linux AIO signals an
eventfd (IOCB_FLAG_RESFD) when a request completes, by calling eventfd_signal() itself. Where AIO is not available, the
eventfd is polled before it is written; a client that fills it between the two could then block us.
"""

import ctypes
import os
import platform
import select
import sys
from typing import Final

from vfioemu.core.base.effects import EventFd
from vfioemu.io.base.accounts import Account

_SYSCALLS: Final = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2)}
"""io_setup, io_getevents, io_submit."""
_EVENTS: Final = 64
_EVENTFD_SIZE: Final = 8
_libc: Final = ctypes.CDLL(None, use_errno=True)
_ONE: Final = (1).to_bytes(8, sys.byteorder)


class _Iocb(ctypes.Structure):
    """struct iocb of <linux/aio_abi.h>, on little-endian machines."""

    _fields_ = (  # type: ignore[mutable-override]  # it is constant
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("reqprio", ctypes.c_int16),
        ("fildes", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Aio:
    """An AIO context whose only request is an empty read of /dev/zero."""

    def __init__(self) -> None:
        self.works = False
        if platform.machine() not in _SYSCALLS:
            return
        setup, self._getevents, self._submit = _SYSCALLS[platform.machine()]
        self._context = ctypes.c_ulong(0)
        if _libc.syscall(setup, _EVENTS, ctypes.byref(self._context)) != 0:
            return
        self._iocb = _Iocb(fildes=os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC), flags=1)
        self._list = (ctypes.POINTER(_Iocb) * 1)(ctypes.pointer(self._iocb))
        self._events = ctypes.create_string_buffer(32 * _EVENTS)
        self.works = True

    def signal(self, fd: int) -> bool:
        """Signal an eventfd; False if that was not possible."""
        self._iocb.resfd = fd
        submitted: int = _libc.syscall(self._submit, self._context, 1, self._list)
        _libc.syscall(self._getevents, self._context, 0, _EVENTS, self._events, None)
        return submitted == 1


class _Signaller:
    """Holds the AIO context, made at the first signal."""

    def __init__(self) -> None:
        self._aio: _Aio | None = None

    def __call__(self, fd: int) -> None:
        if self._aio is None:
            self._aio = _Aio()
        if self._aio.works and self._aio.signal(fd):
            return
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if poll.poll(0):
            os.write(fd, _ONE)


_signal: Final = _Signaller()


class ClientEventFd(EventFd):
    """A real eventfd of a client."""

    __slots__ = ("_account", "_fd")

    def __init__(self, fd: int, account: Account | None = None) -> None:
        self._fd = fd
        self._account = account
        if account is not None:
            account.eventfds += 1
            account.add_fds(1)

    def signal(self) -> None:
        """eventfd_signal(): add one, at most up to the largest value."""
        if self._fd >= 0:
            _signal(self._fd)

    def fileno(self) -> int:
        """Return our fd of it; -1 when it is closed."""
        return self._fd

    def take(self) -> bool:
        """Take the count away without waiting (eventfd_ctx_do_read()); False if there was none.

        The fd may be a blocking one, and somebody else may read it at any moment.
        """
        try:
            return os.preadv(self._fd, [bytearray(8)], -1, os.RWF_NOWAIT) == _EVENTFD_SIZE
        except OSError:
            return False

    def close(self) -> None:
        """eventfd_ctx_put(). An eventfd's close() cannot wait."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            if self._account is not None:
                self._account.eventfds -= 1
                self._account.add_fds(-1)

    def __del__(self) -> None:
        self.close()
