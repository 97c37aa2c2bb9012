# SPDX-License-Identifier: MIT
"""A session with a daemon: its connections, tokens and memory.

Each task takes a connection from a pool for the time of a call. So calls of several tasks run at the same time, as calls of
several threads do in the kernel.
"""

import contextlib
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import trio

from vfioemu.client.channel import Channel, DaemonGone, Reply
from vfioemu.client.container import Container
from vfioemu.client.group import Group
from vfioemu.client.memory import Memory
from vfioemu.uapi.kinds import FdKind
from vfioemu.wire import messages as m
from vfioemu.wire import names

__all__ = ["DaemonGone", "Session", "connect"]

_CAP_IPC_LOCK: Final = 14
_RESERVED: Final = 2
"""Margin below the daemon's limit of connections: it may not have seen yet that a cancelled call closed one."""


def _has_ipc_lock() -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


class Session:
    """A session; made by `connect`.

    The daemon ends a session with its last connection, and a cancelled call closes its connection. So one connection without
    calls is kept: the service connection, or the first one.

    Attributes:
        number: its number on the control socket.
        greeting: the daemon's greeting.
    """

    def __init__(
        self, path: str, uid: int | None, channel: Channel, secret: int, number: int, greeting: m.Greeting
    ) -> None:
        self._path = path
        self._uid = uid
        self._secret = secret
        self.number = number
        self._idle: list[Channel] = []
        self._channels = {channel}
        # The daemon refuses more connections than these: a call waits here until one is free.
        self._limiter = trio.CapacityLimiter(max(greeting.max_channels - _RESERVED, 1))
        self._proved: set[int] = set()
        self._limits = (m.INFINITE, True)
        self.greeting = greeting

    # --- calls ---

    async def call(
        self,
        type: int,
        token: int = 0,
        arg0: int = 0,
        arg1: int = 0,
        arg2: int = 0,
        arg3: int = 0,
        *,
        flags: int = 0,
        data: bytes | bytearray | memoryview | None = None,
        fd: int = -1,
    ) -> Reply:
        """Make a call on a connection of the pool; a negative result is returned, not raised.

        Raises:
            DaemonGone: the daemon closed the connection.
        """
        async with self._limiter:
            channel = self._idle.pop() if self._idle else await self._new_channel()
            try:
                return await channel.call(type, token, arg0, arg1, arg2, arg3, flags=flags, data=data, fd=fd)
            finally:
                if channel.open:
                    self._idle.append(channel)
                else:
                    self._channels.discard(channel)

    async def token_call(
        self,
        type: int,
        fd: int,
        serial: int,
        arg0: int = 0,
        arg1: int = 0,
        arg2: int = 0,
        arg3: int = 0,
        *,
        flags: int = 0,
        data: bytes | bytearray | memoryview | None = None,
    ) -> Reply:
        """Make a call on the token `fd`; send the fd as proof if the daemon demands it."""
        proof = -1 if serial in self._proved else fd
        reply = await self.call(type, serial, arg0, arg1, arg2, arg3, flags=flags, data=data, fd=proof)
        if reply.flags & m.F_UNPROVED:
            reply = await self.call(type, serial, arg0, arg1, arg2, arg3, flags=flags, data=data, fd=fd)
        self._proved.add(serial)
        if reply.flags & m.F_DRAIN:
            _drain(fd)
        return reply

    async def _new_channel(self) -> Channel:
        channel = await Channel.connect(self._path, self._uid)
        try:
            await channel.hello(self._secret, self._limits[0], m.F_IPC_LOCK if self._limits[1] else 0)
        except BaseException:
            channel.close()
            raise
        self._channels.add(channel)
        return channel

    def pool(self, channel: Channel) -> None:
        """Add a connection to the pool."""
        self._idle.append(channel)

    def adopted(self, serial: int) -> None:
        """Note a token that the daemon gave to us; it needs no proof."""
        self._proved.add(serial)

    def forget(self, serial: int) -> None:
        """Note that a token was closed here."""
        self._proved.discard(serial)

    # --- files ---

    async def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """Call open(2) on a device node; return the new fd.

        Raises:
            OSError: ENOENT, EBUSY and the kernel's other errnos; EMFILE.
        """
        reply = await self.call(m.OPEN, 0, flags, data=path.encode("utf-8", "surrogateescape"))
        if reply.result < 0:
            raise OSError(-reply.result, os.strerror(-reply.result), path)
        if reply.fd < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        name = names.of_fd(reply.fd)
        if name is not None:
            self.adopted(name.serial)
        return reply.fd

    async def open_container(self, **options: str) -> Container:
        """Open /dev/vfio/vfio.

        Args:
            options: properties of this container, as in protocol/wire.md: ``profile=RELEASE``, ``quirks="clean"``,
                ``manual_clear="fixed"``; EINVAL for an unknown one.
        """
        words = [f"{name.replace('_', '-')}={value}" for name, value in options.items()]
        return Container(self, await self.open(",".join(["/dev/vfio/vfio", *words])))

    async def open_group(self, number: int) -> Group:
        """Open /dev/vfio/N; EBUSY, ENOENT."""
        return Group(self, await self.open(f"/dev/vfio/{number}"))

    def kind_of(self, fd: int) -> FdKind | None:
        """Return the kind of an fd; None if it is not a token of this daemon."""
        name = names.of_fd(fd)
        if name is None or name.daemon_id != self.greeting.daemon_id:
            return None
        return name.kind

    # --- memory ---

    async def share_memory(self, memory: Memory) -> None:
        """Share memory with the daemon, which maps it and needs no request per DMA.

        Raises:
            OSError: EPERM for a file that cannot be shared, EEXIST, ENOSPC.
        """
        await self.share(memory.address, memory.size, memory.fd, 0)

    async def share(self, vaddr: int, size: int, fd: int, offset: int) -> None:
        """Share [vaddr, vaddr+size), a shared mapping of `fd` from `offset`; errnos as `share_memory`."""
        self._check(await self.call(m.MEM_SHARE, 0, vaddr, size, offset, fd=fd))

    async def discard(self, memory: Memory) -> None:
        """Free the pages of memory, as a balloon does; they read as zeroes afterwards.

        An IOMMU still uses the pages that were mapped for DMA, although the program cannot see them any more. So the daemon is
        told first, and keeps copies of them for the devices as far as its limits allow, with a line in its log.
        """
        await self.call(m.MEM_HOLE, 0, 0, memory.size, fd=memory.fd)  # for pages that the daemon has mapped
        await self.call(
            m.MEM_LEAVES, 0, memory.address, memory.size, m.Leaving.DISCARDED
        )  # for pages that it has not mapped
        memory.discard()

    async def set_limits(self, *, ipc_lock: bool, memlock: int | None) -> None:
        """Report CAP_IPC_LOCK and RLIMIT_MEMLOCK (None for infinity) to the daemon, for its accounting."""
        self._limits = (m.INFINITE if memlock is None else memlock, ipc_lock)
        flags = m.F_IPC_LOCK if ipc_lock else 0
        self._check(await self.call(m.LIMITS, 0, 0, self._limits[0], flags=flags))

    @staticmethod
    def _check(reply: Reply) -> None:
        if reply.result < 0:
            raise OSError(-reply.result, os.strerror(-reply.result))

    def close(self) -> None:
        """Close all connections. Files stay open until they are closed; calls on them fail."""
        for channel in self._channels:
            channel.close()
        self._idle.clear()


