# SPDX-License-Identifier: MIT
"""The listener's side of the wire: who may connect, which session a connection joins, and how everything ends."""

import errno
import logging
import os
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import trio

from vfioemu.core.caller import Caller
from vfioemu.core.effects import Steps
from vfioemu.core.errors import IoctlError
from vfioemu.core.file import File, Mapped
from vfioemu.io.base.accounts import Account, Accounts
from vfioemu.io.base.fds import Graveyard, socket_cookie
from vfioemu.io.base.limits import Access, Limits
from vfioemu.io.base.listen import accept
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.base.turns import Rounds, Share
from vfioemu.io.driver import Runner
from vfioemu.io.memory.pages import Pinned
from vfioemu.io.memory.sharing import is_local, is_shmem
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.observe.counters import Counters
from vfioemu.io.shim.channel import Channel
from vfioemu.io.shim.connection import Connection, Gone, PeerError, packet
from vfioemu.io.shim.reception import Reception
from vfioemu.io.shim.session import Service, Session
from vfioemu.io.shim.tokens import Token, TokenTable
from vfioemu.printable import printable
from vfioemu.wire import messages as m

if TYPE_CHECKING:
    from vfioemu.io.observe.tracer import Tracer

log: Final = logging.getLogger(__name__)

_NORMAL: Final = ("ENOTTY", "ENOMSG")
"""How a kernel says that it has no such feature, and a device that it has nothing to add: no program takes it for a fault."""


class Opener(Protocol):
    """What opens device nodes: a Machine."""

    def open(self, caller: Caller, path: str) -> Steps[File]:
        """open(2) of `path`."""


class Attributes(Protocol):
    """What answers for files in /sys."""

    def read(self, uid: int, path: str, offset: int, size: int) -> Steps[bytes]:
        """Read a file."""

    def write(self, uid: int, path: str, offset: int, data: bytes) -> Steps[int | None]:
        """Write to a file; None: that is about the client's machine, not about ours."""

    def mmap(self, uid: int, path: str, offset: int, size: int) -> Steps[Mapped]:
        """Map a file."""


