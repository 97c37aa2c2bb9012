# SPDX-License-Identifier: MIT
"""The memory and the fds of the client that makes the call in progress.

The client may offer the bytes at the call's address with the call (protocol/wire.md section 4). Then copy_from_user works
on the offer and, if it is writable, copy_to_user changes it, and the reply carries it back: one round trip in all. What
goes beyond the offer first takes the changes to the client and then forgets about it.

Why the offer and not process_vm_readv() alone, which needs no help of the client? Because a daemon that several users share must
not use it: a hostile process can park such a read for ever (userfaultfd, FUSE), and the daemon has one thread. And since most
payloads are smaller than a packet, the offer is no slower.
"""

import errno
import os
from collections.abc import Callable
from typing import Final

from vfioemu.core.base.effects import Buffer, EventFd, ForeignFd, Steps, Watcher
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.io.base.eventfd import ClientEventFd
from vfioemu.io.base.fds import is_eventfd, socket_cookie
from vfioemu.io.base.holders import look_abandoned
from vfioemu.io.base.watch import EventFdWatcher
from vfioemu.io.memory.space import ClientSpace
from vfioemu.io.shim.clients import Clients
from vfioemu.io.shim.connection import Connection
from vfioemu.io.shim.session import InCall, Session
from vfioemu.io.shim.tokens import Token
from vfioemu.io.transport import Gone
from vfioemu.syscalls import procmem
from vfioemu.wire import messages as m

_LAST_FD: Final = (1 << 31) - 1