def _drain(fd: int) -> None:
    """Receive the unread packet of a token that is not readable any more."""
    sock = socket.socket(fileno=fd)
    try:
        sock.recv(1, socket.MSG_DONTWAIT)
    except OSError:
        pass
    finally:
        sock.detach()


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Bound the wait for a greeting: a daemon that was stopped takes connections, and says nothing."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        why = f"the daemon has not greeted for {seconds:g} s"
        raise OSError(errno.ETIMEDOUT, why) from None


@contextlib.asynccontextmanager
async def connect(
    path: str | os.PathLike[str],
    *,
    serve_memory: bool = True,
    uid: int | None = None,
    greeted_within: float = float("inf"),
) -> AsyncIterator[Session]:
    """Connect to a daemon.

    Args:
        path: its socket.
        serve_memory: serve requests for DMA memory that is not shared, in a background task.
        uid: the user that the daemon must belong to; by default the one that $VFIOEMU_UID names, or our own.
        greeted_within: seconds that the daemon may take to greet.

    Raises:
        OSError: from connect(2); EPROTONOSUPPORT, EPERM, EMFILE; StrangerError (EPERM): it belongs to another user;
            ETIMEDOUT.
    """
    path = os.fspath(path)
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    memlock = m.INFINITE if limit == resource.RLIM_INFINITY else limit
    ipc_lock = _has_ipc_lock()
    flags = m.F_IPC_LOCK if ipc_lock else 0
    with _within(greeted_within):
        channel = await Channel.connect(path, uid)
        try:
            secret, number, greeting = await channel.hello(0, memlock, flags)
        except BaseException:
            channel.close()
            raise
    session = Session(path, uid, channel, secret, number, greeting)
    session._limits = (memlock, ipc_lock)  # noqa: SLF001 - its constructor
    escaped: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                if serve_memory:
                    with _within(greeted_within):
                        service = await Channel.connect(path, uid)
                        await service.hello(secret, memlock, flags | m.F_SERVICE)
                    nursery.start_soon(service.serve)
                    session.pool(channel)
                yield session
            except BaseException as error:  # noqa: BLE001 - raised below, out of the nursery, so in no ExceptionGroup
                escaped = error
            nursery.cancel_scope.cancel()
    finally:
        session.close()
    if escaped is not None:
        raise escaped
