# SPDX-License-Identifier: MIT
"""A session: the connections of one address space, what it has proved, and what it may hold."""

from typing import TYPE_CHECKING

import trio

from vfioemu.core.caller import Caller
from vfioemu.io.connection import Connection
from vfioemu.io.memory import ClientSpace
from vfioemu.io.mm import BoundMemory
from vfioemu.wire import messages as m

if TYPE_CHECKING:
    import socket

    from vfioemu.io.tokens import Token


class Service(Connection):
    """A connection on which the client answers for its DMA memory, at any time.

    No task waits on it: its hang-up is seen by the token table's epoll.
    """

    __slots__ = ("lock", "seq")

    def __init__(self, sock: "socket.socket", timeout: float) -> None:
        super().__init__(sock, timeout)
        self.lock = trio.Lock()
        self.seq = 0

    def next_seq(self) -> int:
        """A number for the next ask."""
        self.seq = (self.seq + 1) & 0xFFFFFFFF
        return self.seq


class Session:
    """One client address space.

    Attributes:
        id: the secret by which further connections join.
        caller: what handlers get to know of it.
        tokens: those that it proved, by serial.
        releases: releases of files it held that wait for a lock; its calls wait for them.
        burials: foreign fds that it sent and whose close() has not returned.
        refusals: how many refused calls were logged lately; how many were not.
    """

    __slots__ = (
        "_settled",
        "burials",
        "caller",
        "channels",
        "id",
        "logged",
        "logged_at",
        "pid",
        "releases",
        "service",
        "space",
        "suppressed",
        "tokens",
        "uid",
    )

    def __init__(self, id: int, pid: int, uid: int, bound: BoundMemory | None) -> None:
        self.id = id
        self.pid = pid
        self.uid = uid
        self.space = ClientSpace(self, bound)
        self.caller = Caller(space=self.space, pid=pid)
        self.tokens: dict[int, Token] = {}
        self.channels: list[Connection] = []
        self.service: Service | None = None
        self.releases = 0
        self.burials = 0
        self.logged = 0
        self.logged_at = 0.0
        self.suppressed = 0
        self._settled: trio.Event | None = None

    def __str__(self) -> str:
        return f"pid={self.pid} uid={self.uid}"

    def set_limits(self, memlock: int, *, ipc_lock: bool) -> None:
        """RLIMIT_MEMLOCK and CAP_IPC_LOCK as the client says they are."""
        self.space.memlock = None if memlock == m.INFINITE else memlock
        self.caller = Caller(space=self.space, pid=self.pid, ipc_lock=ipc_lock)

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
            self.service.end(why)
