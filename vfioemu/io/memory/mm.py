# SPDX-License-Identifier: MIT
"""The memory of a process, bound to the address space that it had when we opened it.

An open /proc/PID/mem and /proc/PID/maps refer to the mm_struct, not to the pid: after exec or exit they answer with an
error, and the new program (or another process with the same pid) is never touched. /proc/PID/mem ignores page
protections, so they are looked up first. Only a private daemon uses this (io/base/limits.py says why).
"""

import errno
import fcntl
import os
import struct
import weakref
from typing import Final, NamedTuple

from vfioemu.core.base.effects import Buffer
from vfioemu.core.base.errors import IoctlError

PAGE: Final = 4096
TOP: Final = 1 << 63
_READ: Final = 1
_WRITE: Final = 2
_EXECUTE: Final = 4
_SHARED: Final = 8
_COVERING_OR_NEXT: Final = 0x10
_QUERY: Final = struct.Struct("=9Q4I2Q")  # struct procmap_query
_PROCMAP_QUERY: Final = 3 << 30 | _QUERY.size << 16 | ord("f") << 8 | 17

_scratch: Final = memoryview(bytearray(1 << 20))
"""Where pages go that are read only to make them present."""


class SharedObject(NamedTuple):
    """What a shared mapping is of: a file, or shared anonymous memory.

    Attributes:
        device, inode: which.
        shift: where in it address 0 would be.
    """

    device: int
    inode: int
    shift: int


class _Area(NamedTuple):
    """A mapping, as /proc/PID/maps has it."""

    start: int
    stop: int
    flags: int
    offset: int
    device: int
    inode: int


_NOTHING: Final = _Area(0, 0, 0, 0, 0, 0)


