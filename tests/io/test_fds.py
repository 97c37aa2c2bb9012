# SPDX-License-Identifier: MIT
"""Fds that clients send are looked at without waiting for whoever holds up what is behind them."""

import ctypes
import fcntl
import mmap
import os
import socket
import struct
import threading

import pytest

from vfioemu.io.fds import socket_cookie

NR_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
PATIENCE = 5


@pytest.fixture
def parked():
    """Memory that whoever reads it waits for, until the test ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = NR_USERFAULTFD.get(os.uname().machine)
    fd = -1 if number is None else libc.syscall(number, os.O_CLOEXEC)
    if fd < 0:
        pytest.skip("no userfaultfd that the kernel waits for")
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 0, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("=QQQQ", address, mmap.PAGESIZE, 1, 0))
    yield memory
    os.close(fd)


def test_socket_that_somebody_has_locked(parked):
    """sendmsg() on TCP holds the socket's lock while it copies; getsockname() would wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.connect(listener.getsockname())
        cookie = socket_cookie(sock.fileno())
        sender = threading.Thread(target=sock.send, args=(parked,), daemon=True)
        sender.start()
        sender.join(0.2)
        assert sender.is_alive()
        found = []
        asker = threading.Thread(target=lambda: found.append(socket_cookie(sock.fileno())), daemon=True)
        asker.start()
        asker.join(PATIENCE)
        assert found == [cookie]


def test_what_is_no_socket_has_no_cookie():
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null", "rb") as null:
        assert socket_cookie(ours.fileno()) not in (None, socket_cookie(theirs.fileno()))
        assert socket_cookie(null.fileno()) is None
        assert socket_cookie(-1) is None
