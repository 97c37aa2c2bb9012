# SPDX-License-Identifier: MIT
"""A call connection: one trio task that takes a call, has it answered, and takes the next.

The usual call costs one recvmsg, one poll of the hang-ups, the handler, and one send; nothing is awaited but the socket.
"""

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

import trio

from vfioemu.core.caller import Caller
from vfioemu.core.effects import Steps
from vfioemu.core.errors import IoctlError
from vfioemu.core.file import Mapped
from vfioemu.io.base.fds import duplicate, socket_cookie
from vfioemu.io.memory.regions import keep_region
from vfioemu.io.observe.counters import call_name, errno_name
from vfioemu.io.shim import memory_calls
from vfioemu.io.shim.call import Call
from vfioemu.io.shim.connection import Connection, Gone, PeerError, packet
from vfioemu.io.shim.tokens import Token
from vfioemu.wire import messages as m

if TYPE_CHECKING:
    from vfioemu.io.shim.server import Server
    from vfioemu.io.shim.session import Session

_FILE_CALLS: Final = frozenset({m.IOCTL, m.READ, m.WRITE, m.PREAD, m.PWRITE, m.MMAP, m.STAT})
_ATTRIBUTE_CALLS: Final = frozenset({m.ATTR_READ, m.ATTR_WRITE, m.ATTR_MMAP})
_IN_A_ROW: Final = 4
"""Calls of one client that are served before the others get their turn."""
_U32: Final = 0xFFFFFFFF
_REPLY: Final = m.REPLY


