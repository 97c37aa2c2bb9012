# SPDX-License-Identifier: MIT
"""One call of a client: its effects are performed with the caller's memory and fds.

The client may offer the bytes at the call's address with the call (protocol/wire.md section 4). Then copy_from_user works
on the offer and, if it is writable, copy_to_user changes it, and the reply carries it back: one round trip in all. What
goes beyond the offer first takes the changes to the client and then forgets about it.
"""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

import trio

from vfioemu.core.effects import (
    Abandoned,
    Current,
    DmaRead,
    DmaWrite,
    ForeignFd,
    GiveFd,
    PagesRead,
    PagesWrite,
    ReadUser,
    RevokeFd,
    TakeFd,
    Watch,
    WriteUser,
)
from vfioemu.core.errors import IoctlError
from vfioemu.core.file import File
from vfioemu.io.base.eventfd import ClientEventFd
from vfioemu.io.base.fds import duplicate, is_eventfd, socket_cookie
from vfioemu.io.base.holders import is_abandoned
from vfioemu.io.driver import Runner
from vfioemu.io.memory.pages import Piece
from vfioemu.io.shim.connection import Connection, Gone
from vfioemu.io.shim.watch import EventFdWatcher
from vfioemu.syscalls import procmem
from vfioemu.wire import messages as m

if TYPE_CHECKING:
    from vfioemu.io.shim.server import Server
    from vfioemu.io.shim.session import Session
    from vfioemu.io.shim.tokens import Token

_LAST_FD: Final = (1 << 31) - 1


