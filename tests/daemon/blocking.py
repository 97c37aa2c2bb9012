# SPDX-License-Identifier: MIT
"""A client without an event loop, for forked children: one connection, calls whose arguments it offers."""

import array
import os
import socket

from vfioemu.syscalls.procmem import address_of
from vfioemu.wire import messages as m
from vfioemu.wire import names


class Blocking:
    """A connection to a daemon."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(os.fspath(path))
        self.seq = 0
        self.call(m.HELLO, 0, m.MAGIC, m.VERSION | m.VERSION << 32, 0, m.INFINITE, flags=m.F_IPC_LOCK)

    def call(self, kind, token, *args, flags=0, data=b"", fd=-1):
        """Make a call: (result, data, fd)."""
        self.seq += 1
        args = (*args, *[0] * (4 - len(args)))
        flags |= m.F_FD if fd >= 0 else 0
        self._send(m.encode(kind, self.seq, token, args, flags) + data, fd)
        while True:
            packet, got = self._receive()
            message = m.decode(packet)
            if message.type == m.REPLY:
                return m.signed(message.arg0), packet[m.HEADER_SIZE :], got
            self._answer(message, got)

    def _answer(self, message, got):
        if message.type == m.TAKE_FD:
            self._send(m.encode(m.ANSWER, self.seq, flags=m.F_FD), message.arg0)
        elif message.type == m.GIVE_FD:
            self._send(m.encode(m.ANSWER, self.seq, args=(got, 0, 0, 0)))
        else:
            raise AssertionError(message)

    def _send(self, packet, fd=-1):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        self.sock.sendmsg([packet], rights)

    def _receive(self):
        packet, ancillary, _, _ = self.sock.recvmsg(m.MAX_MESSAGE, socket.CMSG_LEN(4))
        if not packet:
            raise EOFError
        return packet, array.array("i", ancillary[0][2])[0] if ancillary else -1

    def open(self, path):
        """Open a node: its (fd, serial), or a negative errno."""
        result, _, fd = self.call(m.OPEN, 0, data=path.encode())
        return (fd, names.of_fd(fd).serial) if result >= 0 else result

    def ioctl(self, token, cmd, buffer=b"", value=0):
        """Make an ioctl with a buffer, or a value."""
        data = bytearray(buffer)
        address = address_of(data)[0] if data else value
        return self.call(m.IOCTL, token, cmd, address, data=bytes(data), flags=m.F_WRITABLE)[0]

    def close(self):
        self.sock.close()
