# SPDX-License-Identifier: MIT
"""A session: the connections of one address space, what it has proved, and what it may hold."""

import secrets
import socket
from typing import TYPE_CHECKING

import trio

from vfioemu.core.caller import Caller
from vfioemu.io.base.accounts import Account
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.memory.mm import BoundMemory
from vfioemu.io.memory.pages import Pinned
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.shim.connection import Connection
from vfioemu.wire import messages as m

if TYPE_CHECKING:
    from vfioemu.io.shim.tokens import Token


class Service:
    """The connection on which a client answers for its DMA memory, at any time.

    No task waits on it: its hang-up is seen by the token table's epoll.
    """

    __slots__ = ("connection", "lock", "seq")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lock = trio.Lock()
        self.seq = 0

    def next_seq(self) -> int:
        """A number for the next ask."""
        self.seq = (self.seq + 1) & 0xFFFFFFFF
        return self.seq

    def said(self) -> None:
        """The client has sent something; during an ask that is the answer, and who asked looks for more behind it."""
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
        """Whether it has not been told yet that a mapping of that device hides registers; now it is."""
        if device in self.told:
            return False
        self.told.add(device)
        return True

    def set_limits(self, memlock: int, *, ipc_lock: bool) -> None:
        """RLIMIT_MEMLOCK and CAP_IPC_LOCK as the client says they are."""
        self.space.memlock = None if memlock == m.INFINITE else memlock
        self.caller = Caller(space=self.space, pid=self.pid, ipc_lock=ipc_lock)

    def hung_up(self) -> bool:
        """Whether each of its connections has been closed at the other end, be it in this moment."""
        ways = self.channels if self.service is None else [self.service.connection, *self.channels]
        return not any(_open(way.sock) for way in ways)

    def prove(self, token: "Token") -> None:
        """The session holds that token."""
        if token.serial not in self.tokens:
            self.tokens[token.serial] = token
            token.sessions.append(self)

    def unprove(self, token: "Token") -> None:
        """The session does not want to name it any more."""
        if self.tokens.pop(token.serial, None) is not None:
            token.sessions.remove(self)

    # --- releases that wait ---

    def release_begins(self) -> None:
        """A release of something that we held has to wait for a lock."""
        self.releases += 1

    def release_ends(self) -> None:
        """It is done."""
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
