# SPDX-License-Identifier: MIT
"""The listener's side of the wire: who may connect, which session a connection joins, and how everything ends."""

import logging
import secrets
import socket
from collections.abc import Sequence
from typing import Final

import trio

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.accounts import Account
from vfioemu.io.base.fds import Closer
from vfioemu.io.base.listen import accept
from vfioemu.io.base.poller import HANG_UP, NEWS
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.dispatch import Dispatcher
from vfioemu.io.memory.pages import Pinned
from vfioemu.io.shim.access import Access
from vfioemu.io.shim.channel import Channel
from vfioemu.io.shim.clients import Clients
from vfioemu.io.shim.connection import Connection, PeerError, packet
from vfioemu.io.shim.reception import Reception
from vfioemu.io.shim.session import Service, Session
from vfioemu.io.shim.tokens import Holder, Token, TokenTable
from vfioemu.io.transport import Gone
from vfioemu.printable import printable
from vfioemu.wire import messages as m

log: Final = logging.getLogger(__name__)


class Server:
    """Serves one machine to any number of clients.

    Args:
        dispatcher: what answers their calls.
        access: who may connect.
        nursery: for connections; cancelled after `stop`.

    Attributes:
        clients: what all connections share.
        accounts: what each process holds.
    """

    def __init__(self, dispatcher: Dispatcher, access: Access, nursery: trio.Nursery) -> None:
        self.dispatcher = dispatcher
        self.access = access
        self.limits = dispatcher.limits
        self.daemon_id = secrets.token_bytes(16)
        self.tokens = TokenTable(self.daemon_id, dispatcher.poller, self._released)
        self.accounts = dispatcher.accounts
        self._nursery = nursery
        self._closer = Closer(nursery)
        self.clients = Clients(dispatcher, self.tokens, self.accounts, self.limits, self._closer)
        self.sessions = self.clients.sessions
        self.pinned = Pinned(dispatcher.remark)
        self._reception = Reception(access, self.limits, self.daemon_id, self.pinned, self.sessions)
        self._connections: set[Connection] = set()
        self._talk = Throttle()
        dispatcher.progress.append(self.tokens.refresh)

    # --- connections ---

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections until cancelled. The listener has SO_PASSCRED, which connections inherit."""
        listener.setblocking(False)
        while True:
            sock, pid, uid = await accept(listener)
            self.dispatcher.poller.reap()  # what somebody has just closed is there for the next
            account = self.accounts.find(pid, uid)
            if why := self._refusal(uid, account):
                sock.close()
                self._log(pid, uid, why)
                continue
            account = self.accounts.of(pid, uid)
            account.connections += 1
            account.add_fds(1)
            self._nursery.start_soon(self._serve, sock, account)

    def _refusal(self, uid: int, account: Account | None) -> str:
        """Say why there is no further connection for a process of that user; nothing if there is."""
        if uid not in self.access.uids:
            return "refused"
        if account is not None and account.connections >= self.limits.max_connections:
            return f"refused: has {account.connections} connections"
        if why := self.accounts.no_fd(account):
            return f"refused: {why}"
        if (pending := self._closer.pending(uid)) >= self.limits.max_user_closing:
            return f"refused: the user has sent {pending} fds whose close does not return"
        return ""

    async def watch_hangups(self) -> None:
        """Process hang-ups that no request follows, until cancelled."""
        poller = self.dispatcher.poller
        while True:
            await trio.lowlevel.wait_readable(poller.epoll.fileno())
            poller.reap()

    async def _serve(self, sock: socket.socket, account: Account) -> None:
        """Serve one connection to its end."""
        sock.setblocking(False)
        connection = Connection(sock, self.limits.ask_timeout)
        self._connections.add(connection)
        session: Session | None = None
        kept = False
        try:
            with trio.move_on_after(self.limits.hello_timeout) as scope:
                session, kept = await self._welcome(connection, account)
            if scope.cancelled_caught:
                raise PeerError(f"no HELLO within {self.limits.hello_timeout:g} s")
            if session is not None and not kept:
                channel = Channel(self.clients, session, connection)
                try:
                    await self.dispatcher.serve(channel)
                finally:
                    channel.let_go()
        except PeerError as error:
            connection.end(str(error))
        except Gone:
            pass
        except Exception as error:
            self.dispatcher.counters.bugs += 1
            log.error("internal error in a connection of pid=%d", account.pid, exc_info=error)
            connection.end("", quiet=True)
        finally:
            if not kept:
                self._leave(connection, account, session)

    def _leave(self, connection: Connection, account: Account, session: Session | None) -> None:
        """Close a connection that is over, and with the last one the session."""
        self._connections.discard(connection)
        if connection.why:
            self.dispatcher.counters.refused_peers += 1
            self._log(connection.pid or account.pid, connection.uid, f"connection ended: {connection.why}")
        while (fd := connection.take_fd()) >= 0:
            self.clients.close_later(fd, account)
        connection.close()
        account.connections -= 1
        account.add_fds(-1)
        if session is None:
            return
        if session.service is not None and session.service.connection is connection:
            session.service = None
        elif connection in session.channels:
            session.channels.remove(connection)
        if connection.late:
            session.end("")
        if not session.channels and session.service is None:
            self._end_session(session)

    def _end_session(self, session: Session) -> None:
        """Let go of a session whose last connection is gone."""
        if self.sessions.pop(session.id, None) is None:
            return
        for token in list(session.tokens.values()):
            session.unprove(token)
        session.space.owner = None
        self.dispatcher.left(session)

    async def _welcome(self, connection: Connection, account: Account) -> tuple[Session | None, bool]:
        """Take HELLO and answer it: the session, and whether the connection needs no task (a service)."""
        while True:
            await trio.lowlevel.wait_readable(connection.sock)
            size = connection.receive_nowait()
            if size == 0:
                return None, False
            if size > 0:
                break
        if size != m.HEADER_SIZE:
            raise PeerError(f"a greeting of {size} bytes, expected {m.HEADER_SIZE}")
        connection.refuse_fd()
        hello = m.decode(packet)
        if hello.type != m.HELLO or hello.arg0 != m.MAGIC:
            raise PeerError(f"message type {hello.type}, magic {hello.arg0:#x} where HELLO is due")
        try:
            session = self._reception.join(connection, account, hello)
        except IoctlError as error:
            connection.send_nowait(m.encode(m.REPLY, hello.seq, args=(-error.errno, m.VERSION, 0, 0)))
            raise PeerError(error.why) from None
        service = bool(hello.flags & m.F_SERVICE)
        if service:
            session.service = Service(connection)
            self._watch_service(session, session.service)
        else:
            session.channels.append(connection)
        if not hello.arg2:
            self.dispatcher.joined(session)
        header = m.encode(m.REPLY, hello.seq, args=(0, m.VERSION, session.id, session.number))
        try:
            if not connection.send_nowait(header, self._reception.greeting(session).encode()):
                connection.end("does not read")  # pragma: no cover - an empty socket has room
        except Gone:
            pass  # who takes care of the connection from here on sees that it is over
        return session, service

    def _watch_service(self, session: Session, service: Service) -> None:
        """Hear when the client hangs up its service connection, on which no task waits, or says what nobody has asked."""
        connection = service.connection
        poller = self.dispatcher.poller

        def event(fd: int, what: int) -> None:
            if what & HANG_UP:
                poller.unwatch(fd)
                connection.end("", quiet=True)
                self._leave(connection, session.account, session)
            else:
                service.note_message()

        poller.watch(connection.sock.fileno(), NEWS, event)

    # --- files ---

    def _released(self, token: Token, sessions: Sequence[Holder]) -> None:
        """Release a token's file, to which no reference is left."""
        account = token.account
        self.dispatcher.release(
            token.file, account.share, sessions, pid=account.pid, files_left=account.files
        )

    # --- log ---

    def _log(self, pid: int, uid: int, what: str) -> None:
        """Log what became of a connection."""
        if self._talk.allows():
            log.warning("pid=%d uid=%d: %s%s", pid, uid, printable(what), self._talk.left_out())

    # --- end ---

    def stop(self) -> None:
        """Hang up on everybody: calls in progress end with EFAULT at their next access to the client."""
        for connection in self._connections:
            connection.end("", quiet=True)

    def close(self) -> None:
        """Close what is left, after all tasks have ended."""
        for connection in self._connections:
            connection.close()
        self.tokens.close()