class Call(Runner):
    """The call in progress on a connection; reused for the next one.

    Attributes:
        seq: of the call.
        base, offer: the offered bytes and their address; None without an offer.
        writable: the offer may be changed.
        low, high: which part of the offer was changed.
        given: what GiveFd has made in this call, by the number that the client has for it.
    """

    __slots__ = (
        "_connection",
        "_gave",
        "_held",
        "_server",
        "_session",
        "base",
        "given",
        "high",
        "low",
        "offer",
        "seq",
        "writable",
    )

    def __init__(self, server: "Server", session: "Session", connection: Connection) -> None:
        super().__init__(server.counters, session.account.share)
        self._server = server
        self._session = session
        self._connection = connection
        self._held: list[tuple[int, Token]] | None = None
        self._gave: list[Token] | None = None
        self.given: dict[int, Token] | None = None
        self.seq = 0
        self.base = 0
        self.offer: bytearray | None = None
        self.writable = False
        self.low = self.high = 0

    def begin(self, seq: int, base: int, offer: bytearray | None, *, writable: bool) -> None:
        """A new call comes with these offered bytes."""
        self.seq = seq
        self.base = base
        self.offer = offer
        self.writable = writable
        self.low = self.high = 0

    def who(self) -> str:
        """The client."""
        return str(self._session)

    def end(self) -> None:
        """The handler has run to its end: drop the references that it took with TakeFd and GiveFd."""
        self.result = None
        self.offer = None
        self.given = None
        if self._held is not None:
            for fd, token in self._held:
                os.close(fd)
                self._server.tokens.put(token, self._session)
            self._held = None
        if self._gave is not None:
            for token in self._gave:
                self._server.tokens.put(token, self._session)
            self._gave = None

    # --- memory ---

    def _read_now(self, effect: ReadUser) -> tuple[bool, Any]:
        size = effect.size
        if self.offer is not None:
            start = effect.addr - self.base
            if 0 <= start and start + size <= len(self.offer):
                return False, bytes(self.offer[start : start + size])
            if self.high:
                return True, None  # the client must see the changes first
        data = self._read_process(effect.addr, size)
        return data is None, data

    def _read_process(self, address: int, size: int) -> bytes | None:
        """Read the caller's memory; None if it has to be asked: the mode is so, or the system refuses by now."""
        bound = self._session.space.bound
        if bound is None:
            return None
        self._moved(size)
        out = bytearray(size)
        try:
            got = procmem.read_into(self._session.pid, address, out)
        except OSError:
            return None
        if not bound.alive():  # now: exec() may have come before the read, or in the midst of it
            raise IoctlError(errno.EFAULT, "the caller has become another program")
        if got < size:
            raise IoctlError(errno.EFAULT, f"the caller's memory at {address + got:#x} cannot be read")
        return bytes(out)

    async def _read_later(self, effect: ReadUser) -> bytes:
        await self._flush()
        data = self._read_process(effect.addr, effect.size)
        if data is None:
            data = await self._connection.ask_read(self.seq, effect.addr, effect.size)
        if data is None:
            raise IoctlError(errno.EFAULT, f"{effect.size} bytes at {effect.addr:#x} cannot be read")
        return data

    def _write_now(self, effect: WriteUser) -> tuple[bool, Any]:
        if self.offer is not None:
            if self.writable:
                start = effect.addr - self.base
                stop = start + len(effect.data)
                if 0 <= start and stop <= len(self.offer):
                    if stop > start:
                        if self.high and (start > self.high or stop < self.low):
                            # What lies between is as it was when the call was sent, and is not ours to put back.
                            return True, None
                        self.offer[start:stop] = effect.data
                        self.low = min(start, self.low) if self.high else start
                        self.high = max(stop, self.high)
                    return False, None
            if self.high:
                return True, None
            self.offer = None
        return not self._write_process(effect), None

    def _write_process(self, effect: WriteUser) -> bool:
        """Write to the caller's memory; False if it has to be asked, see `_read_process`."""
        bound = self._session.space.bound
        if bound is None:
            return False
        if not bound.alive():
            raise IoctlError(errno.EFAULT, "the caller has become another program")
        self._moved(memoryview(effect.data).nbytes)
        try:
            done = procmem.write(self._session.pid, effect.addr, effect.data)
        except OSError:
            return False
        if done < memoryview(effect.data).nbytes:
            raise IoctlError(
                errno.EFAULT, f"the caller's memory at {effect.addr + done:#x} cannot be written"
            )
        return True

    async def _write_later(self, effect: WriteUser) -> None:
        await self._flush()
        if self._write_process(effect):
            return
        if not await self._connection.ask_write(self.seq, effect.addr, effect.data):
            raise IoctlError(errno.EFAULT, f"{len(effect.data)} bytes at {effect.addr:#x} cannot be written")

    async def _flush(self) -> None:
        """Take the changes of the offer to the client, and do without it from now on."""
        offer, self.offer = self.offer, None
        if offer is not None and self.high:
            low, high = self.low, self.high
            self.low = self.high = 0
            await self._connection.ask_write(self.seq, self.base + low, memoryview(offer)[low:high])

    def _offers(self, effect: DmaRead | DmaWrite, size: int) -> bool:
        """Whether a device accesses the very memory that was offered, so that the two must be made one first."""
        if self.offer is None or effect.space is not self._session.space:
            return False
        return effect.vaddr < self.base + len(self.offer) and effect.vaddr + size > self.base

    def _dma_read_now(self, effect: DmaRead) -> tuple[bool, Any]:
        if self._offers(effect, effect.size):
            return True, None
        return super()._dma_read_now(effect)

    def _dma_write_now(self, effect: DmaWrite) -> tuple[bool, Any]:
        if self._offers(effect, memoryview(effect.data).nbytes):
            return True, None
        return super()._dma_write_now(effect)

    async def _dma_read_later(self, effect: DmaRead) -> Any:
        await self._flush()
        waiting, result = super()._dma_read_now(effect)
        return await self._dma_later(effect) if waiting else result

    async def _dma_write_later(self, effect: DmaWrite) -> None:
        await self._flush()
        waiting, _ = super()._dma_write_now(effect)
        if waiting:
            await self._dma_later(effect)

    def _unsettled(self, piece: Piece) -> bool:
        if self.offer is None or piece.space is not self._session.space:
            return False
        end = piece.vaddr + piece.end - piece.start
        return piece.vaddr < self.base + len(self.offer) and end > self.base

    async def _pages_read_later(self, effect: PagesRead) -> bytes:
        await self._flush()
        return await super()._pages_read_later(effect)

    async def _pages_write_later(self, effect: PagesWrite) -> None:
        await self._flush()
        await super()._pages_write_later(effect)

    def _current_now(self, effect: Current) -> tuple[bool, Any]:
        del effect
        return False, self._session.space

    def _connection_of(self, session: "Session | None") -> "tuple[Connection, int, trio.Lock | None]":
        if session is self._session:
            return self._connection, self.seq, None  # the caller waits for us anyway
        return super()._connection_of(session)

    # --- fds ---

    def _later(self, effect: object) -> tuple[bool, Any]:
        del effect
        return True, None

    async def _take_fd(self, effect: TakeFd) -> File | ClientEventFd | ForeignFd:
        number = effect.number
        if number < 0:
            raise IoctlError(errno.EBADF, f"fd {number}")
        connection = self._connection
        result, _ = await connection.ask(m.TAKE_FD, self.seq, number)
        fd = connection.take_fd()
        if result < 0:
            if fd >= 0:
                await self._server.bury_for(fd, self._session)
            raise IoctlError(errno.EBADF, f"the caller's fd {number} is not open")
        if fd < 0:  # scm_detach_fds() drops what there is no room for
            raise IoctlError(errno.ENOMEM, f"the daemon has no fd left for the caller's fd {number}")
        cookie = socket_cookie(fd)
        if cookie is not None:
            token = self._server.tokens.by_cookie(cookie)
            if token is not None:
                token.users += 1
                if self._held is None:
                    self._held = []
                self._held.append((fd, token))
                return token.file
        elif is_eventfd(fd):
            account = self._session.account
            most = self._server.limits.max_eventfds
            why = f"the process has {most} eventfds here" if account.eventfds >= most else account.no_fd()
            if why:
                os.close(fd)
                raise IoctlError(errno.ENOMEM, why)
            return ClientEventFd(fd, account)
        await self._server.bury_for(fd, self._session)
        return ForeignFd(number)

    async def _give_fd(self, effect: GiveFd) -> int:
        session = self._session
        tokens = self._server.tokens
        self._server.check_room(session)
        try:
            token, theirs = tokens.create(effect.file, session.account)
        except OSError as error:
            raise IoctlError(errno.EMFILE, f"the daemon has no fd left: {error.strerror}") from None
        try:
            number, _ = await self._connection.ask(m.GIVE_FD, self.seq, fd=theirs)
        except Gone:
            tokens.discard(token)
            raise IoctlError(errno.EMFILE, "the client is gone") from None
        finally:
            os.close(theirs)
        if not 0 <= number <= _LAST_FD:
            tokens.discard(token)
            raise IoctlError(errno.EMFILE, f"the client has no fd left, it says {number}")
        session.prove(token)
        # The client may close it at once; whether that is a release, or the handler takes the fd back, is seen at the end.
        token.users += 1
        if self.given is None or self._gave is None:
            self.given = {}
            self._gave = []
        self._gave.append(token)
        self.given[number] = token
        return number

    def _watch_now(self, effect: Watch) -> tuple[bool, Any]:
        if not isinstance(effect.eventfd, ClientEventFd):
            raise AssertionError("an eventfd of another driver")
        server = self._server
        watcher = EventFdWatcher(
            server.tokens, effect.eventfd, lambda: server.run(effect.then, "a watched eventfd")
        )
        return False, watcher

    async def _abandoned(self, effect: Abandoned) -> bool:
        """Whether nobody has the eventfd any more; looking at everybody's fds takes its time, and never too much."""
        if not isinstance(effect.eventfd, ClientEventFd):
            raise AssertionError("an eventfd of another driver")
        clients = {session.pid for session in self._server.sessions.values()}
        copy = duplicate(effect.eventfd.fileno())
        answers: list[bool] = []

        def look() -> None:
            try:
                answers.append(is_abandoned(copy, clients, own=2))  # the copy, and what is watched
            finally:
                os.close(copy)

        deadline = trio.current_time() + self._server.limits.ask_timeout
        with trio.CancelScope(deadline=deadline, shield=True):  # a handler is never abandoned
            try:
                await trio.to_thread.run_sync(look, abandon_on_cancel=True)
            except RuntimeError:  # the system has no thread for us now
                os.close(copy)
        return answers == [True]

    async def _revoke_fd(self, effect: RevokeFd) -> None:
        token = self.given.pop(effect.number, None) if self.given else None
        if token is None:
            raise AssertionError(f"fd {effect.number} was not given in this call")
        token.hung = False
        self._server.tokens.discard(token)
        try:
            await self._connection.ask(m.REVOKE_FD, self.seq, effect.number)
        except Gone:
            pass  # its fds are gone as well

    _NOW: ClassVar[dict[type[Any], Callable[[Any, Any], tuple[bool, Any]]]] = {
        **Runner._NOW,  # noqa: SLF001 - a subclass
        ReadUser: _read_now,
        WriteUser: _write_now,
        DmaRead: _dma_read_now,
        DmaWrite: _dma_write_now,
        Current: _current_now,
        TakeFd: _later,
        GiveFd: _later,
        RevokeFd: _later,
        Watch: _watch_now,
        Abandoned: _later,
    }
    _LATER: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {
        **Runner._LATER,  # noqa: SLF001 - a subclass
        ReadUser: _read_later,
        WriteUser: _write_later,
        DmaRead: _dma_read_later,
        DmaWrite: _dma_write_later,
        PagesRead: _pages_read_later,
        PagesWrite: _pages_write_later,
        TakeFd: _take_fd,
        GiveFd: _give_fd,
        RevokeFd: _revoke_fd,
        Abandoned: _abandoned,
    }
