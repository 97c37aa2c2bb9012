# SPDX-License-Identifier: MIT
"""What all connections of this transport share: sessions, tokens, limits, and how fds of clients are treated."""

import errno
import os
from typing import Protocol

import trio

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.io.base.accounts import Account, Accounts
from vfioemu.io.base.fds import Closer, socket_cookie
from vfioemu.io.base.limits import Limits
from vfioemu.io.dispatch import Dispatcher
from vfioemu.io.memory.sharing import is_local, is_shmem
from vfioemu.io.shim.session import Session
from vfioemu.io.shim.tokens import TokenTable


class Attributes(Protocol):
    """What answers for files in /sys."""

    def read(self, uid: int, path: str, offset: int, size: int) -> Steps[bytes]:
        """Read a file."""

    def write(self, uid: int, path: str, offset: int, data: bytes) -> Steps[int | None]:
        """Write to a file; None: that is about the client's machine, not about ours."""

    def mmap(self, uid: int, path: str, offset: int, size: int) -> Steps[Mapped]:
        """Map a file."""


class Clients:
    """All clients of this transport.

    Args:
        dispatcher: what answers their calls.
        tokens: their fds.
        accounts: what each of them holds.
        limits: bounds and time-outs.
        closer: closes fds that they have sent.

    Attributes:
        sessions: by their id.
        attributes: what answers for files in /sys; None: nothing does.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        tokens: TokenTable,
        accounts: Accounts,
        limits: Limits,
        closer: Closer,
    ) -> None:
        self.dispatcher = dispatcher
        self.tokens = tokens
        self.accounts = accounts
        self.limits = limits
        self.sessions: dict[int, Session] = {}
        self.attributes: Attributes | None = None
        self._closer = closer

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

    def close_later(self, fd: int, account: Account) -> None:
        """Close a foreign fd some time, and one of our own at once: it would keep its file open."""
        if not self._close_own(fd):
            self._closer.close_later(fd, account)

    def _close_own(self, fd: int) -> bool:
        cookie = socket_cookie(fd)
        own = cookie is not None and self.tokens.by_cookie(cookie) is not None
        if own:
            os.close(fd)
        return own

    async def close_for(self, fd: int, session: Session) -> None:
        """Close a foreign fd that came with a call; too many whose close takes its time hold up their sender.

        Shielded, as a handler may be in progress.
        """
        account = session.account
        self.close_later(fd, account)
        if account.closing > self.limits.max_closing:
            deadline = trio.current_time() + self.limits.ask_timeout
            with trio.CancelScope(deadline=deadline, shield=True) as scope:
                await account.closed_down_to(self.limits.max_closing)
            if scope.cancelled_caught:
                session.end(f"sent {account.closing} fds whose close does not return")

    async def can_be_mapped(self, fd: int, session: Session) -> bool:
        """Tell whether a file cannot make us wait. To find out may take as long as its close()."""
        if session.space.bound is not None or is_shmem(fd):
            return True
        return await self._closer.ask(is_local, fd, session.account, self.limits.ask_timeout)
