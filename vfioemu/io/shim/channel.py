# SPDX-License-Identifier: MIT
"""A call connection: the `Transport` of the shim.

How a connection works, and why like that:

* **One connection for each calling thread, one call at a time on it.** A thread makes one system call at a time, so nothing has to
  be multiplexed: the reply is the next message that is no question, and no thread of the client ever reads what is meant for
  another. Closing the connection is what a thread's death looks like to us.
* **Questions on the same connection.** While a call lasts we may need the caller's memory or an fd of his. He waits for the reply
  anyway, so he is asked there, and his thread answers from within its own ioctl(): no second thread in the client, no signal, and
  the memory is seen in the state that the kernel would see. Memory that is needed when no call is in progress, for DMA, is asked
  for on the service connection, of which a session has at most one (session.py).
* **SEQPACKET.** A message is a packet: it is all there or not there, its credentials and its fd are its own, and a client that
  stops in the middle of one is not a case.
* **Nothing is awaited but the socket.** The usual call costs one recvmsg, one poll of the hang-ups, the handler, and one send. The
  order of these is a promise: what was closed before the call was sent has been released before its file is looked up, and the
  references that the call took are dropped before the reply is sent, so that a client that closes an fd after the reply finds it
  released at its next call.
* **Turns.** A connection that has been answered is looked at again at once, at most `_IN_A_ROW` times: a client that calls in a
  loop is then served without a round of the event loop for each call. Everything beyond that waits until the others had a look-in,
  and a process, or a user, with many connections gets no more than one with few (base/turns.py).
"""

import errno
import logging
import os
from typing import Final

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.io.base.fds import duplicate, socket_cookie
from vfioemu.io.base.turns import Share
from vfioemu.io.memory.regions import keep_region
from vfioemu.io.observe.counters import OTHER
from vfioemu.io.shim import memory_calls
from vfioemu.io.shim.caller import ShimCaller
from vfioemu.io.shim.clients import Clients
from vfioemu.io.shim.connection import Connection, PeerError, packet
from vfioemu.io.shim.session import Session
from vfioemu.io.shim.tokens import Token
from vfioemu.io.transport import IOCTL, MMAP, PREAD, PWRITE, READ, WRITE, Call, Client, Gone
from vfioemu.wire import messages as m

_FILE_CALLS: Final = frozenset({m.IOCTL, m.READ, m.WRITE, m.PREAD, m.PWRITE, m.MMAP, m.STAT})
_ATTRIBUTE_CALLS: Final = frozenset({m.ATTR_READ, m.ATTR_WRITE, m.ATTR_MMAP})
_NAMES: Final = {
    m.OPEN: "open",
    m.IOCTL: IOCTL,
    m.READ: READ,
    m.WRITE: WRITE,
    m.PREAD: PREAD,
    m.PWRITE: PWRITE,
    m.MMAP: MMAP,
    m.STAT: "stat",
    m.MEM_SHARE: "mem_share",
    m.LIMITS: "limits",
    m.FORGET: "forget",
    m.MEM_UNSHARE: "mem_unshare",
    m.ATTR_READ: "attr_read",
    m.ATTR_WRITE: "attr_write",
    m.ATTR_MMAP: "attr_mmap",
    m.MEM_LEAVES: "mem_leaves",
    m.MEM_RETURNS: "mem_returns",
    m.MEM_HOLE: "mem_hole",
    m.MEM_REGION: "mem_region",
}
"""What counters and the log call a message."""
_IN_A_ROW: Final = 4
"""Calls of one connection that are served before the others get their turn."""
_U32: Final = 0xFFFFFFFF
_HEADER: Final = m.HEADER
_HEADER_SIZE: Final = m.HEADER_SIZE
_F_FD: Final = m.F_FD
_F_WRITABLE: Final = m.F_WRITABLE
_IOCTL: Final = m.IOCTL
_PREAD: Final = m.PREAD
_READS: Final = frozenset({m.PREAD, m.READ})
_WRITES: Final = frozenset({m.PWRITE, m.WRITE})
_REPLY: Final = m.REPLY


