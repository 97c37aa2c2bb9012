# SPDX-License-Identifier: MIT
"""What carries system calls to this daemon: the interface between a way to call us and everything behind it.

Read this before you write a second transport; docs/transport.md takes you through it with an example.

The core answers calls, and yields an effect wherever it needs its caller: `copy_from_user`, an fd of his, his pages
(core/base/effects.py). The driver (driver.py) performs effects and knows no message. A transport knows the messages and performs
nothing: it says which call has come, carries the result back, and is asked for exactly what belongs to the caller and cannot be
had otherwise, his memory and his fds. So it consists of two things:

* `Transport`: receive a call, reply to it. One object for each connection on which one call at a time is made;
  `Dispatcher.serve` (dispatch.py) takes its calls one after the other until it says that there are no more.
* `CallerAccess`: the memory and the fds of whoever made the call in progress.

Why is that not one interface of asynchronous methods? Because most calls need nobody to be waited for: the shim's client sends
the bytes behind the argument along with the call. So whatever is usually at hand comes in two forms, `read_now` and `read`: the
driver calls the first in a plain loop, and only when it says "not now" does it await the second. A call that never waits costs
one turn of the event loop. (Tried: each effect awaited. One that waits for nothing then takes a
third longer, 0.37 us for 0.28 us; nearly all wait for nothing.)

What holds for every method here:

* **Errors.** `IoctlError(errno, why)` refuses; the handler sees it as the result of its effect, and `why` is what a trace shows.
  `Gone` says that the caller is not there any more; the handler sees EFAULT. Any other exception is a bug: the caller gets EIO,
  the log the traceback.
* **Blocking.** A method that is not `async` must not wait for the caller, nor for anything that a caller controls (a file on
  FUSE, a full socket). A method that is `async` may, but has a time limit of its own, and is shielded from cancellation: a
  handler is never abandoned half-way, since it may hold the container's lock. When the time is over, raise `Gone`.
* **Lifetime.** One call at a time. From `receive` to the end of `reply` the call's file must not be released: that is fdget(). An
  fd that `take_fd` looked at, and one that `give_fd` made, count as held by the call as well until `reply`.
* **Order.** Whatever a client did before it sent a call (closed an fd, signalled an eventfd) must have had its effect when that
  call's handler starts. `Dispatcher.poller` is for that: `reap` it before the call's file is looked up.
"""

import errno
from collections.abc import Callable
from typing import Final, Literal, NoReturn, Protocol, TypeAlias

from vfioemu.core.base.caller import AddressSpace, Caller
from vfioemu.core.base.effects import Buffer, EventFd, ForeignFd, Steps, Watcher
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File, Mapped
from vfioemu.io.base.throttle import Throttle
from vfioemu.io.base.turns import Share

Op: TypeAlias = Literal["ioctl", "read", "write", "pread", "pwrite", "mmap"]
"""A system call on an open file."""
IOCTL: Final = "ioctl"
READ: Final = "read"
WRITE: Final = "write"
PREAD: Final = "pread"
PWRITE: Final = "pwrite"
MMAP: Final = "mmap"


class Gone(Exception):
    """The caller is not there any more, or has run out of time."""


class Client(Protocol):
    """A process that calls, for the log and for traces. ``str()`` of it begins a line of the log.

    Attributes:
        talk: bounds how many of its refused calls are logged.
    """

    talk: Throttle

    @property
    def pid(self) -> int:
        """Its pid as this process sees it; 0 if that is not known."""

    def comm(self) -> str:
        """Return what the process is called. Asked for when somebody listens to traces: it cannot be when it has gone.

        Raises:
            OSError: nobody can tell.
        """

    def files_open(self) -> int:
        """Count the emulated files that the process holds, over all its connections."""


class Call:
    """A call that a transport has received. It may use one object for all calls of a connection.

    Attributes:
        op: which system call.
        file: the open file on which it is made.
        args: what follows the fd in the call, as unsigned numbers: ``(cmd, arg)`` of ioctl, ``(address, size)`` of read and
            write, ``(address, size, offset)`` of pread and pwrite, ``(offset, size, prot, 1 if MAP_SHARED)`` of mmap.
        caller: who makes it.
        fd: the number of the file in the caller, for traces; -1 if that is not known.
        on: what the log calls the file; ``str()`` of it is made for refused calls only.
    """

    __slots__ = ("args", "caller", "fd", "file", "on", "op")

    op: Op
    file: File
    args: tuple[int, ...]
    caller: Caller
    fd: int
    on: object