class ShimCaller(InCall):
    """The `CallerAccess` of a connection; reused for each call on it.

    Attributes:
        space: of the client.
        given: what give_fd has made in this call, by the number that the client has for it.
        base, offer: the offered bytes and their address; None without an offer.
        writable: the offer may be changed.
        low, high: which part of the offer was changed.
    """

    __slots__ = (
        "_clients",
        "_gave",
        "_given_tokens",
        "_held",
        "base",
        "given",
        "high",
        "low",
        "offer",
        "space",
        "writable",
    )

    def __init__(self, clients: Clients, session: Session, connection: Connection) -> None:
        super().__init__(session, connection)
        self._clients = clients
        self.space: ClientSpace = session.space
        self._held: list[tuple[int, Token]] | None = None
        self._gave: list[Token] | None = None
        self.given: dict[int, File] = {}
        self._given_tokens: dict[int, Token] = {}
        self.base = 0
        self.offer: bytearray | None = None
        self.writable = False
        self.low = self.high = 0

    def begin(self, seq: int, base: int, offer: bytearray | None, *, writable: bool) -> None:
        """Begin a new call, which comes with these offered bytes."""
        self.seq = seq
        self.base = base
        self.offer = offer
        self.writable = writable
        self.low = self.high = 0

    def __str__(self) -> str:
        return str(self.session)

    def end(self) -> None:
        """Drop the references that the handler, which has run to its end, took with take_fd and give_fd."""
        self.offer = None
        if self._held is not None:
            for fd, token in self._held:
                os.close(fd)
                self._clients.tokens.put(token, self.session)
            self._held = None
        if self._gave is not None:
            self.given.clear()
            self._given_tokens.clear()
            for token in self._gave:
                self._clients.tokens.put(token, self.session)
            self._gave = None

    # --- memory ---

    def read_now(self, address: int, size: int) -> bytes | None:
        """Read the offer, or the process's memory."""
        if self.offer is not None:
            start = address - self.base
            if 0 <= start and start + size <= len(self.offer):
                return bytes(self.offer[start : start + size])
            if self.high:
                return None  # the client must see the changes first
        return self._read_process(address, size)

    def _read_process(self, address: int, size: int) -> bytes | None:
        """Read the caller's memory; None if it has to be asked: the mode is so, or the system refuses by now."""
        bound = self.space.bound
        if bound is None:
            return None
        out = bytearray(size)
        try:
            got = procmem.read_into(self.session.pid, address, out)
        except OSError:
            return None
        if not bound.alive():  # now: exec() may have come before the read, or in the midst of it
            raise IoctlError(errno.EFAULT, "the caller has become another program")
        if got < size:
            raise IoctlError(errno.EFAULT, f"the caller's memory at {address + got:#x} cannot be read")
        return bytes(out)

    async def read(self, address: int, size: int) -> bytes:
        """Flush the offer; read the process's memory, or ask for it."""
        await self.flush()
        data = self._read_process(address, size)
        if data is None:
            data = await self.connection.ask_read(self.seq, address, size)
        if data is None:
            raise IoctlError(errno.EFAULT, f"{size} bytes at {address:#x} cannot be read")
        return data

    def write_now(self, address: int, data: Buffer) -> bool:
        """Write to the offer, or to the process's memory."""
        if self.offer is not None:
            if self.writable:
                start = address - self.base
                stop = start + len(data)
                if 0 <= start and stop <= len(self.offer):
                    if stop > start:
                        if self.high and (start > self.high or stop < self.low):
                            # What lies between is as it was when the call was sent, and is not ours to put back.
                            return False
                        self.offer[start:stop] = data
                        self.low = min(start, self.low) if self.high else start
                        self.high = max(stop, self.high)
                    return True
            if self.high:
                return False
            self.offer = None
        return self._write_process(address, data)

    def _write_process(self, address: int, data: Buffer) -> bool:
        """Write to the caller's memory; False if it has to be asked, see `_read_process`."""
        bound = self.space.bound
        if bound is None:
            return False
        if not bound.alive():
            raise IoctlError(errno.EFAULT, "the caller has become another program")
        try:
            done = procmem.write(self.session.pid, address, data)
        except OSError:
            return False
        if done < memoryview(data).nbytes:
            raise IoctlError(errno.EFAULT, f"the caller's memory at {address + done:#x} cannot be written")
        return True

    async def write(self, address: int, data: Buffer) -> None:
        """Flush the offer; write to the process's memory, or have it written."""
        await self.flush()
        if self._write_process(address, data):
            return
        if not await self.connection.ask_write(self.seq, address, data):
            raise IoctlError(errno.EFAULT, f"{len(data)} bytes at {address:#x} cannot be written")

    async def flush(self) -> None:
        """Take the changes of the offer to the client, and do without it from now on."""
        offer, self.offer = self.offer, None
        if offer is not None and self.high:
            low, high = self.low, self.high
            self.low = self.high = 0
            await self.connection.ask_write(self.seq, self.base + low, memoryview(offer)[low:high])

    def holds(self, space: object, vaddr: int, size: int) -> bool:
        """Tell whether some of that memory was offered."""
        if self.offer is None or space is not self.space:
            return False
        return vaddr < self.base + len(self.offer) and vaddr + size > self.base

    # --- fds ---

    async def take_fd(self, number: int) -> File | EventFd | ForeignFd:
        """Ask the client to send its fd, and see what it is."""
        if number < 0:
            raise IoctlError(errno.EBADF, f"fd {number}")
        connection = self.connection
        result, _ = await connection.ask(m.TAKE_FD, self.seq, number)
        fd = connection.take_fd()
        if result < 0:
            if fd >= 0:
                await self._clients.close_for(fd, self.session)
            raise IoctlError(errno.EBADF, f"the caller's fd {number} is not open")
        if fd < 0:  # scm_detach_fds() drops what there is no room for
            raise IoctlError(errno.ENOMEM, f"the daemon has no fd left for the caller's fd {number}")
        cookie = socket_cookie(fd)
        if cookie is not None:
            token = self._clients.tokens.by_cookie(cookie)
            if token is not None:
                token.users += 1
                if self._held is None:
                    self._held = []
                self._held.append((fd, token))
                return token.file
        elif is_eventfd(fd):
            account = self.session.account
            most = self._clients.limits.max_eventfds
            why = f"the process has {most} eventfds here" if account.eventfds >= most else account.no_fd()
            if why:
                os.close(fd)
                raise IoctlError(errno.ENOMEM, why)
            return ClientEventFd(fd, account)
        await self._clients.close_for(fd, self.session)
        return ForeignFd(number)

    async def give_fd(self, file: File) -> int:
        """Make a token, and send the client's end of it."""
        session = self.session
        tokens = self._clients.tokens
        self._clients.check_room(session)
        try:
            token, theirs = tokens.create(file, session.account)
        except OSError as error:
            raise IoctlError(errno.EMFILE, f"the daemon has no fd left: {error.strerror}") from None
        try:
            number, _ = await self.connection.ask(m.GIVE_FD, self.seq, fd=theirs)
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
        if self._gave is None:
            self._gave = []
        self._gave.append(token)
        self._given_tokens[number] = token
        self.given[number] = file
        return number

    def watch(self, eventfd: EventFd, then: Callable[[], Steps[None]]) -> Watcher:
        """Watch it in the poller that is asked before each call."""
        if not isinstance(eventfd, ClientEventFd):
            raise AssertionError("an eventfd of another transport")
        dispatcher = self._clients.dispatcher
        return EventFdWatcher(dispatcher.poller, eventfd, lambda: dispatcher.run(then, "a watched eventfd"))

    async def abandoned(self, eventfd: EventFd) -> bool:
        """Look at everybody's fds, which takes its time, and never too much."""
        if not isinstance(eventfd, ClientEventFd):
            raise AssertionError("an eventfd of another transport")
        clients = {client.pid for client in self._clients.dispatcher.clients}
        # Ours are the reference of whoever asks, and the copy that is looked at.
        return await look_abandoned(eventfd.fileno(), clients, self._clients.limits.ask_timeout, own=2)

    async def revoke_fd(self, number: int) -> None:
        """Close the token, and ask the client to close its end."""
        token = self._given_tokens.pop(number, None)
        if token is None:
            raise AssertionError(f"fd {number} was not given in this call")
        del self.given[number]
        token.hung = False
        self._clients.tokens.discard(token)
        try:
            await self.connection.ask(m.REVOKE_FD, self.seq, number)
        except Gone:
            pass  # its fds are gone as well