class Server:
    """Serves one machine to any number of clients.

    Args:
        machine: what opens nodes.
        access: who may connect.
        nursery: for connections and for releases that wait; cancelled after `stop`.
        limits: bounds and time-outs.

    Attributes:
        rounds: how the daemon's time goes by.
        hardware: the share in it of what devices do by themselves, all of them together.
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
        self._nursery = nursery
        self._graveyard = Graveyard(nursery)
        self.pinned = Pinned(self.remark)
        self._reception = Reception(access, self.limits, self.daemon_id, self.pinned)
        self.sessions = self._reception.sessions
        self.rounds = Rounds()
        self.hardware = Share(self.rounds)
        self.accounts = Accounts(self.limits, self.rounds, several=len(access.uids) > 1)
        trio.lowlevel.add_instrument(self.rounds)
        self._connections: set[Connection] = set()
        self._talk = Throttle()
        self.tracer: Tracer | None = None  # somebody listens
        self.attributes: Attributes | None = None

    # --- connections ---

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections until cancelled. The listener has SO_PASSCRED, which connections inherit."""
        listener.setblocking(False)
        while True:
            sock, pid, uid = await accept(listener)
            self.tokens.reap()  # what somebody has just closed is there for the next
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
        """Why there is no further connection for a process of that user; empty if there is."""
        if uid not in self.access.uids:
            return "refused"
        if account is not None and account.connections >= self.limits.max_connections:
            return f"refused: has {account.connections} connections"
        if why := self.accounts.no_fd(account):
            return f"refused: {why}"
        if (pending := self._graveyard.pending(uid)) >= self.limits.max_user_burials:
            return f"refused: the user has sent {pending} fds whose close does not return"
        return ""

    async def watch_hangups(self) -> None:
        """Process hang-ups that no request follows, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self.tokens.epoll.fileno())
            self.tokens.reap()

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
                await Channel(self, session, connection).serve()
        except PeerError as error:
            connection.end(str(error))
        except Gone:
            pass
        except Exception as error:
            self.counters.bugs += 1
            log.error("internal error in a connection of pid=%d", account.pid, exc_info=error)
            connection.end("", quiet=True)
        finally:
            if not kept:
                self._leave(connection, account, session)

    def _leave(self, connection: Connection, account: Account, session: Session | None) -> None:
        """A connection is over: close it, and with the last one the session."""
        self._connections.discard(connection)
        if connection.why:
            self.counters.refused_peers += 1
            self._log(connection.pid or account.pid, connection.uid, f"connection ended: {connection.why}")
        while (fd := connection.take_fd()) >= 0:
            self.bury(fd, account)
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
        """Its last connection is gone."""
        if self.sessions.pop(session.id, None) is None:
            return
        for token in list(session.tokens.values()):
            session.unprove(token)
        session.space.session = None
        if self.tracer is not None:
            self._nursery.start_soon(self.tracer.disconnected, session)

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
        if not hello.arg2 and self.tracer is not None:
            self.tracer.connected(session, connection)
        service = bool(hello.flags & m.F_SERVICE)
        if service:
            session.service = serves = Service(connection)
            self.tokens.watch(
                connection.sock.fileno(), lambda: self._service_gone(session, connection), serves.said
            )
        else:
            session.channels.append(connection)
        header = m.encode(m.REPLY, hello.seq, args=(0, m.VERSION, session.id, session.number))
        try:
            if not connection.send_nowait(header, self._reception.greeting(session).encode()):
                connection.end("does not read")  # pragma: no cover - an empty socket has room
        except Gone:
            pass  # who takes care of the connection from here on sees that it is over
        return session, service

    def _service_gone(self, session: Session, connection: Connection) -> None:
        connection.end("", quiet=True)
        self._leave(connection, session.account, session)

    def remark(self, space: ClientSpace, kind: str, text: str, level: int = logging.WARNING) -> None:
        """Something happens that no call shows: it is counted and traced each time, and logged once for each process."""
        self.counters.remarks[kind] = self.counters.remarks.get(kind, 0) + 1
        if self.tracer is not None:
            self.tracer.remark(space.pid, kind, text)
        if kind not in space.remarked:
            space.remarked.add(kind)
            log.log(logging.DEBUG if kind in ("memlock", "lost") else level, "pid=%d: %s", space.pid, text)

    # --- files ---

    def _released(self, token: Token, sessions: list[Session]) -> None:
        """No reference to a token's file is left."""
        if self.tracer is None:
            self.release(token.file, sessions, token.account)
            return
        container = self.tracer.container_of(token.file)
        held = self.tracer.mappings(container)
        self.release(token.file, sessions, token.account)
        self.tracer.closed(token, held - self.tracer.mappings(container))

    def release(self, file: File, sessions: list[Session], account: Account) -> None:
        """Run a file's release() on that account; if it cannot be done at once, calls of `sessions` wait for it."""
        runner = Runner(self.counters, account.share)
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

    def run(self, make: Callable[[], Steps[None]], what: str) -> None:
        """Run something that nobody waits for: at once as far as it can, the rest when it can."""
        runner = Runner(self.counters, self.hardware)
        try:
            effect = runner.start(make)
        except IoctlError as error:
            log.error("%s: %s", what, error)
            return
        if effect is None:
            return

        async def wait() -> None:
            try:
                await runner.finish(effect)
            except IoctlError as error:
                log.error("%s: %s", what, error)

        self._nursery.start_soon(wait)

    def check_room(self, session: Session) -> None:
        """Refuse a file beyond the limits.

        Raises:
            IoctlError: EMFILE.
        """
        limit = self.limits.max_tokens
        if session.account.files >= limit or len(session.tokens) >= limit:
            raise IoctlError(errno.EMFILE, f"the process has {session.account.files} files")
        if why := session.account.no_fd():
            raise IoctlError(errno.EMFILE, why)

    def bury(self, fd: int, account: Account) -> None:
        """Close a foreign fd some time, and one of our own at once: it would keep its file open."""
        if not self._close_own(fd):
            self._graveyard.bury(fd, account)

    async def can_be_mapped(self, fd: int, session: Session) -> bool:
        """Whether a file cannot make us wait. To find out may take as long as its close()."""
        if session.space.bound is not None or is_shmem(fd):
            return True
        return await self._graveyard.ask(is_local, fd, session.account, self.limits.ask_timeout)

    def _close_own(self, fd: int) -> bool:
        cookie = socket_cookie(fd)
        own = cookie is not None and self.tokens.by_cookie(cookie) is not None
        if own:
            os.close(fd)
        return own

    async def bury_for(self, fd: int, session: Session) -> None:
        """Close a foreign fd that came with a call; too many whose close takes its time hold up their sender.

        Shielded, as a handler may be in progress.
        """
        account = session.account
        self.bury(fd, account)
        if account.burials > self.limits.max_burials:
            deadline = trio.current_time() + self.limits.ask_timeout
            with trio.CancelScope(deadline=deadline, shield=True) as scope:
                await account.buried(self.limits.max_burials)
            if scope.cancelled_caught:
                session.end(f"sent {account.burials} fds whose close does not return")

    # --- log ---

    def refused(self, session: Session, what: str, error: str, why: str) -> None:
        """Log a refused call of a client."""
        if session.talk.allows():
            level = logging.DEBUG if error in _NORMAL else logging.INFO
            log.log(level, "%s: %s: %s: %s%s", session, what, error, printable(why), session.talk.left_out())

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
        trio.lowlevel.remove_instrument(self.rounds)
