# SPDX-License-Identifier: MIT
"""The listener's side of the wire: who may connect, which session a connection joins, and how everything ends."""

import errno
import logging
import secrets
import socket
from collections import Counter
from typing import Final, Protocol

import trio

from vfioemu.core.caller import Caller
from vfioemu.core.effects import Steps
from vfioemu.core.errors import IoctlError
from vfioemu.core.file import File
from vfioemu.io.channel import Channel
from vfioemu.io.connection import Connection, Gone, PeerError, packet
from vfioemu.io.counters import Counters
from vfioemu.io.effects import Runner
from vfioemu.io.fds import Graveyard
from vfioemu.io.limits import Access, Limits
from vfioemu.io.mm import BoundMemory
from vfioemu.io.session import Service, Session
from vfioemu.io.tokens import Token, TokenTable
from vfioemu.wire import messages as m

log: Final = logging.getLogger(__name__)

_LOG_BURST: Final = 20
_LOG_PERIOD: Final = 1.0
_ACCEPT_PAUSE: Final = 0.1


class Opener(Protocol):
    """What opens device nodes: a Machine."""

    def open(self, caller: Caller, path: str) -> Steps[File]:
        """open(2) of `path`."""


class Server:
    """Serves one machine to any number of clients.

    Args:
        machine: what opens nodes.
        access: who may connect.
        nursery: for connections and for releases that wait; cancelled after `stop`.
        limits: bounds and time-outs.
    """

    def __init__(
        self, machine: Opener, access: Access, nursery: trio.Nursery, limits: Limits | None = None
    ) -> None:
        self.machine = machine
        self.access = access
        self.limits = limits or Limits()
        self.daemon_id = secrets.token_bytes(16)
        self.tokens = TokenTable(self.daemon_id, self._released)
        self.counters = Counters()
        self.sessions: dict[int, Session] = {}
        self._nursery = nursery
        self._graveyard = Graveyard(nursery)
        self._per_process: Counter[int] = Counter()
        self._unwelcomed: set[Connection] = set()

    # --- connections ---

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # inherited: no HELLO can be too early
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # ECONNABORTED, or EMFILE and its kin: let those who have fds finish.
                log.warning("accept: %s", error.strerror)
                await trio.sleep(_ACCEPT_PAUSE)
                continue
            self._nursery.start_soon(self._serve, sock)

    async def watch_hangups(self) -> None:
        """Process hang-ups that no request follows, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self.tokens.epoll.fileno())
            self.tokens.reap()

    async def _serve(self, sock: socket.socket) -> None:
        """Serve one connection to its end."""
        sock.setblocking(False)
        connection = Service(sock, self.limits.ask_timeout)
        kept = False
        self._unwelcomed.add(connection)
        session: Session | None = None
        try:
            with trio.move_on_after(self.limits.hello_timeout) as scope:
                session, kept = await self._welcome(connection)
            self._unwelcomed.discard(connection)
            if scope.cancelled_caught and session is None:
                raise PeerError(f"no HELLO within {self.limits.hello_timeout:g} s")
            if session is not None and not kept:
                await Channel(self, session, connection).serve()
        except PeerError as error:
            connection.end(str(error))
        except Gone:
            pass
        finally:
            self._unwelcomed.discard(connection)
            if connection.why:
                self.counters.refused_peers += 1
                log.warning(
                    "pid=%d uid=%d: connection ended: %s", connection.pid, connection.uid, connection.why
                )
            if not kept:
                self._leave(connection, session)

    def _leave(self, connection: Connection, session: Session | None) -> None:
        """A connection is over: close it, and with the last one the session."""
        while (fd := connection.take_fd()) >= 0:
            self.bury(fd)
        connection.close()
        if session is None:
            return
        self._count_process(session.pid, -1)
        if session.service is connection:
            session.service = None
        elif connection in session.channels:
            session.channels.remove(connection)
        if connection.why:
            session.end("")
        if not session.channels:
            self._end_session(session)

    def _end_session(self, session: Session) -> None:
        if self.sessions.pop(session.id, None) is None:
            return
        for token in list(session.tokens.values()):
            session.unprove(token)
        session.space.session = None
        if session.service is not None:
            self.tokens.unwatch(session.service.sock.fileno())
            self._leave(session.service, session)

    def _count_process(self, pid: int, change: int) -> None:
        self._per_process[pid] += change
        if not self._per_process[pid]:
            del self._per_process[pid]

    async def _welcome(self, connection: Service) -> tuple[Session | None, bool]:
        """Take HELLO and answer it: the session, and whether the connection needs no task (a service)."""
        size = 0
        while True:
            await trio.lowlevel.wait_readable(connection.sock)
            size = connection.receive_nowait()
            if size == 0:
                return None, False
            if size > 0:
                break
        if size != m.HEADER_SIZE:
            raise PeerError(f"a greeting of {size} bytes, expected {m.HEADER_SIZE}")
        hello = m.decode(packet)
        if hello.type != m.HELLO or hello.arg0 != m.MAGIC:
            raise PeerError(f"message type {hello.type}, magic {hello.arg0:#x} where HELLO is due")
        if connection.uid not in self.access.uids:
            await self._refuse(connection, hello.seq, errno.EPERM)
            raise PeerError(f"uid {connection.uid} is not allowed here")
        lowest, highest = hello.arg1 & 0xFFFFFFFF, hello.arg1 >> 32
        if not lowest <= m.VERSION <= highest:
            await self._refuse(connection, hello.seq, errno.EPROTONOSUPPORT)
            raise PeerError(f"speaks versions {lowest} to {highest}, we speak {m.VERSION}")
        try:
            session = self._join(connection, hello)
        except IoctlError as error:
            await self._refuse(connection, hello.seq, error.errno)
            raise PeerError(error.why) from None
        service = bool(hello.flags & m.F_SERVICE)
        self._count_process(session.pid, 1)
        if service:
            session.service = connection
            self.tokens.watch(connection.sock.fileno(), lambda: self._service_gone(session, connection))
        else:
            session.channels.append(connection)
        header = m.encode(m.REPLY, hello.seq, args=(0, m.VERSION, session.id, 0))
        if not connection.send_nowait(header, self._greeting().encode()):
            raise PeerError("does not read")  # pragma: no cover - an empty socket has room
        return session, service

    async def _refuse(self, connection: Connection, seq: int, error: int) -> None:
        connection.send_nowait(m.encode(m.REPLY, seq, args=(-error, m.VERSION, 0, 0)))

    def _join(self, connection: Connection, hello: m.Message) -> Session:
        """The session that HELLO names, or a new one.

        Raises:
            IoctlError: EPERM, EMFILE as in protocol/wire.md section 3.
        """
        if self._per_process[connection.pid] >= self.limits.max_connections:
            raise IoctlError(errno.EMFILE, f"the process has {self.limits.max_connections} connections")
        if hello.arg2:
            session = self.sessions.get(hello.arg2)
            if session is None or (session.pid, session.uid) != (connection.pid, connection.uid):
                raise IoctlError(errno.EPERM, "not a session of this process")
            if hello.flags & m.F_SERVICE:
                if session.service is not None:
                    raise IoctlError(errno.EMFILE, "the session has a service connection")
            elif len(session.channels) >= self.limits.max_channels:
                raise IoctlError(errno.EMFILE, f"the session has {self.limits.max_channels} connections")
            return session
        if hello.flags & m.F_SERVICE:
            raise IoctlError(errno.EPERM, "a service connection needs a session")
        bound = None
        if self.access.memory is m.MemoryMode.PROCESS_VM:
            try:
                bound = BoundMemory(connection.pid)
            except OSError as error:
                raise IoctlError(errno.EPERM, f"its memory cannot be reached: {error.strerror}") from None
        session = Session(secrets.randbits(63) + 1, connection.pid, connection.uid, bound)
        session.set_limits(hello.arg3, ipc_lock=bool(hello.flags & m.F_IPC_LOCK))
        self.sessions[session.id] = session
        return session

    def _service_gone(self, session: Session, connection: Service) -> None:
        connection.end("", quiet=True)
        self._leave(connection, session)

    def _greeting(self) -> m.Greeting:
        limits = self.limits
        return m.Greeting(
            version=m.VERSION,
            memory_mode=self.access.memory,
            daemon_id=self.daemon_id,
            max_data=m.MAX_DATA,
            max_channels=limits.max_channels,
            max_tokens=limits.max_tokens,
            max_windows=limits.max_windows,
            max_shared=limits.max_shared,
            ask_timeout_ms=int(limits.ask_timeout * 1000),
        )

    # --- files ---

    def _released(self, token: Token, sessions: list[Session]) -> None:
        """No reference to a token's file is left."""
        self.release(token.file, sessions)

    def release(self, file: File, sessions: list[Session]) -> None:
        """Run a file's release(); if it has to wait for a lock, calls of `sessions` wait for it."""
        runner = Runner(self.counters)
        try:
            effect = runner.start(file.release)
        except IoctlError as error:
            log.error("release of a %s: %s", file.kind, error)
            return
        if effect is None:
            return
        for session in sessions:
            session.release_begins()

        async def wait() -> None:
            try:
                await runner.finish(effect)
            except IoctlError as error:
                log.error("release of a %s: %s", file.kind, error)
            finally:
                for session in sessions:
                    session.release_ends()

        self._nursery.start_soon(wait)

    def bury(self, fd: int, session: Session | None = None) -> None:
        """Close a foreign fd some time; a session that sends more of them than can be closed ends."""
        self._graveyard.bury(fd, session)
        if session is not None and session.burials > self.limits.max_burials:
            session.end(f"{session.burials} fds whose close does not return")

    # --- log ---

    def refused(self, session: Session, what: str, error: str, why: str) -> None:
        """Log a refused call: a burst of lines, then one a second with the number of those left out."""
        now = trio.current_time()
        if now - session.logged_at >= _LOG_PERIOD:
            session.logged_at = now
            session.logged = max(0, session.logged - 1)
        if session.logged >= _LOG_BURST:
            session.suppressed += 1
            return
        session.logged += 1
        left_out = f" ({session.suppressed} more left out)" if session.suppressed else ""
        session.suppressed = 0
        log.info("%s: %s: %s: %s%s", session, what, error, why, left_out)

    # --- end ---

    def stop(self) -> None:
        """Hang up on everybody: calls in progress end with EFAULT at their next access to the client."""
        for connection in self._unwelcomed:
            connection.end("", quiet=True)
        for session in list(self.sessions.values()):
            session.end("")

    def close(self) -> None:
        """Close what is left, after all tasks have ended."""
        for session in list(self.sessions.values()):
            for channel in session.channels:
                channel.close()
            if session.service is not None:
                session.service.close()
        self.tokens.close()