class CallerAccess(Protocol):
    """The memory and the fds of whoever makes the call in progress. ``str()`` of it names him in the log."""

    @property
    def space(self) -> AddressSpace | None:
        """His address space (current->mm). Pinned pages and DMA go there later, whoever calls then; see memory/space.py."""

    @property
    def given(self) -> dict[int, File]:
        """What `give_fd` has made in this call and `revoke_fd` has not taken back, by its number in the caller."""

    # --- memory ---

    def read_now(self, address: int, size: int) -> bytes | None:
        """copy_from_user(): exactly `size` bytes at an address of the caller; None if that has to be waited for.

        Raises:
            IoctlError: EFAULT: some of it cannot be read.
        """

    async def read(self, address: int, size: int) -> bytes:
        """Do the same, and wait for it. `read_now` has said None."""

    def write_now(self, address: int, data: Buffer) -> bool:
        """copy_to_user(); False if that has to be waited for, and then nothing has been written.

        Raises:
            IoctlError: EFAULT, after as many bytes as could be written.
        """

    async def write(self, address: int, data: Buffer) -> None:
        """Do the same, and wait for it. `write_now` has said False."""

    def holds(self, space: object, vaddr: int, size: int) -> bool:
        """Tell whether a copy of some of that memory lies here, which a device must not miss: `flush` comes before its access.

        That is so for a transport that got bytes along with the call. One that always reads and writes the memory itself, says
        False.
        """

    async def flush(self) -> None:
        """Bring what was written to such a copy to the caller, and do without the copy for the rest of the call."""

    # --- fds ---

    async def take_fd(self, number: int) -> File | EventFd | ForeignFd:
        """fget(): what the caller's fd is: a file of ours, an eventfd (a new reference, the handler closes it), or neither.

        Raises:
            IoctlError: EBADF: it is not open; ENOMEM: we have no fd for it, or he has as many eventfds here as he may.
        """

    async def give_fd(self, file: File) -> int:
        """fd_install(): make a new fd of the caller, with FD_CLOEXEC, for `file`: its number.

        Raises:
            IoctlError: EMFILE: he, or we, have no more. The handler undoes what it did for `file`.
        """

    async def revoke_fd(self, number: int) -> None:
        """Take back an fd that `give_fd` has made in this call; its file gets no release() for it."""

    def watch(self, eventfd: EventFd, then: Callable[[], Steps[None]]) -> Watcher:
        """Run `then` whenever the eventfd, which `take_fd` has made, is signalled (base/watch.py is for real ones).

        Raises:
            IoctlError: ENOSPC: no more can be watched.
        """

    async def abandoned(self, eventfd: EventFd) -> bool:
        """Tell whether no process has an fd of it any more; False if nobody can tell (base/holders.py is for real ones)."""


class Transport(Protocol):
    """One connection on which one call at a time is made."""

    @property
    def client(self) -> Client:
        """Who is at the other end."""

    @property
    def share(self) -> Share:
        """Whose part of the daemon's time its calls use up (base/turns.py). The transport waits for its turn in `receive`."""

    @property
    def access(self) -> CallerAccess:
        """The memory and the fds of the caller. It is the same object for all calls."""

    async def receive(self) -> Call | None:
        """Wait for the next call; None when there will be no more.

        Whatever else comes on the connection (a greeting, open(2)) is answered in here, and never seen outside. So is a call
        on an fd that is none of ours: EBADF.

        Raises:
            Gone: the client is not there any more. Anything else ends the connection as well.
        """

    def show(self, mapped: Mapped) -> None:
        """Prepare that `reply` hands over the file of an mmap() that has succeeded.

        `mapped.fd` stays the device's own, and may be closed before the reply is sent: duplicate it.

        Raises:
            IoctlError: EMFILE: he, or we, have no more fds; this is what the call returns then.
        """

    async def reply(self, result: int) -> None:
        """Answer the call with its result, or a negative errno, and let go of its files (fdput(), which may release them).

        Raises:
            Gone: nobody takes the answer. What the call did has been done.
        """


class Nobody:
    """The `CallerAccess` of work that nobody called for: releases, and what devices do by themselves."""

    __slots__ = ()
    space: Final = None
    given: Final[dict[int, File]] = {}

    def __str__(self) -> str:
        return "the daemon's own work"

    def read_now(self, address: int, size: int) -> NoReturn:
        """EFAULT."""
        raise _no_caller("ReadUser")

    def write_now(self, address: int, data: Buffer) -> NoReturn:
        """EFAULT."""
        raise _no_caller("WriteUser")

    def holds(self, space: object, vaddr: int, size: int) -> bool:
        """Nothing."""
        return False

    async def flush(self) -> None:
        """Do nothing."""

    def watch(self, eventfd: EventFd, then: Callable[[], Steps[None]]) -> NoReturn:
        """EFAULT."""
        raise _no_caller("Watch")

    async def read(self, address: int, size: int) -> NoReturn:
        """EFAULT."""
        raise _no_caller("ReadUser")

    async def write(self, address: int, data: Buffer) -> NoReturn:
        """EFAULT."""
        raise _no_caller("WriteUser")

    async def take_fd(self, number: int) -> NoReturn:
        """EFAULT."""
        raise _no_caller("TakeFd")

    async def give_fd(self, file: File) -> NoReturn:
        """EFAULT."""
        raise _no_caller("GiveFd")

    async def revoke_fd(self, number: int) -> NoReturn:
        """EFAULT."""
        raise _no_caller("RevokeFd")

    async def abandoned(self, eventfd: EventFd) -> NoReturn:
        """EFAULT."""
        raise _no_caller("Abandoned")


NOBODY: Final = Nobody()


def _no_caller(effect: str) -> IoctlError:
    return IoctlError(errno.EFAULT, f"{effect} without a caller")
