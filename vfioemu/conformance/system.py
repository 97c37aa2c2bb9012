# SPDX-License-Identifier: MIT
"""The interface that a replay needs: a process's memory, fds and calls.

Two classes implement it: `inprocess` (the core and an in-memory process) and `live` (a daemon and real memory). Methods that may
wait are coroutines; in process they never wait.
"""

from typing import Protocol

from vfioemu.testing.process import Result


class System(Protocol):
    """One client process and the machine that it talks to."""

    def allocate(self, size: int, protection: str, fill: int, align: int) -> int:
        """Allocate memory with guards around it; return its address."""

    def protect(self, address: int, size: int, protection: str) -> None:
        """Call mprotect(2)."""

    def unmap(self, address: int, size: int) -> None:
        """Call munmap(2)."""

    def peek(self, address: int, size: int) -> bytes:
        """Read the process's own memory."""

    def poke(self, address: int, data: bytes | bytearray) -> None:
        """Write the process's own memory."""

    async def open(self, path: str) -> Result:
        """Open a device node."""

    async def ioctl(self, fd: int, cmd: int, arg: int) -> Result:
        """Make an ioctl with an address or a value."""

    async def read(self, fd: int, address: int, size: int) -> Result:
        """Read from an fd into memory."""

    async def write(self, fd: int, address: int, size: int) -> Result:
        """Write to an fd from memory."""

    async def pread(self, fd: int, address: int, size: int, offset: int) -> Result:
        """Read at an offset."""

    async def pwrite(self, fd: int, address: int, size: int, offset: int) -> Result:
        """Write at an offset."""

    async def mmap(self, fd: int, size: int, protection: str, offset: int) -> tuple[Result, int]:
        """Map an fd, shared; return 0 or an error, and the address."""

    async def poll(self, fd: int) -> int:
        """Return revents for IN, OUT and PRI without waiting."""

    async def close(self, fd: int) -> Result:
        """Close an fd."""

    def eventfd(self) -> int:
        """Make a non-blocking eventfd."""

    def null(self) -> int:
        """Open /dev/null."""

    async def set_parameter(self, name: str, value: str) -> Result:
        """Set a module parameter of the machine."""

    async def limit_memlock(self, size: int) -> None:
        """Give up CAP_IPC_LOCK and set RLIMIT_MEMLOCK."""

    async def locked_kib(self) -> int:
        """Return the locked memory of the process as the machine accounts it (VmLck), in KiB."""

    async def leave(self) -> tuple[str, ...]:
        """End the process; return what it left behind in the machine, in words, empty if nothing."""
