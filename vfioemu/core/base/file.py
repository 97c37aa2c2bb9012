# SPDX-License-Identifier: MIT
"""The struct file and file_operations of an emulated fd.

`release()` runs once, when the last reference to the file is gone (the kernel's ->release(): every dup, fork copy and
SCM_RIGHTS message in flight counts). The defaults are what the kernel answers where a driver has no such operation.
"""

import errno
from typing import NamedTuple

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.profile import DEFAULT, Profile
from vfioemu.uapi.kinds import FdKind

O_RDONLY = 0
O_WRONLY = 1
O_RDWR = 2
PROT_WRITE = 2
POLLIN = 0x1
POLLPRI = 0x2
POLLOUT = 0x4


class Mapped(NamedTuple):
    """The fd and offset that a caller of mmap() maps in the place of the emulated file.

    Attributes:
        fd: of this process; it stays its owner's.
        start: where in it the wanted part begins, a multiple of the page size.
        hides: the device and the region of it whose registers, in hardware, would be there.
    """

    fd: int
    start: int = 0
    hides: tuple[str, int] | None = None


class File:
    """An emulated open file. Subclasses set `kind` and override what they have.

    Attributes:
        kind: what the fd is; ioctl numbers collide between kinds, so dispatch looks here first.
        number: of its device node: a group's; 0 where there is only one, or none.
        access: what it was opened for, O_RDONLY, O_WRONLY or O_RDWR; 3 is for ioctl() only.
    """

    kind: FdKind
    number: int = 0
    access: int = O_RDWR

    @property
    def profile(self) -> Profile:
        """The kernel release whose ioctls it has."""
        return DEFAULT

    @property
    def label(self) -> str:
        """Which one of its kind, for people: a group's number, a device's symbol."""
        return ""

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """ioctl(2): the result (>= 0); raises IoctlError."""
        raise NotImplementedError

    def read(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """read(2) into the caller's `addr`: bytes read; EINVAL without a read operation."""
        yield from ()
        if self.access & O_WRONLY:
            raise IoctlError(errno.EBADF, f"this {self.kind} fd is not open for reading")
        raise IoctlError(errno.EINVAL, f"a {self.kind} fd has no read operation")

    def write(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """write(2) from the caller's `addr`: bytes written; EINVAL without a write operation."""
        yield from ()
        if self.access not in (O_WRONLY, O_RDWR):
            raise IoctlError(errno.EBADF, f"this {self.kind} fd is not open for writing")
        raise IoctlError(errno.EINVAL, f"a {self.kind} fd has no write operation")

    def pread(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """pread(2); EINVAL without a read operation."""
        return (yield from self.read(caller, addr, size))

    def pwrite(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """pwrite(2); EINVAL without a write operation."""
        return (yield from self.write(caller, addr, size))

    def mmap(self, caller: Caller, offset: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
        """mmap(2): what of our own the caller maps in its place; ENODEV without an mmap operation."""
        yield from ()
        raise IoctlError(errno.ENODEV, f"a {self.kind} fd cannot be mapped")

    def poll(self) -> int:
        """poll(2) revents; without a poll operation the kernel says readable and writable."""
        return POLLIN | POLLOUT

    @property
    def poll_is_final(self) -> bool:
        """Tell whether poll() will say the same for as long as the file is open, so that nobody has to look again."""
        return False

    def release(self) -> Steps[None]:
        """Release what the file holds: its last reference is gone."""
        yield from ()
