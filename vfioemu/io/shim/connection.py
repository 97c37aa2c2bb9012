# SPDX-License-Identifier: MIT
"""One SEQPACKET connection: packets, credentials, fds, and the asks of a call.

`receive_nowait` and `send_nowait` are what a call normally costs: one recvmsg, one send. Everything that waits for the
peer is under a time limit and shielded from cancellation, so that a handler in progress always runs to its end: the daemon
stops by hanging up, which makes every wait fail at once.
"""

import array
import socket
from collections.abc import Callable
from typing import Final

import trio

from vfioemu.core.base.effects import Buffer
from vfioemu.io.base.listen import UCRED
from vfioemu.io.transport import Gone
from vfioemu.wire import messages as m

_ANCILLARY: Final = socket.CMSG_SPACE(UCRED.size) + socket.CMSG_LEN(4)
"""Room for credentials and exactly one fd: the kernel discards what is more."""
_RECEIVE_FLAGS: Final = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_CUT: Final = socket.MSG_TRUNC

# One receive buffer for all connections: a packet is parsed, or copied out, before anything else runs.
_packet = bytearray(m.MAX_MESSAGE)
packet: Final = memoryview(_packet)
_packets: Final = [_packet]


class PeerError(Exception):
    """The peer broke the protocol: its connection ends. The text says how, for the log."""


