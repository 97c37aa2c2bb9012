# SPDX-License-Identifier: MIT
"""One connection to the daemon: makes a call, and serves the daemon's requests while it lasts (protocol/wire.md).

Addresses that the daemon names are accessed with process_vm_readv(2) and _writev(2) on ourselves: a bad address is EFAULT, as
in copy_from_user(), never a signal.
"""

import array
import errno
import os
import socket
from typing import Final, NamedTuple

import trio

from vfioemu import trust
from vfioemu.syscalls import procmem
from vfioemu.wire import messages as m

_ROOM_FOR_FD: Final = socket.CMSG_LEN(4)
_SEND: Final = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
_RECEIVE: Final = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT

_BRING_FD: Final = frozenset({m.OPEN, m.MMAP})
"""Calls whose reply brings an fd if they succeed."""
_ABOUT_MEMORY: Final = frozenset({m.READ_USER, m.WRITE_USER, m.PIN})
"""Requests that the daemon may send at any time, not only during a call."""

_packet = bytearray(m.MAX_MESSAGE)
_view: Final = memoryview(_packet)
_packets: Final = [_packet]


class DaemonGone(OSError):
    """The daemon closed the connection or broke the protocol (EIO)."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EIO, why)


class Reply(NamedTuple):
    """The reply to a call.

    Attributes:
        result: of the system call, or a negative errno.
        flags: of the reply.
        fd: the fd that came with it; -1 without one.
        start: offset of `data` in the offered bytes.
        data: the changed part of the offered bytes.
        more: arg[2] and arg[3] of the reply.
    """

    result: int
    flags: int
    fd: int
    start: int
    data: bytes
    more: tuple[int, int]


class Channel:
    """One connection, which carries one call at a time."""

    __slots__ = ("_fd", "_given", "_seq", "open", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.open = True
        self._seq = 0
        self._fd = -1
        self._given: list[int] = []

    @classmethod
    async def connect(cls, path: str | os.PathLike[str], uid: int | None = None) -> "Channel":
        """Connect to the daemon's socket; the daemon must belong to `uid`, see vfioemu.trust.

        Raises:
            OSError: from connect(2); StrangerError.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(os.fspath(path))
                except BlockingIOError:  # the listener's backlog is full
                    await trio.sleep(0.01)
                else:
                    trust.check(sock, path, None if uid is None else trust.seen(uid))
                    return cls(sock)
        except BaseException:
            sock.close()
            raise

    async def hello(self, session: int, memlock: int, flags: int) -> tuple[int, int, m.Greeting]:
        """Send HELLO; return the session's secret, its number, and the daemon's greeting.

        Raises:
            OSError: EPROTONOSUPPORT, EPERM, EMFILE.
            DaemonGone: it closed the connection.
        """
        reply = await self.call(
            m.HELLO, 0, m.MAGIC, m.VERSION << 32 | m.VERSION, session, memlock, flags=flags
        )
        if reply.result < 0:
            raise OSError(-reply.result, f"the daemon refuses the connection: {os.strerror(-reply.result)}")
        return (*reply.more, m.Greeting.decode(reply.data))

    async def call(
        self,
        type: int,
        token: int,
        arg0: int = 0,
        arg1: int = 0,
        arg2: int = 0,
        arg3: int = 0,
        *,
        flags: int = 0,
        data: bytes | bytearray | memoryview | None = None,
        fd: int = -1,
    ) -> Reply:
        """Make a call, and serve the daemon's requests until it replies.

        A cancelled call closes the connection: nobody can tell whether the call took effect.

        Raises:
            DaemonGone: the daemon closed the connection, or broke the protocol.
        """
        seq = self._seq = (self._seq + 1) & 0xFFFFFFFF
        header = m.HEADER.pack(type, flags | (m.F_FD if fd >= 0 else 0), seq, token, arg0, arg1, arg2, arg3)
        try:
            await self._send(header, data, fd)
            while True:
                size = await self._receive()
                kind, reply_flags, theirs, _, result, start, *more = m.HEADER.unpack_from(_packet)
                # One call at a time: a message for another call is a late or forged one.
                if theirs != seq:
                    raise DaemonGone(f"the daemon sent a message for call {theirs}, expected {seq}")
                if kind == m.REPLY:
                    if type not in _BRING_FD or result or reply_flags & m.F_UNPROVED:
                        self._no_fd(kind)
                    self._given.clear()
                    got, self._fd = self._fd, -1
                    data_bytes = bytes(_view[m.HEADER_SIZE : size]) if size > m.HEADER_SIZE else b""
                    return Reply(m.signed(result), reply_flags, got, start, data_bytes, (more[0], more[1]))
                await self._answer(size)
        except BaseException:
            self.close()
            raise

    async def serve(self) -> None:
        """Serve requests for DMA memory until the daemon closes the connection, or sends any other request."""
        try:
            while True:
                size = await self._receive()
                if m.HEADER.unpack_from(_packet)[0] not in _ABOUT_MEMORY:
                    return
                await self._answer(size)
        except (DaemonGone, trio.ClosedResourceError):
            pass
        finally:
            self.close()

    # --- requests of the daemon ---

    async def _answer(self, size: int) -> None:
        kind, flags, seq, _, arg0, arg1, _, _ = m.HEADER.unpack_from(_packet)
        if kind != m.GIVE_FD:
            self._no_fd(kind)
        if kind == m.READ_USER:
            await self._read_user(seq, arg0, arg1, pinned=bool(flags & m.F_PINNED))
        elif kind == m.WRITE_USER:
            await self._write_user(seq, arg0, arg1, size, pinned=bool(flags & m.F_PINNED))
        elif kind == m.PIN:
            count = procmem.populate(arg0, arg1, writable=bool(flags & m.F_WRITE))
            await self._send(m.encode(m.ANSWER, seq, args=(count, 0, 0, 0)))
        elif kind == m.TAKE_FD:
            await self._take_fd(seq, m.signed(arg0))
        elif kind == m.GIVE_FD:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                self._given.append(fd)
            result = fd if fd >= 0 else -errno.EMFILE
            await self._send(m.encode(m.ANSWER, seq, args=(result, 0, 0, 0)))
        elif kind == m.REVOKE_FD:
            if arg0 not in self._given:
                raise DaemonGone(f"the daemon revokes fd {arg0}, which it has not given")
            self._given.remove(arg0)
            os.close(arg0)
            await self._send(m.encode(m.ANSWER, seq))
        else:
            raise DaemonGone(f"the daemon sent message type {kind}")

    async def _read_user(self, seq: int, address: int, size: int, *, pinned: bool) -> None:
        read = procmem.read_pinned if pinned else procmem.read_own
        part = bytearray(min(size, m.MAX_DATA))
        got = read(address, part)
        if got < len(part):
            await self._send(m.encode(m.ANSWER, seq, args=(-errno.EFAULT, 0, 0, 0)))
            return
        await self._send(m.encode(m.ANSWER, seq, args=(0, size, 0, 0)), part)
        done = got
        result = 0
        while done < size:
            part = bytearray(min(size - done, m.MAX_DATA))
            if not result and read(address + done, part) < len(part):
                result = -errno.EFAULT
            done += len(part)
            last = result if done == size else 0
            await self._send(m.encode(m.DATA, seq, args=(last, 0, 0, 0)), part)

    async def _write_user(self, seq: int, address: int, size: int, packet: int, *, pinned: bool) -> None:
        write = procmem.write_pinned if pinned else procmem.write_own
        done = 0
        good = True
        while True:
            count = packet - m.HEADER_SIZE
            if count != min(size - done, m.MAX_DATA):
                raise DaemonGone(
                    f"the daemon sent a fragment of {count} bytes, expected {min(size - done, m.MAX_DATA)}"
                )
            if good:
                good = write(address + done, _view[m.HEADER_SIZE : packet]) == count
            done += count
            if done == size:
                break
            packet = await self._receive()
            kind, _, theirs, *_ = m.HEADER.unpack_from(_packet)
            if kind != m.DATA or theirs != seq:
                raise DaemonGone(f"the daemon sent message type {kind} instead of a fragment")
            self._no_fd(kind)
        await self._send(m.encode(m.ANSWER, seq, args=(0 if good else -errno.EFAULT, 0, 0, 0)))

    async def _take_fd(self, seq: int, number: int) -> None:
        try:
            await self._send(m.encode(m.ANSWER, seq, flags=m.F_FD), None, number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            await self._send(m.encode(m.ANSWER, seq, args=(-errno.EBADF, 0, 0, 0)))

    def _no_fd(self, kind: int) -> None:
        """Refuse an fd that came where none belongs; `close` closes it."""
        if self._fd >= 0:
            raise DaemonGone(f"the daemon sent an unexpected fd with message type {kind}")

    # --- packets ---

    async def _send(
        self, header: bytes, data: bytes | bytearray | memoryview | None = None, fd: int = -1
    ) -> None:
        while True:
            try:
                if data is None and fd < 0:
                    self.sock.send(header, _SEND)
                else:
                    rights = (
                        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
                    )
                    self.sock.sendmsg([header] if data is None else [header, data], rights, _SEND)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)
            except (BrokenPipeError, ConnectionError):
                raise DaemonGone("the daemon closed the connection") from None
            else:
                return

    async def _receive(self) -> int:
        """Receive a packet into `_packet`, and its fd, if any, into `_fd`; return its size."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                size, ancillary, _, _ = self.sock.recvmsg_into(_packets, _ROOM_FOR_FD, _RECEIVE)
            except BlockingIOError:
                continue
            except ConnectionError:
                size, ancillary = 0, []
            for _, kind, rights in ancillary:
                if kind == socket.SCM_RIGHTS:
                    self._fd = array.array("i", rights)[0]
            if size < m.HEADER_SIZE:
                raise DaemonGone("the daemon closed the connection")
            return size

    def close(self) -> None:
        """Close the connection, and the fds that came with an unfinished call: nobody else knows of them."""
        if self.open:
            self.open = False
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
            for fd in (*self._given, self._fd):
                if fd >= 0:
                    os.close(fd)
            self._given.clear()
            self._fd = -1
