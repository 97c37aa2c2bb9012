# SPDX-License-Identifier: MIT
"""An emulated file in the client: a real fd, and the system calls on it."""

import errno
import mmap
import os
import select
from typing import TYPE_CHECKING, Self

from vfioemu.client import callname
from vfioemu.client.channel import Reply
from vfioemu.client.mapping import Mapping
from vfioemu.syscalls import procmem
from vfioemu.wire import messages as m
from vfioemu.wire import names

if TYPE_CHECKING:
    from vfioemu.client.session import Session

_PAGE = mmap.PAGESIZE
_PREFETCH = 512
_EVENTS = select.POLLIN | select.POLLOUT | select.POLLPRI


class File:
    """An open file. All calls raise OSError with the kernel's errno.

    Args:
        session: makes the calls.
        fd: a token; the file owns it from now on.

    Raises:
        OSError: EBADF, the fd is not a token.
    """

    def __init__(self, session: "Session", fd: int) -> None:
        name = names.of_fd(fd)
        if name is None:
            raise OSError(errno.EBADF, "not an emulated file")
        self.session = session
        self.kind = name.kind
        self.serial = name.serial
        self._fd = fd

    def fileno(self) -> int:
        """Return the fd.

        Raises:
            OSError: EBADF, the file is closed.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._fd

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._fd < 0

    def close(self) -> None:
        """Call close(2). The work of a last close is done before any later call is answered."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self.session.forget(self.serial)
            os.close(fd)

    def detach(self) -> int:
        """Return the fd, still open, and give up its ownership."""
        fd = self.fileno()
        self._fd = -1
        return fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def poll(self) -> int:
        """Call poll(2) for IN, OUT and PRI without waiting; return revents."""
        poller = select.poll()
        poller.register(self.fileno(), _EVENTS)
        ready = poller.poll(0)
        return ready[0][1] if ready else 0

    # --- ioctl ---

    async def ioctl(self, cmd: int, arg: int = 0) -> int:
        """Call ioctl(2) with a number, or an address in this process, as its argument.

        The daemon reads and writes at the address as the kernel would, so any address is safe.
        """
        offer = None
        if arg >= _PAGE and self.session.greeting.memory_mode is m.MemoryMode.ASK:
            offer = _readable(arg)
        reply = await self._call(m.IOCTL, cmd & 0xFFFFFFFF, arg & m.U64, data=offer)
        if reply.result < 0:
            raise self._failed(reply.result, callname.of_ioctl(self.kind, cmd & 0xFFFFFFFF))
        return reply.result

    async def ioctl_buffer(self, cmd: int, buffer: bytearray | memoryview) -> int:
        """Call ioctl(2) with the address of `buffer`, which is updated in place."""
        address, keep = procmem.address_of(buffer)
        view = memoryview(buffer)
        asked = bytes(view[:8])
        offer = view[: m.MAX_DATA]
        reply = await self._call(m.IOCTL, cmd & 0xFFFFFFFF, address, data=offer, flags=m.F_WRITABLE)
        if reply.data:
            view[reply.start : reply.start + len(reply.data)] = reply.data
        del keep
        if reply.result < 0:
            raise self._failed(reply.result, callname.of_ioctl(self.kind, cmd & 0xFFFFFFFF, asked))
        return reply.result

    # --- read and write ---

    async def read(self, size: int) -> bytes:
        """Call read(2)."""
        return await self._read(m.READ, size, 0)

    async def pread(self, size: int, offset: int) -> bytes:
        """Call pread(2)."""
        return await self._read(m.PREAD, size, offset)

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Call write(2)."""
        return await self._write(m.WRITE, data, 0)

    async def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Call pwrite(2)."""
        return await self._write(m.PWRITE, data, offset)

    async def read_at(self, address: int, size: int) -> int:
        """Call read(2) into any address of this process: EFAULT for a bad one."""
        return self._result((await self._call(m.READ, address & m.U64, size & m.U64)).result)

    async def write_at(self, address: int, size: int) -> int:
        """Call write(2) from any address."""
        return self._result((await self._call(m.WRITE, address & m.U64, size & m.U64)).result)

    async def pread_at(self, address: int, size: int, offset: int) -> int:
        """Call pread(2) into any address."""
        reply = await self._call(m.PREAD, address & m.U64, size & m.U64, offset & m.U64)
        return self._result(reply.result)

    async def pwrite_at(self, address: int, size: int, offset: int) -> int:
        """Call pwrite(2) from any address."""
        reply = await self._call(m.PWRITE, address & m.U64, size & m.U64, offset & m.U64)
        return self._result(reply.result)

    async def mmap_fd(self, size: int, prot: int, offset: int, *, shared: bool = True) -> tuple[int, int]:
        """Do mmap(2) up to the mapping; return an fd, which the caller owns, and the offset to map in it.

        The caller must keep a copy of the file's fd open for as long as the memory is mapped, as a VMA does in the kernel.

        Raises:
            OSError: as mmap(2); ENODEV for files without mmap.
        """
        reply = await self._call(m.MMAP, offset & m.U64, size & m.U64, prot, int(shared))
        self._result(reply.result)
        if reply.fd < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return reply.fd, reply.start

    async def mmap(self, size: int, prot: int = mmap.PROT_READ | mmap.PROT_WRITE, offset: int = 0) -> Mapping:
        """Call mmap(2), shared: EINVAL, ENODEV. The file stays open while it is mapped."""
        fd, start = await self.mmap_fd(size, prot, offset)
        try:
            return Mapping.of(self.fileno(), fd, size, prot, start)
        finally:
            os.close(fd)

    # --- inside ---

    async def _call(
        self,
        type: int,
        arg0: int,
        arg1: int,
        arg2: int = 0,
        arg3: int = 0,
        *,
        flags: int = 0,
        data: bytes | bytearray | memoryview | None = None,
    ) -> Reply:
        fd = self.fileno()
        arg3 |= (fd + 1) << 32  # shows our fd number in traces
        return await self.session.token_call(
            type, fd, self.serial, arg0, arg1, arg2, arg3, flags=flags, data=data
        )

    async def _read(self, type: int, size: int, offset: int) -> bytes:
        buffer = bytearray(size)
        address, keep = procmem.address_of(buffer)
        reply = await self._call(type, address, size, offset & m.U64, flags=m.F_WRITABLE)
        if reply.data:
            memoryview(buffer)[reply.start : reply.start + len(reply.data)] = reply.data
        del keep
        if reply.result < 0:
            raise self._failed(reply.result, "read")
        return bytes(buffer[: reply.result])

    async def _write(self, type: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        address, keep = procmem.address_of(data)
        view = memoryview(data)
        reply = await self._call(type, address, view.nbytes, offset & m.U64, data=view[: m.MAX_DATA])
        del keep
        if reply.result < 0:
            raise self._failed(reply.result, "write")
        return reply.result

    @staticmethod
    def _failed(result: int, name: str) -> OSError:
        return callname.name_failed(OSError(-result, os.strerror(-result)), name)

    @staticmethod
    def _result(result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


def _readable(address: int) -> bytearray | None:
    """Return the first bytes at an address, up to the end of its page; None if they cannot be read."""
    size = min(_PREFETCH, _PAGE - address % _PAGE)
    data = bytearray(size)
    return data if address < 1 << 63 and procmem.read_into(os.getpid(), address, data) == size else None