class Channel:
    """Serves the calls of one connection.

    Args:
        server: what the calls are about.
        session: of the client.
        connection: greeted.
    """

    __slots__ = ("_call", "_connection", "_memory", "_server", "_session", "_token")

    def __init__(self, server: "Server", session: "Session", connection: Connection) -> None:
        self._server = server
        self._session = session
        self._connection = connection
        self._call = Call(server, session, connection)
        self._memory = memory_calls.MemoryCalls(server, session, self._call)
        self._token: Token | None = None  # of the call in progress

    async def serve(self) -> None:
        """Serve calls until the client hangs up.

        Raises:
            PeerError: it broke the protocol.
        """
        connection = self._connection
        sock = connection.sock
        receive = connection.receive_nowait
        share = self._session.account.share
        while connection.alive:
            await trio.lowlevel.wait_readable(sock)
            if not share.free:
                await share.turn()
            for _ in range(_IN_A_ROW):
                size = receive()
                if size < 0:
                    break
                if size == 0:
                    return
                if size < m.HEADER_SIZE:
                    raise PeerError(f"a packet of {size} bytes, a header has {m.HEADER_SIZE}")
                try:
                    await self._serve(size)
                except Gone:
                    return
                finally:
                    if self._token is not None:  # a bug of ours; the file is not to stay open for that
                        self._finish(self._token)
                share.spend()
                if not share.free:
                    break

    async def _serve(self, size: int) -> None:
        """Answer the call in `packet`."""
        server = self._server
        session = self._session
        kind, flags, seq, serial, a0, a1, a2, a3 = m.HEADER.unpack_from(packet)
        data = bytearray(packet[m.HEADER_SIZE : size]) if size > m.HEADER_SIZE else None
        # Everything that was closed before this call was sent is released now.
        while server.tokens.reap():
            await session.account.share.breathe()
        if session.releases:
            await session.settled()
        fd = self._connection.take_fd() if flags & m.F_FD else -1
        if kind not in _FILE_CALLS:
            if fd < 0 and flags & m.F_FD and kind in memory_calls.CALLS:
                await self._refuse_lost(kind, seq)
                return
            await self._serve_other(kind, flags, seq, serial, (a0, a1, a2, a3), data, fd)
            return
        token = session.tokens.get(serial)
        if token is None or fd >= 0:
            if fd < 0 and flags & m.F_FD:
                await self._refuse_lost(kind, seq)
                return
            token = await self._prove(serial, fd)
            if token is None:
                await self._refuse_token(kind, seq, serial, proved=fd >= 0)
                return
        call = self._call
        file = token.file
        if kind == m.STAT:
            server.counters.count(kind, file.kind, 0, 0)
            await self._reply(seq, 0, file.number, file.access)
            return
        caller = session.caller
        why = ""
        shown_from = 0
        remark = False
        start = call.start
        tracer = server.tracer
        record = None
        if tracer is not None:
            record = tracer.begin(session, token, kind, (a0, a1, a2, a3))
            start = record.starter(start)
        token.users += 1
        self._token = token
        try:
            if kind == m.IOCTL:
                call.begin(seq, a1, data, writable=bool(flags & m.F_WRITABLE))
                effect = start(file.ioctl, caller, a0 & _U32, a1)
            elif kind == m.READ or kind == m.PREAD:
                offer = bytearray(min(a1, m.MAX_DATA)) if flags & m.F_WRITABLE else None
                call.begin(seq, a0, offer, writable=True)
                if kind == m.READ:
                    effect = start(file.read, caller, a0, a1)
                else:
                    effect = start(file.pread if not a2 >> 63 else _negative, caller, a0, a1, a2)
            elif kind == m.MMAP:
                call.begin(seq, 0, None, writable=False)
                effect = start(file.mmap, caller, a0, a1, a2 & _U32, bool(a3 & 1))
            else:
                call.begin(seq, a0, data, writable=False)
                if kind == m.WRITE:
                    effect = start(file.write, caller, a0, a1)
                else:
                    effect = start(file.pwrite if not a2 >> 63 else _negative, caller, a0, a1, a2)
            result: int = call.result if effect is None else await call.finish(effect)
            if kind == m.MMAP:
                mapped: Mapped = call.result
                keep_region(mapped.fd, session.account, token.regions, session.space.regions)
                # The device's own may be gone before a full connection takes it.
                result = duplicate(mapped.fd)
                shown_from = mapped.start
                remark = self._remark_on(mapped)
        except IoctlError as error:
            result = -error.errno
            why = error.why
        server.counters.count(kind, file.kind, a0 & _U32 if kind == m.IOCTL else 0, result)
        if why:
            server.refused(session, f"{call_name(kind, file.kind, a0)} on {token}", errno_name(-result), why)
        if tracer is not None and record is not None:
            tracer.end(record, result, why, call.given)
        if server.tokens.has_data:
            server.tokens.refresh()
        offer = call.offer
        if kind == m.MMAP and result >= 0:
            self._finish(token)
            try:
                await self._reply(seq, 0, shown_from, remark, fd=result)
            finally:
                os.close(result)
            return
        reply_flags = 0
        if token.drain:
            token.drain = token.readable = False
            reply_flags = m.F_DRAIN
        changed = memoryview(offer)[call.low : call.high] if call.high and offer is not None else None
        header = m.HEADER.pack(_REPLY, reply_flags, seq, 0, result & m.U64, call.low, 0, 0)
        self._finish(token)
        if not self._connection.alive:
            raise Gone
        if not self._connection.send_nowait(header, changed):
            await self._connection.send(header, changed)

    def _finish(self, token: Token) -> None:
        """The handler has ended: fdput()."""
        self._token = None
        self._call.end()
        self._server.tokens.put(token, self._session)

    def _remark_on(self, mapped: Mapped) -> bool:
        """Whether the client is to tell of a mapping that hides registers: once for each device."""
        session = self._session
        if mapped.hides is None or not session.tell_once(mapped.hides[0]):
            return False
        device, region = mapped.hides
        text = f"region {region} of {device} is mapped: what is stored there reaches none of its registers"
        self._server.remark(session.space, "registers", text, logging.INFO)
        return True

    async def _prove(self, serial: int, fd: int) -> Token | None:
        """Recognise the fd that came with a call as a token, by its cookie; the fd is closed."""
        if fd < 0:
            return None
        cookie = socket_cookie(fd)
        token = None if cookie is None else self._server.tokens.by_cookie(cookie)
        if token is None or (serial and token.serial != serial):
            await self._server.bury_for(fd, self._session)
            return None
        os.close(fd)
        session = self._session
        if len(session.tokens) >= self._server.limits.max_tokens and token.serial not in session.tokens:
            return None
        self._session.prove(token)
        return token

    async def _refuse_token(self, kind: int, seq: int, serial: int, *, proved: bool) -> None:
        """EBADF; without a proof the client may try again with one."""
        self._server.counters.count(kind, None, 0, -errno.EBADF)
        if proved:
            why = f"what came with the call is no token, not {serial}, or one too many"
            self._server.refused(self._session, call_name(kind, None, 0), "EBADF", why)
        await self._reply(seq, -errno.EBADF, flags=0 if proved else m.F_UNPROVED)

    async def _refuse_lost(self, kind: int, seq: int) -> None:
        """EMFILE: the kernel drops an fd that is sent to us when we have no room for it (scm_detach_fds())."""
        self._server.counters.count(kind, None, 0, -errno.EMFILE)
        why = "the daemon has no fd left for the one that came with the call"
        self._server.refused(self._session, call_name(kind, None, 0), "EMFILE", why)
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
        why = ""
        try:
            if type == m.OPEN:
                if fd >= 0:
                    await self._server.bury_for(fd, session)
                    raise PeerError("an fd with OPEN")
                await self._open(seq, args[0], data or bytearray())
                self._server.counters.count(type, None, 0, 0)
                return
            result = 0
            if type in _ATTRIBUTE_CALLS and fd < 0:
                if await self._attribute(type, seq, args, data or bytearray()):
                    self._server.counters.count(type, None, 0, 0)
                    return
            elif type in memory_calls.CALLS:
                result = await self._memory.serve(type, seq, args, fd)
            elif fd >= 0:
                await self._server.bury_for(fd, session)
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
        self._server.counters.count(type, None, 0, result)
        if why:
            self._server.refused(session, call_name(type, None, 0), errno_name(-result), why)
        if type == m.OPEN and self._server.tracer is not None:
            self._server.tracer.opened(session, data or b"", None, -result, why)
        await self._reply(seq, result)

    async def _attribute(self, type: int, seq: int, args: tuple[int, int, int, int], data: bytearray) -> bool:
        """Answer a call on a file in /sys, which its name precedes; IoctlError refuses it."""
        attributes = self._server.attributes
        name, _, content = bytes(data).partition(b"\0")
        path = name.decode("utf-8", "surrogateescape")
        offset, size = args[0], args[1]
        if attributes is None or len(name) > m.MAX_PATH:
            raise IoctlError(errno.ENODEV, "there is no such file here")
        if offset >> 63:
            raise IoctlError(errno.EINVAL, f"offset {m.signed(offset)}")
        uid = self._session.uid
        call = self._call
        call.begin(seq, 0, None, writable=False)
        try:
            if type == m.ATTR_READ:
                found: bytes = await call.run(attributes.read, uid, path, offset, min(size, m.MAX_DATA))
                header = m.HEADER.pack(_REPLY, 0, seq, 0, len(found), 0, 0, 0)
                await self._connection.send(header, found)
            elif type == m.ATTR_WRITE:
                done: int | None = await call.run(attributes.write, uid, path, offset, content)
                await self._reply(seq, done or 0, flags=m.F_ELSEWHERE if done is None else 0)
            else:
                mapped: Mapped = await call.run(attributes.mmap, uid, path, offset, size)
                fd = duplicate(mapped.fd)
                try:
                    await self._reply(seq, 0, mapped.start, self._remark_on(mapped), fd=fd)
                finally:
                    os.close(fd)
        finally:
            call.end()
        return True

    async def _open(self, seq: int, flags: int, path: bytearray) -> None:
        """OPEN: the reply carries the new token."""
        server = self._server
        session = self._session
        if len(path) > m.MAX_PATH:
            raise IoctlError(errno.ENAMETOOLONG, f"a path of {len(path)} bytes")
        server.check_room(session)
        name = path.decode("utf-8", "surrogateescape")
        self._call.begin(seq, 0, None, writable=False)
        try:
            file = await self._call.run(server.machine.open, session.caller, name)
        finally:
            self._call.end()
        file.access = flags & os.O_ACCMODE
        try:
            token, theirs = server.tokens.create(file, session.account)
        except OSError as error:
            server.release(file, [session], session.account)
            raise IoctlError(errno.EMFILE, f"the daemon has no fd left: {error.strerror}") from None
        session.prove(token)
        if server.tracer is not None:
            server.tracer.opened(session, path, file)
        try:
            await self._reply(seq, 0, fd=theirs)
        finally:
            os.close(theirs)


def _negative(caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
    """Refuse an offset below zero, as ksys_pread64() and ksys_pwrite64() do."""
    del caller, addr, size
    yield from ()
    raise IoctlError(errno.EINVAL, f"offset {offset - (1 << 64)}")
