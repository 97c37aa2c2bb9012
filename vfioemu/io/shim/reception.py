# SPDX-License-Identifier: MIT
"""Who has greeted: which session his connection joins, how his memory is reached, and what he is told (protocol/wire.md section 3)."""

import errno
import logging
import weakref
from typing import Final

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.accounts import Account
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.process import peer_of
from vfioemu.io.memory.mm import BoundMemory
from vfioemu.io.memory.pages import Pinned
from vfioemu.io.shim.access import Access
from vfioemu.io.shim.connection import Connection
from vfioemu.io.shim.session import Session
from vfioemu.syscalls import procmem
from vfioemu.wire import messages as m

log: Final = logging.getLogger(__name__)


class Reception:
    """Makes sessions.

    Args:
        access: who may connect, and how memory is reached.
        limits: bounds and time-outs.
        daemon_id: what tells this daemon from others.
        pinned: what hardware holds, of all clients.
        sessions: by their id; new ones are added.
    """

    def __init__(
        self,
        access: Access,
        limits: Limits,
        daemon_id: bytes,
        pinned: Pinned,
        sessions: dict[int, Session],
    ) -> None:
        self._sessions = sessions
        self._access = access
        self._limits = limits
        self._daemon_id = daemon_id
        self._pinned = pinned
        self._serial = 0
        self._fell_back = False

    def join(self, connection: Connection, account: Account, hello: m.Message) -> Session:
        """Find the session that HELLO names, or make a new one.

        Raises:
            IoctlError: EPERM, EMFILE, EPROTONOSUPPORT as in protocol/wire.md section 3.
        """
        if connection.uid not in self._access.uids:
            raise IoctlError(errno.EPERM, f"uid {connection.uid} is not allowed here")
        if connection.pid != account.pid:
            raise IoctlError(
                errno.EPERM, f"HELLO comes from pid {connection.pid}, pid {account.pid} connected"
            )
        lowest, highest = hello.arg1 & 0xFFFFFFFF, hello.arg1 >> 32
        if not lowest <= m.VERSION <= highest:
            raise IoctlError(
                errno.EPROTONOSUPPORT, f"speaks versions {lowest} to {highest}, we speak {m.VERSION}"
            )
        if hello.arg2:
            session = self._sessions.get(hello.arg2)
            if session is None or (session.pid, session.uid) != (connection.pid, connection.uid):
                raise IoctlError(errno.EPERM, "not a session of this process")
            if hello.flags & m.F_SERVICE:
                if session.service is not None:
                    raise IoctlError(errno.EMFILE, "the session has a service connection")
            elif len(session.channels) >= self._limits.max_channels:
                raise IoctlError(errno.EMFILE, f"the session has {self._limits.max_channels} connections")
            return session
        if hello.flags & m.F_SERVICE:
            raise IoctlError(errno.EPERM, "a service connection needs a session")
        bound = self._bind(connection) if self._access.memory is m.MemoryMode.PROCESS_VM else None
        if bound is not None:
            account.add_fds(bound.FDS)
            weakref.finalize(bound, account.add_fds, -bound.FDS)
        self._serial += 1
        session = Session(self._serial, account, connection.uid, bound, self._pinned)
        session.set_limits(hello.arg3, ipc_lock=bool(hello.flags & m.F_IPC_LOCK))
        self._sessions[session.id] = session
        return session

    def _bind(self, connection: Connection) -> BoundMemory | None:
        """Open the memory of a process in process_vm mode; None if it has to be asked after all.

        The system may refuse: another uid, a process that is not dumpable, Yama, a seccomp filter. And /proc may be
        of another PID namespace, in which it has another number or none.

        Raises:
            IoctlError: EPERM, and to ask is not what the daemon was told.
        """
        try:
            procmem.probe(connection.pid)
            with peer_of(connection.sock, connection.pid) as peer:
                number = peer.number()
                bound = BoundMemory(number)
                if peer.number() == number:  # it has lived all the while, so the number was its own
                    return bound
            why = "it has ended"
        except OSError as error:
            why = f"its memory cannot be reached: {error.strerror}"
        if not self._access.fallback:
            raise IoctlError(errno.EPERM, why)
        if not self._fell_back:
            self._fell_back = True
            log.warning("pid=%d uid=%d: %s; it is asked instead", connection.pid, connection.uid, why)
        return None

    def greeting(self, session: Session) -> m.Greeting:
        """Return what the daemon tells of itself in the answer to HELLO."""
        limits = self._limits
        return m.Greeting(
            version=m.VERSION,
            memory_mode=m.MemoryMode.ASK if session.space.bound is None else m.MemoryMode.PROCESS_VM,
            daemon_id=self._daemon_id,
            max_data=m.MAX_DATA,
            max_channels=limits.max_channels,
            max_tokens=limits.max_tokens,
            max_windows=limits.max_windows,
            max_shared=limits.max_shared,
            ask_timeout_ms=int(limits.ask_timeout * 1000),
            accounts=self._access.accounts,
        )
