# SPDX-License-Identifier: MIT
"""What a client says of its memory: shared, taken back, about to go, gone, come back (protocol/wire.md section 7)."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from typing import Any, Final

import trio

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.io.driver import Driver
from vfioemu.io.memory import keeping
from vfioemu.io.memory.mm import TOP
from vfioemu.io.memory.pages import FileId
from vfioemu.io.shim.caller import ShimCaller
from vfioemu.io.shim.clients import Clients
from vfioemu.io.shim.connection import PeerError
from vfioemu.io.shim.session import Session
from vfioemu.wire import messages as m

CALLS: Final = frozenset({m.MEM_SHARE, m.MEM_UNSHARE, m.MEM_LEAVES, m.MEM_RETURNS, m.MEM_HOLE, m.MEM_REGION})
_WITH_FD: Final = frozenset({m.MEM_SHARE, m.MEM_HOLE})
DISCARDED: Final = "discarded"
UNMAPPED: Final = "unmapped"
NOT_KEPT: Final = "not kept"

Args = tuple[int, int, int, int]


class MemoryCalls:
    """Serves them for one connection.

    Args:
        clients: all of them.
        session: of this one.
        driver: what performs effects for the connection.
        caller: its access.
    """

    __slots__ = ("_caller", "_clients", "_driver", "_session")

    def __init__(self, clients: Clients, session: Session, driver: Driver, caller: ShimCaller) -> None:
        self._clients = clients
        self._session = session
        self._driver = driver
        self._caller = caller

    async def serve(self, type: int, seq: int, args: Args, fd: int) -> int:
        """Answer one; IoctlError, OSError, PeerError for an fd where none belongs."""
        session = self._session
        if fd >= 0 and type not in _WITH_FD:
            await self._clients.close_for(fd, session)
            raise PeerError("an fd where none belongs")
        if type == m.MEM_SHARE:
            await self._share(args, fd)
            return 0
        if type == m.MEM_UNSHARE:
            session.space.unshare(args[0], args[1])
            return 0
        if type == m.MEM_REGION:
            limits = self._clients.limits
            session.space.share_region(args[0], args[1], args[3], args[2], limits, session.account)
            return 0
        if type == m.MEM_HOLE:
            return await self._hole(seq, args, fd)
        vaddr, size = _range(args)
        if type == m.MEM_RETURNS:
            if args[2] + size > TOP:
                raise IoctlError(errno.EINVAL, f"{size:#x} bytes return to {args[2]:#x}")
            return await self._run(seq, lambda: keeping.returns(session.space, vaddr, size, args[2]))
        return await self._leaves(seq, vaddr, size, args[2])

    async def _run(self, seq: int, make: Callable[[], Steps[int]]) -> int:
        self._caller.begin(seq, 0, None, writable=False)
        try:
            result: Any = await self._driver.run(make)
        finally:
            self._caller.end()
        return int(result)

    async def _share(self, args: Args, fd: int) -> None:
        if fd < 0:
            raise IoctlError(errno.EBADF, "MEM_SHARE without an fd")
        session = self._session
        try:
            await session.account.settled()  # what it has given back is there again
            if not await self._clients.can_be_mapped(fd, session):
                raise IoctlError(errno.EPERM, "a file system that might make us wait")
            session.space.share(args[0], args[1], fd, args[2], self._clients.limits, session.account)
        except (IoctlError, OSError):
            await self._clients.close_for(fd, session)
            raise
        except trio.Cancelled:
            self._clients.close_later(fd, session.account)
            raise
        os.close(fd)  # a memfd

    async def _leaves(self, seq: int, vaddr: int, size: int, how: int) -> int:
        session, clients = self._session, self._clients
        where = f"{size:#x} bytes at {vaddr:#x}"
        try:
            kept = await self._run(
                seq, lambda: keeping.leaves(session.space, vaddr, size, session.account, clients.limits)
            )
        except IoctlError as error:
            clients.dispatcher.remark(
                session.space, NOT_KEPT, f"{where} go, and {error.why}: devices lose what they had there"
            )
            raise
        if kept and how == m.Leaving.DISCARDED:
            clients.dispatcher.remark(
                session.space,
                DISCARDED,
                f"{where} discarded while mapped for DMA: devices keep the old pages, the program gets new ones",
            )
        elif kept and how == m.Leaving.UNMAPPED:
            clients.dispatcher.remark(
                session.space,
                UNMAPPED,
                f"{where} unmapped while mapped for DMA: devices go on with the pages that were there",
                logging.DEBUG,
            )
        return kept

    async def _hole(self, seq: int, args: Args, fd: int) -> int:
        """Answer MEM_HOLE: arg = offset, size, vaddr (without an fd: of a window of the client's), 1 if it was not made after all."""
        session, clients = self._session, self._clients
        try:
            offset, size = _range(args)
            file = self._window_file(args[2]) if fd < 0 else await self._file_of(fd)
            if file is None:
                return 0
            if args[3]:
                return await self._run(seq, lambda: keeping.filled(session.space, file, offset, size))
            kept = await self._run(
                seq,
                lambda: keeping.hole(session.space, file, offset, size, session.account, clients.limits),
            )
        except IoctlError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                clients.dispatcher.remark(
                    session.space, NOT_KEPT, f"a hole at {args[0]:#x} of a file, and {error.why}"
                )
            raise
        finally:
            if fd >= 0:
                await clients.close_for(fd, session)
        if kept:
            clients.dispatcher.remark(
                session.space,
                DISCARDED,
                f"{kept:#x} bytes from {offset:#x} of a file discarded while mapped for DMA: "
                f"devices keep the old pages, the program gets new ones",
            )
        return kept

    def _window_file(self, vaddr: int) -> FileId:
        window = self._session.space.hold(vaddr, 1)
        if window is None:
            raise IoctlError(errno.EINVAL, f"nothing is shared at {vaddr:#x}")
        return window.file

    async def _file_of(self, fd: int) -> FileId | None:
        """Identify a file in which the client may make holes; None if hardware holds nothing of it.

        What cannot be shared is held by nobody, and is not looked at further: on FUSE, fstat() waits for its owner.
        """
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise IoctlError(errno.EBADF, "the file is not open for writing")
        session = self._session
        if not session.space.pinned.by_file or not await self._clients.can_be_mapped(fd, session):
            return None
        status = os.fstat(fd)
        return status.st_dev, status.st_ino


def _range(args: Args) -> tuple[int, int]:
    start, size = args[0], args[1]
    if not size or start + size > TOP:
        raise IoctlError(errno.EINVAL, f"{size:#x} bytes at {start:#x}")
    return start, size