class Channel:
    """Takes the calls of one connection, and replies.

    Args:
        clients: what all connections share.
        session: of the client.
        connection: greeted.

    Attributes:
        client, access, share: as `Transport` says.
    """

    __slots__ = (
        "_call",
        "_clients",
        "_connection",
        "_driver",
        "_left",
        "_mapping",
        "_memory",
        "_session",
        "_token",
        "access",
        "client",
        "share",
    )

    def __init__(self, clients: Clients, session: Session, connection: Connection) -> None:
        self.client: Client = session
        self.access = access = ShimCaller(clients, session, connection)
        self.share: Share = session.account.share
        self._clients = clients
        self._session = session
        self._connection = connection
        self._call = Call()
        self._driver = driver = clients.dispatcher.driver(self.share, access)  # of what is no call on a file
        self._memory = memory_calls.MemoryCalls(clients, session, driver, access)
        self._left = 0  # calls that are still served in this turn
        self._token: Token | None = None  # of the call in progress
        self._mapping: tuple[int, int, bool] | None = None  # what its reply hands over: fd, start, a remark

    async def receive(self) -> Call | None:
        """Wait for the next call on a file, and answer all others.

        Raises:
            PeerError: the client broke the protocol.
        """
        connection = self._connection
        session = self._session
        share = self.share
        poller = self._clients.dispatcher.poller
        while True:
            if not self._left:
                if not connection.alive:
                    return None
                await trio.lowlevel.wait_readable(connection.sock)
                if not share.free:
                    await share.turn()
                self._left = _IN_A_ROW
            size = connection.receive_nowait()
            if size < 0:
                self._left = 0
                continue
            if size == 0:
                return None
            if size < _HEADER_SIZE:
                raise PeerError(f"a packet of {size} bytes, a header has {_HEADER_SIZE}")
            self._left -= 1
            kind, flags, seq, serial, a0, a1, a2, a3 = _HEADER.unpack_from(packet)
            data = bytearray(packet[_HEADER_SIZE:size]) if size > _HEADER_SIZE else None
            # Everything that was closed before this call was sent is released now: tokens.py says why.
            while poller.reap():
                await share.breathe()
            if session.releases:
                await session.settled()
            fd = connection.take_fd() if flags & _F_FD else -1
            if kind not in _FILE_CALLS:
                await self._serve_other(kind, flags, seq, serial, (a0, a1, a2, a3), data, fd)
                self._spend()
                continue
            token = session.tokens.get(serial)
            if token is None or fd >= 0:
                token = await self._find_token(kind, flags, seq, serial, fd)
                if token is None:
                    self._spend()
                    continue
            access = self.access
            call = self._call
            call.file = token.file
            if kind == _IOCTL:
                access.begin(seq, a1, data, writable=bool(flags & _F_WRITABLE))
                call.op = IOCTL
                call.args = a0 & _U32, a1
            elif kind in _READS:
                offer = bytearray(min(a1, m.MAX_DATA)) if flags & _F_WRITABLE else None
                access.begin(seq, a0, offer, writable=True)
                if kind == _PREAD:
                    call.op = PREAD
                    call.args = a0, a1, a2
                else:
                    call.op = READ
                    call.args = a0, a1
            elif kind in _WRITES:
                access.begin(seq, a0, data, writable=False)
                if kind == m.PWRITE:
                    call.op = PWRITE
                    call.args = a0, a1, a2
                else:
                    call.op = WRITE
                    call.args = a0, a1
            elif kind == m.MMAP:
                access.begin(seq, 0, None, writable=False)
                call.op = MMAP
                call.args = a0, a1, a2 & _U32, a3 & 1
            else:
                self._clients.dispatcher.counters.count(token.file.kind, "stat", 0, 0)
                await self._reply(seq, 0, token.file.number, token.file.access)
                self._spend()
                continue
            call.caller = session.caller
            call.fd = (a3 >> 32) - 1
            call.on = token
            token.users += 1
            self._token = token
            return call

    def _spend(self) -> None:
        """Count a call that is answered; if that was the last one of this turn, look at the others first."""
        share = self.share
        share.spend()
        if not share.free:
            self._left = 0

    def show(self, mapped: Mapped) -> None:
        """Hand over, with the reply, a copy of the file that is to be mapped."""
        session = self._session
        assert self._token is not None
        keep_region(mapped.fd, session.account, self._token.regions, session.space.regions)
        # The device's own may be gone before a full connection takes it.
        self._mapping = duplicate(mapped.fd), mapped.start, self._remark_on(mapped)

    async def reply(self, result: int) -> None:
        """Answer the call, with what the client is to change in its memory."""
        token = self._token
        assert token is not None
        access = self.access
        connection = self._connection
        tokens = self._clients.tokens
        if tokens.data:
            tokens.refresh()
        if self._mapping is not None:
            await self._reply_mapping(token)
            return
        flags = 0
        if token.drain:
            token.drain = token.readable = False
            flags = m.F_DRAIN
        offer = access.offer
        changed = memoryview(offer)[access.low : access.high] if access.high and offer is not None else None
        header = _HEADER.pack(_REPLY, flags, access.seq, 0, result & m.U64, access.low, 0, 0)
        self._finish(token)
        if not connection.alive:
            raise Gone
        if not connection.send_nowait(header, changed):
            await connection.send(header, changed)
        share = self.share
        share.spend()
        if not share.free:
            self._left = 0

    async def _reply_mapping(self, token: Token) -> None:
        assert self._mapping is not None
        fd, start, remark = self._mapping
        self._mapping = None
        self._finish(token)
        try:
            await self._reply(self.access.seq, 0, start, remark, fd=fd)
        finally:
            os.close(fd)
        self._spend()

    def _finish(self, token: Token) -> None:
        """Let go of the files of the call: fdput()."""
        self._token = None
        self.access.end()
        self._clients.tokens.put(token, self._session)

    def let_go(self) -> None:
        """Let go of a call that nobody answers, after a bug of ours: its files are not to stay open for that."""
        if self._mapping is not None:
            os.close(self._mapping[0])
            self._mapping = None
        if self._token is not None:
            self._finish(self._token)

    def _remark_on(self, mapped: Mapped) -> bool:
        """Decide whether the client is to tell of a mapping that hides registers: once for each device."""
        session = self._session
        if mapped.hides is None or not session.tell_once(mapped.hides[0]):
            return False
        device, region = mapped.hides
        text = f"region {region} of {device} is mapped: what is stored there reaches none of its registers"
        self._clients.dispatcher.remark(session.space, "registers", text, logging.INFO)
        return True

    async def _find_token(self, kind: int, flags: int, seq: int, serial: int, fd: int) -> Token | None:
        """Find the token of a call that this session has not proved yet; None when the call has been refused."""
        if fd < 0 and flags & m.F_FD:
            await self._refuse_lost(kind, seq)
            return None
        token = await self._prove(serial, fd)
        if token is None:
            await self._refuse_token(kind, seq, serial, proved=fd >= 0)
        return token

    async def _prove(self, serial: int, fd: int) -> Token | None:
        """Recognise the fd that came with a call as a token, by its cookie; the fd is closed."""
        if fd < 0:
            return None
        cookie = socket_cookie(fd)
        token = None if cookie is None else self._clients.tokens.by_cookie(cookie)
        if token is None or (serial and token.serial != serial):
            await self._clients.close_for(fd, self._session)
            return None
        os.close(fd)
        session = self._session
        if len(session.tokens) >= self._clients.limits.max_tokens and token.serial not in session.tokens:
            return None
        self._session.prove(token)
        return token

    async def _refuse_token(self, kind: int, seq: int, serial: int, *, proved: bool) -> None:
        """Reply EBADF; without a proof the client may try again with one."""
        self._clients.dispatcher.counters.count(None, _NAMES[kind], 0, -errno.EBADF)
        if proved:
            why = f"what came with the call is no token, not {serial}, or one too many"
            self._clients.dispatcher.refused(self._session, _name(kind), errno.EBADF, why)
        await self._reply(seq, -errno.EBADF, flags=0 if proved else m.F_UNPROVED)

    async def _refuse_lost(self, kind: int, seq: int) -> None:
        """Reply EMFILE: the kernel drops an fd that is sent to us when we have no room for it (scm_detach_fds())."""
        dispatcher = self._clients.dispatcher
        dispatcher.counters.count(None, _NAMES[kind], 0, -errno.EMFILE)
        why = "the daemon has no fd left for the one that came with the call"
        dispatcher.refused(self._session, _name(kind), errno.EMFILE, why)
        await self._reply(seq, -errno.EMFILE)

    async def _reply(
        self, seq: int, result: int, start: int = 0, more: int = 0, *, flags: int = 0, fd: int = -1
    ) -> None:
        flags |= m.F_FD if fd >= 0 else 0
        header = m.HEADER.pack(_REPLY, flags, seq, 0, result & m.U64, start, more, 0)
        await self._connection.send(header, None, fd)

    # --- calls without a file ---

    async def _serve_other(
        self,
        type: int,
        flags: int,
        seq: int,
        serial: int,
        args: tuple[int, int, int, int],
        data: bytearray | None,
        fd: int,
    ) -> None:
        session = self._session
        dispatcher = self._clients.dispatcher
        counters = dispatcher.counters
        if fd < 0 and flags & m.F_FD and type in memory_calls.CALLS:
            await self._refuse_lost(type, seq)
            return
        why = ""
        try:
            if type == m.OPEN:
                if fd >= 0:
                    await self._clients.close_for(fd, session)
                    raise PeerError("an fd with OPEN")
                await self._open(seq, args[0], data or bytearray())
                counters.count(None, _NAMES[type], 0, 0)
                return
            result = 0
            if type in _ATTRIBUTE_CALLS and fd < 0:
                if await self._attribute(type, seq, args, data or bytearray()):
                    counters.count(None, _NAMES[type], 0, 0)
                    return
            elif type in memory_calls.CALLS:
                result = await self._memory.serve(type, seq, args, fd)
            elif fd >= 0:
                await self._clients.close_for(fd, session)
                raise PeerError("an fd where none belongs")
            elif type == m.LIMITS:
                session.set_limits(args[1], ipc_lock=bool(flags & m.F_IPC_LOCK))
            elif type == m.FORGET:
                token = session.tokens.get(serial)
                if token is not None:
                    session.unprove(token)
            else:
                raise PeerError(f"message type {type} where a call is due")
        except IoctlError as error:
            result = -error.errno
            why = error.why
        except OSError as error:
            result = -(error.errno or errno.EIO)
            why = error.strerror or str(error)
        counters.count(None, _NAMES[type], 0, result)
        if why:
            dispatcher.refused(session, _NAMES[type], -result, why)
        if type == m.OPEN and dispatcher.tracer is not None:
            dispatcher.tracer.opened(session.pid, data or b"", None, -result, why)
        await self._reply(seq, result)

    async def _attribute(self, type: int, seq: int, args: tuple[int, int, int, int], data: bytearray) -> bool:
        """Answer a call on a file in /sys, which its name precedes; IoctlError refuses it."""
        attributes = self._clients.attributes
        name, _, content = bytes(data).partition(b"\0")
        path = name.decode("utf-8", "surrogateescape")
        offset, size = args[0], args[1]
        if attributes is None or len(name) > m.MAX_PATH:
            raise IoctlError(errno.ENODEV, "there is no such file here")
        if offset >> 63:
            raise IoctlError(errno.EINVAL, f"offset {m.signed(offset)}")
        uid = self._session.uid
        run = self._driver.run
        self.access.begin(seq, 0, None, writable=False)
        try:
            if type == m.ATTR_READ:
                found: bytes = await run(attributes.read, uid, path, offset, min(size, m.MAX_DATA))
                header = m.HEADER.pack(_REPLY, 0, seq, 0, len(found), 0, 0, 0)
                await self._connection.send(header, found)
            elif type == m.ATTR_WRITE:
                done: int | None = await run(attributes.write, uid, path, offset, content)
                await self._reply(seq, done or 0, flags=m.F_ELSEWHERE if done is None else 0)
            else:
                mapped: Mapped = await run(attributes.mmap, uid, path, offset, size)
                fd = duplicate(mapped.fd)
                try:
                    await self._reply(seq, 0, mapped.start, self._remark_on(mapped), fd=fd)
                finally:
                    os.close(fd)
        finally:
            self.access.end()
        return True

    async def _open(self, seq: int, flags: int, path: bytearray) -> None:
        """Open a node (OPEN): the reply carries the new token."""
        clients = self._clients
        dispatcher = clients.dispatcher
        session = self._session
        if len(path) > m.MAX_PATH:
            raise IoctlError(errno.ENAMETOOLONG, f"a path of {len(path)} bytes")
        clients.check_room(session)
        name = path.decode("utf-8", "surrogateescape")
        self.access.begin(seq, 0, None, writable=False)
        try:
            file = await self._driver.run(dispatcher.machine.open, session.caller, name)
        finally:
            self.access.end()
        file.access = flags & os.O_ACCMODE
        try:
            token, theirs = clients.tokens.create(file, session.account)
        except OSError as error:
            dispatcher.run(file.release, f"release of a {file.kind}", self.share, [session])
            raise IoctlError(errno.EMFILE, f"the daemon has no fd left: {error.strerror}") from None
        session.prove(token)
        if dispatcher.tracer is not None:
            dispatcher.tracer.opened(session.pid, path, file)
        try:
            await self._reply(seq, 0, fd=theirs)
        finally:
            os.close(theirs)


def _name(kind: int) -> str:
    """Name a call on no file that we know: which ioctl it is depends on the file."""
    return OTHER if kind == m.IOCTL else _NAMES[kind]
