# SPDX-License-Identifier: MIT
"""Windows: memory of a file that a client has mapped, and that is mapped here too.

Where the file may shrink under us (io/memory/sharing.py), accesses are guarded, and one beyond its end is an EFAULT.
"""

import ctypes
import errno
import mmap
import os
import weakref
from typing import Final

from vfioemu.core.base.effects import Buffer
from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.unmapping import unmapping
from vfioemu.io.base.usage import Usage
from vfioemu.io.memory.mm import PAGE
from vfioemu.io.memory.pages import FileId
from vfioemu.native import guard
from vfioemu.syscalls.procmem import address_of

_libc: Final = ctypes.CDLL(None, use_errno=True)
_mmap: Final = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_FAILED: Final = ctypes.c_void_p(-1).value


class Window:
    """Memory of a client that is mapped here too, for as long as this object lives.

    Attributes:
        vaddr, end: where the client has it.
        local: where we have it.
        file, offset: what of which file it is.
        reserved: it is a device's memory.
        on_disk: the file is written back to somewhere.
    """

    __slots__ = ("__weakref__", "_fd", "end", "file", "local", "offset", "on_disk", "reserved", "vaddr")

    def __init__(
        self, vaddr: int, size: int, fd: int, offset: int, usage: Usage, *, guarded: bool = False
    ) -> None:
        self.vaddr = vaddr
        self.end = vaddr + size
        self.reserved = self.on_disk = False
        self._fd = -1
        self.offset = offset
        status = os.fstat(fd)
        self.file: FileId = status.st_dev, status.st_ino
        if guarded:
            guard.install()
            self._fd = os.dup(fd)
        local = _mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, offset)
        if local == _FAILED:
            error = ctypes.get_errno()
            if guarded:
                os.close(self._fd)
            raise IoctlError(error, f"mapping {size:#x} bytes of shared memory: {os.strerror(error)}")
        self.local: int = local
        usage.add(1, size)
        if guarded:
            usage.add_fds(1)
        unmapping.begin()
        weakref.finalize(self, usage.unmap, local, size, self._fd)

    def read(self, vaddr: int, size: int) -> bytes:
        """Read for a device: EFAULT where the file has come to end."""
        local = self.local + vaddr - self.vaddr
        if self._fd < 0:
            return ctypes.string_at(local, size)
        data = guard.read(local, size)
        if data is None:
            raise IoctlError(
                errno.EFAULT, f"the file behind {size:#x} bytes at {vaddr:#x} has become shorter"
            )
        return data

    def write(self, vaddr: int, data: Buffer) -> None:
        """Write for a device, as far as possible: EFAULT as in `read`."""
        local = self.local + vaddr - self.vaddr
        size = memoryview(data).nbytes
        if self._fd < 0:
            source, keep = address_of(data)
            ctypes.memmove(local, source, size)
            del keep
        elif (done := guard.write(local, data)) < size:
            raise IoctlError(errno.EFAULT, f"the file behind {vaddr + done:#x} has become shorter")

    def present(self, vaddr: int, npages: int) -> int:
        """Count the leading pages that the file has now."""
        if self._fd < 0:
            return npages
        start = vaddr - self.vaddr + self.offset
        return max(min((os.fstat(self._fd).st_size - start + PAGE - 1) // PAGE, npages), 0)