class Connection:
    """A connection of a client.

    Attributes:
        alive: nothing has ended it yet.
        pid, uid: of the client, as the kernel vouched for its first message.
        why: what ended it, for the log.
        late: the peer ran out of time, which ends its session too.
    """

    __slots__ = ("_credentials", "_taken", "alive", "late", "pid", "sock", "timeout", "uid", "why")

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.sock = sock
        self.timeout = timeout
        self.alive = True
        self.pid = 0
        self.uid = -1
        self.why = ""
        self.late = False
        self._credentials = b""
        self._taken: list[int] = []

    def receive_nowait(self) -> int:
        """Take one packet into `packet`: its size; 0 at the end of the connection, -1 when there is none yet.

        Raises:
            PeerError: it is truncated, or from another process than the first one.
        """
        try:
            size, ancillary, flags, _ = self.sock.recvmsg_into(_packets, _ANCILLARY, _RECEIVE_FLAGS)
        except BlockingIOError:
            return -1
        except OSError:
            return 0
        if len(ancillary) == 1 and ancillary[0][2] == self._credentials and not flags & _CUT:
            return size
        return self._receive_special(size, ancillary, flags)

    def _receive_special(self, size: int, ancillary: list[tuple[int, int, bytes]], flags: int) -> int:
        """Check the first packet, one with an fd, or a wrong one: its size."""
        credentials = b""
        for level, kind, data in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_CREDENTIALS:
                credentials = data
            elif kind == socket.SCM_RIGHTS:
                self._taken.extend(array.array("i", data))
        if not size:
            return 0
        if not self._credentials:
            if len(credentials) != UCRED.size:
                raise PeerError("a message without credentials")
            self._credentials = credentials
            self.pid, self.uid, _ = UCRED.unpack(credentials)
        elif credentials != self._credentials:
            pid, uid, _ = UCRED.unpack(credentials)
            raise PeerError(
                f"a message from pid {pid}, uid {uid} on a connection of pid {self.pid}, uid {self.uid}"
            )
        if self._taken and (
            len(self._taken) > 1 or size < m.HEADER_SIZE or not m.decode(packet).flags & m.F_FD
        ):
            raise PeerError("an fd where none belongs")
        if flags & _CUT:
            raise PeerError(f"a packet of more than {m.MAX_MESSAGE} bytes")
        return size

    def take_fd(self) -> int:
        """Return the fd that came with the last packet, which the caller owns now; -1 without one."""
        return self._taken.pop() if self._taken else -1

    def refuse_fd(self) -> None:
        """Refuse an fd with the last packet. One that we kept could be the client's own end, which then never hangs up.

        Raises:
            PeerError: there is one.
        """
        if self._taken:
            raise PeerError("an fd where none belongs")

    def expect_silence(self) -> None:
        """End the connection if something was sent although nothing is asked. What lies unread may hold fds, as in `refuse_fd`."""
        try:
            said = self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return
        self.end("says what nobody has asked", quiet=not said)

    def send_nowait(self, header: bytes, data: Buffer | None = None, fd: int = -1) -> bool:
        """Send a packet; False when there is no room for it now.

        Raises:
            Gone: the peer is.
        """
        try:
            if data is None and fd < 0:
                self.sock.send(header, _SEND_FLAGS)
            else:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
                self.sock.sendmsg([header] if data is None else [header, data], rights, _SEND_FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            self.end(f"cannot be written to: {error.strerror}", quiet=True)
            raise Gone from None
        return True

    async def send(self, header: bytes, data: Buffer | None = None, fd: int = -1) -> None:
        """Send a packet, waiting for room.

        Raises:
            Gone: the peer is, or has not read for too long.
        """
        while not self.send_nowait(header, data, fd):
            await self._wait(trio.lowlevel.wait_writable, "does not read")

    async def receive(self) -> int:
        """Take one packet into `packet`, waiting for it under the time limit: its size.

        Raises:
            Gone: the peer is, or has not answered for too long, or broke the protocol.
        """
        while True:
            if not self.alive:
                raise Gone
            try:
                size = self.receive_nowait()
                if 0 < size < m.HEADER_SIZE:
                    raise PeerError(f"a packet of {size} bytes, a header has {m.HEADER_SIZE}")
            except PeerError as error:
                self.end(str(error))
                raise Gone from None
            if size > 0:
                return size
            if size == 0:
                self.end("hung up during a call", quiet=True)
                raise Gone
            await self._wait(trio.lowlevel.wait_readable, "does not answer")

    async def _wait(self, wait: Callable[[socket.socket], object], what: str) -> None:
        """Wait for the socket at most `timeout` seconds, whatever is cancelled meanwhile."""
        if not self.alive:
            raise Gone
        with trio.CancelScope(deadline=trio.current_time() + self.timeout, shield=True) as scope:
            try:
                await wait(self.sock)  # type: ignore[misc]  # trio's wait functions, typed more widely than they are
            except trio.ClosedResourceError:
                raise Gone from None
        if scope.cancelled_caught:
            self.late = True
            self.end(f"{what} for {self.timeout:g} s")
            raise Gone

    # --- asks ---

    async def ask(
        self,
        type: int,
        seq: int,
        arg0: int = 0,
        arg1: int = 0,
        *,
        flags: int = 0,
        data: Buffer | None = None,
        fd: int = -1,
    ) -> tuple[int, int]:
        """Ask the client for something and wait for its ANSWER: its result, and the size of the packet.

        Raises:
            Gone: no answer will come.
        """
        if not self.alive:
            raise Gone
        header = m.HEADER.pack(type, flags | (m.F_FD if fd >= 0 else 0), seq, 0, arg0, arg1, 0, 0)
        await self.send(header, data, fd)
        return await self._answer(m.ANSWER, seq, fd=type == m.TAKE_FD)

    async def _answer(self, expected: int, seq: int, *, fd: bool = False) -> tuple[int, int]:
        size = await self.receive()
        if not fd:
            try:
                self.refuse_fd()
            except PeerError as error:
                self.end(str(error))
                raise Gone from None
        kind, _, answered, _, result, _, _, _ = m.HEADER.unpack_from(_packet)
        if kind != expected or answered != seq:
            self.end(f"message type {kind} seq {answered} where type {expected} seq {seq} is due")
            raise Gone
        return m.signed(result), size

    async def ask_read(self, seq: int, address: int, size: int, *, pinned: bool = False) -> bytes | None:
        """Ask for memory (READ_USER): the bytes; None if they cannot be read. Gone as in `ask`.

        Args:
            seq: of the call, or the daemon's own.
            address: where.
            size: bytes.
            pinned: for hardware: whether the process itself may read there does not matter.
        """
        result, got = await self.ask(m.READ_USER, seq, address, size, flags=m.F_PINNED if pinned else 0)
        if result < 0:
            return None
        first = got - m.HEADER_SIZE
        if first != min(size, m.MAX_DATA):
            self.end(f"{first} bytes of memory where {min(size, m.MAX_DATA)} are due")
            raise Gone
        if first == size:
            return bytes(packet[m.HEADER_SIZE : got])
        memory = bytearray(size)
        memory[:first] = packet[m.HEADER_SIZE : got]
        done = first
        while done < size:
            result, got = await self._answer(m.DATA, seq)
            count = got - m.HEADER_SIZE
            if count != min(size - done, m.MAX_DATA):
                self.end(f"a fragment of {count} bytes where {min(size - done, m.MAX_DATA)} are due")
                raise Gone
            memory[done : done + count] = packet[m.HEADER_SIZE : got]
            done += count
        return None if result < 0 else bytes(memory)

    async def ask_write(self, seq: int, address: int, data: Buffer, *, pinned: bool = False) -> bool:
        """Have memory written (WRITE_USER): whether all bytes were. Gone as in `ask`; `pinned` as for `ask_read`."""
        view = memoryview(data).cast("B")
        size = len(view)
        header = m.HEADER.pack(m.WRITE_USER, m.F_PINNED if pinned else 0, seq, 0, address, size, 0, 0)
        await self.send(header, view[: m.MAX_DATA])
        fragment = m.HEADER.pack(m.DATA, 0, seq, 0, 0, 0, 0, 0)
        for start in range(m.MAX_DATA, size, m.MAX_DATA):
            await self.send(fragment, view[start : start + m.MAX_DATA])
        result, _ = await self._answer(m.ANSWER, seq)
        return result >= 0

    async def ask_pin(self, seq: int, address: int, npages: int, *, write: bool) -> int:
        """Ask how many leading pages are present (PIN). Gone as in `ask`."""
        result, _ = await self.ask(m.PIN, seq, address, npages, flags=m.F_WRITE if write else 0)
        return min(max(result, 0), npages)

    def end(self, why: str, *, quiet: bool = False) -> None:
        """End the connection: whoever waits on it wakes up. `quiet`: the client has done nothing wrong."""
        if not self.alive:
            return
        self.alive = False
        self.why = "" if quiet else why
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        """Close the socket; `take_fd` until there is none. Whoever waits on it wakes up."""
        self.alive = False
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()
