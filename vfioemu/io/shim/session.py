# SPDX-License-Identifier: MIT
"""A session: the connections of one address space, what it has proved, and what it may hold."""

import errno
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Buffer
from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.accounts import Account
from vfioemu.io.base.process import name_of
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.memory.mm import BoundMemory
from vfioemu.io.memory.pages import Pinned
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.shim.connection import Connection
from vfioemu.io.shim.tokens import Token
from vfioemu.io.transport import Gone
from vfioemu.wire import messages as m

T = TypeVar("T")


class Service:
    """The connection on which a client answers for its DMA memory, at any time.

    No task waits on it: its hang-up is seen by the token table's epoll.
    """

    __slots__ = ("connection", "lock", "seq")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lock = (
            trio.Lock()
        )  # from a question to the end of its answer, which has no more than the question's number
        self.seq = 0

    def next_seq(self) -> int:
        """Return a number for the next question."""
        self.seq = (self.seq + 1) & 0xFFFFFFFF
        return self.seq

    def note_message(self) -> None:
        """Note a message from the client. While a question of ours is pending it is the answer, and whoever asked reads on."""
        if not self.lock.locked():
            self.connection.expect_silence()


class Session:
    """One client address space.

    Attributes:
        id: the secret by which further connections join.
        number: what it is called where no secrets belong.
        account: of its process.
        caller: what handlers get to know of it.
        tokens: those that it proved, by serial.
        releases: releases of files it held that wait for a lock; its calls wait for them.
        talk: bounds what is logged about its refused calls.
        told: of which devices it was told that a mapping hides registers.
    """

    __slots__ = (
        "_settled",
        "account",
        "caller",
        "channels",
        "id",
        "number",
        "pid",
        "releases",
        "service",
        "space",
        "talk",
        "tokens",
        "told",
        "uid",
    )

    def __init__(
        self, number: int, account: Account, uid: int, bound: BoundMemory | None, pinned: Pinned | None = None
    ) -> None:
        self.id = secrets.randbits(63) + 1
        self.number = number
        self.account = account
        self.pid = pid = account.pid
        self.uid = uid
        self.space = ClientSpace(self, bound, pinned)
        self.space.quotas = account.quotas
        self.caller = Caller(space=self.space, pid=pid)
        self.tokens: dict[int, Token] = {}
        self.channels: list[Connection] = []
        self.service: Service | None = None
        self.releases = 0
        self.talk = Throttle()
        self.told: set[str] = set()
        self._settled: trio.Event | None = None

    def __str__(self) -> str:
        return f"pid={self.pid} uid={self.uid}"

    def tell_once(self, device: str) -> bool:
        """Tell whether this is the first time that a mapping of that device hides registers; the next time it is not."""
        if device in self.told:
            return False
        self.told.add(device)
        return True

    def set_limits(self, memlock: int, *, ipc_lock: bool) -> None:
        """Take RLIMIT_MEMLOCK (bytes) and CAP_IPC_LOCK as the client says they are."""
        self.space.memlock = None if memlock == m.INFINITE else memlock
        self.caller = Caller(space=self.space, pid=self.pid, ipc_lock=ipc_lock)

    def comm(self) -> str:
        """Return what its process is called.

        Raises:
            OSError: nobody can tell.
        """
        for channel in self.channels:
            return name_of(channel.sock, self.pid)
        raise OSError(errno.ESRCH, "it has no connection")

    def files_open(self) -> int:
        """Count the files of its process, over all sessions."""
        return self.account.files

    # --- memory that has to be asked for: memory/space.py's Asker ---

    def hung_up(self) -> bool:
        """Tell whether each of its connections has been closed at the other end, be it in this moment."""
        ways = self.channels if self.service is None else [self.service.connection, *self.channels]
        return not any(_open(way.sock) for way in ways)

    async def pin(self, vaddr: int, npages: int, *, write: bool, during: object) -> int:
        """Ask how many leading pages are present (and writable); 0 if nobody answers."""
        try:
            return await self._ask(during, lambda way, seq: way.ask_pin(seq, vaddr, npages, write=write))
        except IoctlError:
            return 0

    async def read(self, vaddr: int, size: int, *, pinned: bool, during: object) -> bytes:
        """Ask for memory; EFAULT."""
        data = await self._ask(during, lambda way, seq: way.ask_read(seq, vaddr, size, pinned=pinned))
        if data is None:
            raise IoctlError(errno.EFAULT, f"{vaddr:#x} cannot be read")
        return data

    async def write(self, vaddr: int, data: Buffer, *, pinned: bool, during: object) -> None:
        """Have memory written; EFAULT."""
        if not await self._ask(during, lambda way, seq: way.ask_write(seq, vaddr, data, pinned=pinned)):
            raise IoctlError(errno.EFAULT, f"{vaddr:#x} cannot be written")

    async def _ask(self, during: object, ask: Callable[[Connection, int], Awaitable[T]]) -> T:
        """Ask on the connection of a call of our own that is in progress, else on the service connection."""
        try:
            if isinstance(during, InCall) and during.session is self:
                return await ask(
                    during.connection, during.seq
                )  # its client waits for us anyway, and listens there
            service = self.service
            if service is None or not service.connection.alive:
                raise IoctlError(errno.EFAULT, "the client shares no such memory and serves none")
            # One question at a time, and no other task may read the answer. Shielded: the lock is let go of only when the
            # client has answered or run out of time, since a late answer would be taken for that to the next question.
            with trio.CancelScope(shield=True):
                async with service.lock:
                    try:
                        answer = await ask(service.connection, service.next_seq())
                    finally:
                        service.connection.expect_silence()
            return answer
        except Gone:
            raise IoctlError(errno.EFAULT, "the owner of the memory is gone") from None

    # --- tokens ---

    def prove(self, token: Token) -> None:
        """Note that the session holds that token."""
        if token.serial not in self.tokens:
            self.tokens[token.serial] = token
            token.sessions.append(self)

    def unprove(self, token: Token) -> None:
        """Note that the session does not want to name it any more."""
        if self.tokens.pop(token.serial, None) is not None:
            token.sessions.remove(self)

    # --- releases that wait ---

    def release_begins(self) -> None:
        """Hold back calls: the release of a file that the client has closed has to wait for a lock."""
        self.releases += 1

    def release_ends(self) -> None:
        """Note that a release has ended."""
        self.releases -= 1
        if not self.releases and self._settled is not None:
            self._settled.set()
            self._settled = None

    async def settled(self) -> None:
        """Wait for pending releases."""
        while self.releases:
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()

    def end(self, why: str) -> None:
        """End all connections."""
        for channel in self.channels:
            channel.end(why)
        if self.service is not None:
            self.service.connection.end(why)


def _open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


class InCall:
    """A call in progress: until it is answered, its client waits on that connection and answers what it is asked there.

    Attributes:
        session: whose.
        connection: where.
        seq: of the call.
    """

    __slots__ = ("connection", "seq", "session")

    def __init__(self, session: Session, connection: Connection) -> None:
        self.session = session
        self.connection = connection
        self.seq = 0
