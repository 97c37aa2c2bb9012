# SPDX-License-Identifier: MIT
"""A `System` made of this process and a session with a daemon: the client library, real fds, real memory."""

import errno
import os
import resource
import select
from collections.abc import Awaitable, Callable
from typing import Final, cast

from vfioemu.client import Control, DaemonGone, File, Session
from vfioemu.conformance import realmemory
from vfioemu.testing.process import Result, errno_name

_EVENTS: Final = select.POLLIN | select.POLLOUT | select.POLLPRI


class LiveSystem:
    """This process as a client of a daemon.

    Args:
        session: makes the calls.
        commands: the daemon's control socket, for parameters and accounting.
    """

    def __init__(self, session: Session, commands: Control) -> None:
        self._session = session
        self._commands = commands
        self._files: dict[int, File] = {}
        self._foreign: set[int] = set()
        self.allocate = realmemory.allocate
        self.protect = realmemory.protect
        self.unmap = realmemory.unmap
        self.peek = realmemory.peek
        self.poke = realmemory.poke

    async def open(self, path: str) -> Result:
        """Open a device node."""
        return await _answer(lambda: self._session.open(path))

    async def ioctl(self, fd: int, cmd: int, arg: int) -> Result:
        """Make an ioctl; ENOTTY for fds that are not emulated."""
        return await self._call(fd, errno.ENOTTY, lambda file: file.ioctl(cmd, arg))

    async def read(self, fd: int, address: int, size: int) -> Result:
        """Read from an fd into memory."""
        if fd in self._foreign:
            return _read_foreign(fd, address, size)
        return await self._call(fd, errno.EINVAL, lambda file: file.read_at(address, size))

    async def write(self, fd: int, address: int, size: int) -> Result:
        """Write to an fd from memory."""
        return await self._call(fd, errno.EINVAL, lambda file: file.write_at(address, size))

    async def pread(self, fd: int, address: int, size: int, offset: int) -> Result:
        """Read at an offset."""
        return await self._call(fd, errno.ESPIPE, lambda file: file.pread_at(address, size, offset))

    async def pwrite(self, fd: int, address: int, size: int, offset: int) -> Result:
        """Write at an offset."""
        return await self._call(fd, errno.ESPIPE, lambda file: file.pwrite_at(address, size, offset))

    async def mmap(self, fd: int, size: int, protection: str, offset: int) -> tuple[Result, int]:
        """Map an fd, shared."""
        prot = realmemory.PROTECTIONS[protection]
        start = 0

        async def ask(file: File) -> int:
            nonlocal start
            shown_fd, start = await file.mmap_fd(size, prot, offset)
            return shown_fd

        shown = await self._call(fd, errno.ENODEV, ask)
        if shown.err is not None:
            return shown, 0
        address = realmemory.map_file(shown.ret, size, protection, start)
        os.close(shown.ret)
        return Result(0), address

    async def poll(self, fd: int) -> int:
        """Return revents without waiting."""
        poller = select.poll()
        if fd < 0:
            return 0
        poller.register(fd, _EVENTS)
        return dict(poller.poll(0)).get(fd, 0)

    async def close(self, fd: int) -> Result:
        """Close an fd."""
        file = self._files.pop(fd, None)
        if file is not None:
            file.close()
            return Result(0)
        self._foreign.discard(fd)
        try:
            if fd < 0:
                return Result(-1, "EBADF")
            os.close(fd)
        except OSError as error:
            return Result(-1, errno_name(error.errno or 0))
        return Result(0)

    def eventfd(self) -> int:
        """Make a non-blocking eventfd."""
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._foreign.add(fd)
        return fd

    def null(self) -> int:
        """Open /dev/null."""
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._foreign.add(fd)
        return fd

    async def set_parameter(self, name: str, value: str) -> Result:
        """Set a module parameter, through the control socket."""
        await self._commands.call("set-parameter", name=name, value=int(value))
        return Result(0)

    async def limit_memlock(self, size: int) -> None:
        """Set RLIMIT_MEMLOCK, and report to the daemon that CAP_IPC_LOCK is given up."""
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, hard))
        await self._session.set_limits(ipc_lock=False, memlock=size)

    async def locked_kib(self) -> int:
        """Return VmLck as the daemon accounts it, in KiB."""
        clients = cast("list[dict[str, int]]", await self._commands.call("clients"))
        return sum(client["locked_pages"] for client in clients if client["pid"] == os.getpid()) * 4

    async def leave(self) -> tuple[str, ...]:
        """Return nothing: the runner checks what is left after the process has ended."""
        return ()

    async def _call(self, fd: int, foreign: int, call: Callable[[File], Awaitable[int]]) -> Result:
        if fd in self._foreign:
            return Result(-1, errno_name(foreign))
        file = self._files.get(fd)
        if file is None:
            if fd < 0:
                return Result(-1, "EBADF")
            file = self._files[fd] = File(self._session, fd)
        known = file
        return await _answer(lambda: call(known))


def _read_foreign(fd: int, address: int, size: int) -> Result:
    try:
        data = os.read(fd, size)
    except OSError as error:
        return Result(-1, errno_name(error.errno or 0))
    realmemory.poke(address, data)
    return Result(len(data))


async def _answer(call: Callable[[], Awaitable[int]]) -> Result:
    try:
        return Result(await call())
    except DaemonGone:
        raise
    except OSError as error:
        return Result(-1, errno_name(error.errno or 0))
