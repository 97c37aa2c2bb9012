# SPDX-License-Identifier: MIT
"""A daemon that answers anything: of any type, of any size, at any time, with any fds."""

import array
import errno
import itertools
import os
import random
import socket
import struct
import time

import trio

from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m
from vfioemu.wire.names import TokenName

NUMBERS = [
    0,
    1,
    2,
    3,
    8,
    47,
    48,
    64,
    255,
    256,
    257,
    4096,
    65535,
    65536,
    65537,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 63,
]
NUMBERS += [(1 << 64) - number for number in (1, 2, 14, 4095, 4096, 65536)]
SIZES = [0, 0, 0, 1, 4, 8, 56, 255, 256, 257, 4096, 65535, 65536, 65537, 70000]
DAEMON = os.urandom(16)  # abstract names are for the whole machine: other tests may run beside this one
SERIALS = itertools.count(1)  # and were run before it


class Rogue:
    """Serves connections until cancelled.

    Attributes:
        calls: how many it has seen.
    """

    POLITENESS = 0.9
    """How likely it is that a greeting is answered as one."""

    def __init__(self, path, seed):
        self.calls = 0
        self._random = random.Random(seed)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(os.fspath(path))
        self._listener.listen(64)
        self._listener.setblocking(False)

    async def serve(self):
        with self._listener:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(self._listener)
                    nursery.start_soon(self._connection, self._listener.accept()[0])

    async def _connection(self, sock):
        with sock:
            sock.setblocking(False)
            try:
                while True:
                    message = await self._receive(sock)
                    if message.type == m.HELLO and self._random.random() < self.POLITENESS:
                        self._send(sock, self._hello(message))
                    elif message.type < m.ANSWER:
                        self.calls += 1
                        if not self._misbehave(sock, message):
                            return
            except (OSError, EOFError):
                return  # it has had enough of us

    async def _receive(self, sock):
        while True:
            await trio.lowlevel.wait_readable(sock)
            packet, ancillary, _, _ = sock.recvmsg(m.MAX_MESSAGE, socket.CMSG_SPACE(64))
            for _, _, data in ancillary:
                for fd in array.array("i", data[: len(data) // 4 * 4]):
                    os.close(fd)
            if len(packet) < m.HEADER_SIZE:
                raise EOFError
            return m.decode(packet)

    def _hello(self, message):
        greeting = m.Greeting(
            version=m.VERSION,
            memory_mode=m.MemoryMode.PROCESS_VM,
            daemon_id=DAEMON,
            max_data=m.MAX_DATA,
            max_channels=64,
            max_tokens=64,
            max_windows=64,
            max_shared=1 << 40,
            ask_timeout_ms=1000,
        )
        return m.encode(m.REPLY, message.seq, args=(0, m.VERSION, 4711, 1)) + greeting.encode(), []

    def _misbehave(self, sock, message):
        """A few packets, and the end of the call: False hangs up."""
        rng = self._random
        if message.type == m.OPEN and rng.random() < 0.5:
            self._send(sock, (m.encode(m.REPLY, message.seq, flags=m.F_FD), [self._token()]))
            return True
        for _ in range(rng.randrange(4)):
            self._send(sock, self._packet(message))
        if rng.random() < 0.5:
            return False
        self._send(sock, (m.encode(m.REPLY, message.seq, args=(rng.choice([0, 5, -22]), 0, 0, 0)), []))
        return True

    def _token(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.bind(TokenName(DAEMON, FdKind.CONTAINER, next(SERIALS)).address())
        ours.detach()  # for as long as the test lasts
        return theirs.detach()

    def _packet(self, message):
        rng = self._random
        kind = rng.choice([*(int(t) for t in m.Type), rng.randrange(1 << 16)])
        args = [rng.choice(NUMBERS) for _ in range(4)]
        data = rng.randbytes(rng.choice(SIZES))
        if kind == m.READ_USER:
            args[1] = min(args[1], 1 << 20)
            args[0] = rng.choice([0, 8, 1 << 63, message.arg0, message.arg1])
        elif kind == m.WRITE_USER:  # it may write anywhere, so it is told where
            args[0] = rng.choice([0, 8, 1 << 63])
            args[1] = min(args[1], 1 << 20)
        elif kind in (m.REVOKE_FD, m.TAKE_FD):
            args[0] = rng.randrange(12)
        elif kind == m.PIN:
            args[1] = min(args[1], 1 << 10)
        elif kind == m.REPLY and rng.random() < 0.7:
            args[0] = rng.choice([0, 4, 256, 1 << 64 - 1])
        flags = rng.choice([0, 0, int(m.F_FD), int(m.F_DRAIN), int(m.F_UNPROVED), rng.randrange(1 << 16)])
        seq = message.seq if rng.random() < 0.9 else rng.randrange(1 << 32)
        packet = struct.pack("=HHIQ", kind, flags, seq, rng.choice(NUMBERS)) + struct.pack(
            "=4Q", *(arg & m.U64 for arg in args)
        )
        packet += data
        if rng.random() < 0.1:
            packet = packet[: rng.randrange(48)] or b"?"
        fds = []
        if flags & m.F_FD or rng.random() < 0.1:
            kinds = [self._null, self._memfd, self._token]
            fds += [rng.choice(kinds)() for _ in range(rng.choice([0, 1, 1, 1, 2]))]
        return packet, fds

    def _null(self):
        return os.open("/dev/null", os.O_RDWR)

    def _memfd(self):
        fd = os.memfd_create("rogue")
        os.truncate(fd, self._random.choice([0, 65536]))
        return fd

    def _send(self, sock, what):
        packet, fds = what
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
        finally:  # it waits for nobody: two that both only write would wait for each other for ever
            for fd in fds:
                os.close(fd)


class Generous(Rogue):
    """Opens one file, and from then on sends tokens where none belongs: with refusals, with replies to calls that
    make no file, two at once, and in the middle of a call that then fails. Reads and writes more than it was asked to.
    """

    POLITENESS = 1.0

    def _misbehave(self, sock, message):
        if self.calls > 1 and self._random.random() < 0.5:
            return self._give(sock, message)
        wants_fd = message.type in (m.OPEN, m.MMAP)
        if self.calls == 1:
            result, flags = 0, m.F_FD
        elif self.calls % 4 == 1:
            self._send(sock, (m.encode(m.GIVE_FD, message.seq, flags=m.F_FD), [self._token()]))
            return False
        else:
            result = -errno.EINVAL if wants_fd or self.calls % 2 else 0
            flags = m.F_FD | (m.F_UNPROVED if self.calls % 4 == 2 else 0)
        args = (result & m.U64, 0, 0, 0)
        self._send(sock, (m.encode(m.REPLY, message.seq, flags=flags, args=args), [self._token()]))
        return True

    def _give(self, sock, message):
        """A token or two before the call fails."""
        flags, refused = m.F_FD, (-errno.EIO & m.U64, 0, 0, 0)
        ways = ["refused", "unproved", "fragments"]
        if message.type not in (m.OPEN, m.MMAP):
            ways.append("two")
        if message.type in (m.PREAD, m.PWRITE):
            ways.append("too much")
        match self._random.choice(ways):
            case "refused":
                self._send(sock, (m.encode(m.GIVE_FD, message.seq, flags=flags), [self._token()]))
                self._send(sock, (m.encode(m.REPLY, message.seq, args=refused), []))
            case "two":
                self._send(
                    sock, (m.encode(m.REPLY, message.seq, flags=flags), [self._token(), self._token()])
                )
            case "too much":
                self._send(sock, (m.encode(m.REPLY, message.seq, args=(message.arg1 + 1, 0, 0, 0)), []))
            case "unproved":
                self._send(sock, (m.encode(m.GIVE_FD, message.seq, flags=flags), [self._token()]))
                self._send(sock, (m.encode(m.REPLY, message.seq, flags=m.F_UNPROVED, args=refused), []))
            case _:  # fragments
                ask = m.encode(m.WRITE_USER, message.seq, flags=flags, args=(1 << 63, m.MAX_DATA + 1, 0, 0))
                self._send(sock, (ask + bytes(m.MAX_DATA), [self._token()]))
                self._send(sock, (m.encode(m.DATA, message.seq) + b"x", []))
                return False
        return True


class Slow(Rogue):
    """Takes its time over a greeting, and over a read, after which it has a byte taken off the token."""

    POLITENESS = 1.0

    def _hello(self, message):
        time.sleep(0.5)
        return super()._hello(message)

    def _misbehave(self, sock, message):
        if message.type == m.OPEN:
            self._send(sock, (m.encode(m.REPLY, message.seq, flags=m.F_FD), [self._token()]))
        else:
            time.sleep(0.5)
            self._send(sock, (m.encode(m.REPLY, message.seq, flags=m.F_DRAIN), []))
        return True