class BoundMemory:
    """DMA memory of a process.

    Args:
        pid: its number in /proc, which need not be that in our PID namespace: io/base/process.py.

    Raises:
        OSError: the process cannot be opened.
    """

    __slots__ = ("__weakref__", "_maps", "_mem", "_query")
    FDS: Final = 2
    """How many of ours it takes."""

    def __init__(self, pid: int) -> None:
        self._mem = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._mem)
        self._maps = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._maps)
        self._query = True

    def alive(self) -> bool:
        """Tell whether its process still runs in it: what is reached by the pid alone is what was meant."""
        try:
            return bool(os.pread(self._mem, 1, 0))
        except OSError:
            return True  # only that nothing is mapped there

    def read(self, vaddr: int, size: int, *, pinned: bool = False) -> bytes:
        """Read for a device: EFAULT, EPERM when the address space is gone.

        Args:
            vaddr: where.
            size: bytes.
            pinned: what is there was pinned when it might be read, and the process may have protected it since.
        """
        if self._allowed(vaddr, size, _READ, pinned=pinned) < size:
            raise IoctlError(errno.EFAULT, f"{size:#x} bytes at {vaddr:#x} are not readable")
        parts = []
        while size:
            try:
                part = os.pread(self._mem, min(size, 1 << 20), vaddr)
            except OSError as error:
                raise IoctlError(errno.EFAULT, f"reading {vaddr:#x}: {error.strerror}") from None
            if not part:
                raise IoctlError(errno.EPERM, "the address space is gone")
            parts.append(part)
            size -= len(part)
            vaddr += len(part)
        return b"".join(parts)

    def write(self, vaddr: int, data: Buffer, *, pinned: bool = False) -> None:
        """Write for a device, as far as possible: EFAULT, EPERM when the address space is gone; `pinned` as for `read`."""
        view = memoryview(data).cast("B")
        allowed = self._allowed(vaddr, len(view), _WRITE, pinned=pinned)
        done = 0
        while done < allowed:
            try:
                count = os.pwrite(self._mem, view[done:allowed], vaddr + done)
            except OSError as error:
                raise IoctlError(errno.EFAULT, f"writing {vaddr + done:#x}: {error.strerror}") from None
            if not count:
                raise IoctlError(errno.EPERM, "the address space is gone")
            done += count
        if done < len(view):
            raise IoctlError(errno.EFAULT, f"{vaddr + done:#x} is not writable")

    def present(self, vaddr: int, npages: int, *, write: bool) -> int:
        """Count the leading pages that are there, with the protection that is wanted (pin_user_pages()).

        Beyond the end of a mapped file there are no pages although there is a mapping; a read fails there.
        """
        start = vaddr & ~(PAGE - 1)
        try:
            allowed = self._allowed(start, npages * PAGE, _WRITE if write else _READ) // PAGE
        except IoctlError:
            return 0
        return self._readable(start, allowed)

    def _readable(self, start: int, npages: int) -> int:
        """Count the leading pages of a permitted range that can be read, which makes them present."""
        done = 0
        while done < npages * PAGE:
            try:
                count = os.preadv(self._mem, [_scratch[: npages * PAGE - done]], start + done)
            except OSError:
                break
            if not count:
                break
            done += count
        return done // PAGE

    def shared_at(self, vaddr: int) -> tuple[int, SharedObject] | None:
        """Look what is shared at an address: the end of that mapping, and which object, as if it began at address 0."""
        try:
            area = self._area(vaddr)
        except IoctlError:
            return None
        if not area.start <= vaddr < area.stop or not area.flags & _SHARED or not area.inode:
            return None
        return area.stop, SharedObject(area.device, area.inode, area.offset - area.start)

    def find(self, wanted: SharedObject, offset: int, size: int, but: tuple[int, int] = (0, 0)) -> int | None:
        """Find where the process has [offset, offset+size) of an object mapped for reading and writing; or None.

        Args:
            wanted: which object.
            offset: where in it.
            size: bytes.
            but: not at these addresses, from the first up to the second.
        """
        at = 0
        try:
            while (area := self._area(at)).stop:
                at = area.stop
                where = offset - area.offset + area.start
                if (
                    (area.device, area.inode) == (wanted.device, wanted.inode)
                    and area.flags & (_SHARED | _READ | _WRITE) == _SHARED | _READ | _WRITE
                    and area.start <= where
                    and where + size <= area.stop
                    and (where + size <= but[0] or where >= but[1])
                ):
                    return where
        except IoctlError:
            pass  # it is gone
        return None

    def _allowed(self, vaddr: int, size: int, wanted: int, *, pinned: bool = False) -> int:
        """Count the leading bytes of a range that are mapped with the permissions `wanted`; EPERM when it is gone.

        What was pinned needs no permission. Code is not what was pinned: something else has come there.
        """
        position = vaddr
        end = min(vaddr + size, TOP)
        while position < end:
            start, stop, flags = self._area(position)[:3]
            if not start <= position < stop:
                break
            if flags & wanted != wanted and (not pinned or flags & _EXECUTE):
                break
            position = stop
        return max(min(position, end) - vaddr, 0)

    def _area(self, vaddr: int) -> "_Area":
        """Find the area that covers `vaddr`, or the next one, or an empty one."""
        if self._query:
            query = bytearray(_QUERY.size)
            _QUERY.pack_into(query, 0, _QUERY.size, _COVERING_OR_NEXT, vaddr, *[0] * 12)
            try:
                fcntl.ioctl(self._maps, _PROCMAP_QUERY, query)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return _NOTHING
                if error.errno == errno.ESRCH:
                    raise IoctlError(errno.EPERM, "the address space is gone") from None
                self._query = False  # a kernel before 6.11
            else:
                _, _, _, start, stop, flags, _, offset, inode, major, minor, *_ = _QUERY.unpack(query)
                return _Area(start, stop, flags, offset, os.makedev(major, minor), inode)
        return self._area_by_text(vaddr)

    def _area_by_text(self, vaddr: int) -> "_Area":
        """`_area` for kernels without PROCMAP_QUERY."""
        text = b""
        try:
            os.lseek(self._maps, 0, os.SEEK_SET)
            while part := os.read(self._maps, 1 << 16):
                text += part
        except OSError:
            text = b""
        if not text:
            raise IoctlError(errno.EPERM, "the address space is gone")
        for line in text.splitlines():
            span, permissions, offset, device, inode, *_ = line.split(None, 5)
            start, stop = (int(number, 16) for number in span.split(b"-"))
            if stop > vaddr:
                letters = ((_READ, b"r"), (_WRITE, b"w"), (_EXECUTE, b"x"), (_SHARED, b"s"))
                flags = sum(flag for flag, letter in letters if letter in permissions)
                major, minor = (int(number, 16) for number in device.split(b":"))
                return _Area(start, stop, flags, int(offset, 16), os.makedev(major, minor), int(inode))
        return _NOTHING
