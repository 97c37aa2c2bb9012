# SPDX-License-Identifier: MIT
"""The requests of a handler to its driver: copy_from_user is a yield.

An ioctl handler needs the caller's memory *while* it works (argsz first, the rest after it, then `bitmap.data`), so
"feed bytes, get an answer" is not enough. A handler is a generator of effects; a driver performs each one and sends
back the result, or throws `IoctlError` into the handler. One core, many drivers: the daemon's call channels, the
in-memory process of tests and golden traces, later vfio-user. A fault can be injected at every yield.

A handler is never abandoned. If its caller dies, each further effect answers EFAULT and the handler runs to its end,
so that locks are released and no state is left half-made.

What comes back from each effect, and what may be thrown into the handler:

=============  ================================  ==========================================================
effect         result                            thrown
=============  ================================  ==========================================================
ReadUser       bytes of exactly `size`           EFAULT
WriteUser      None                              EFAULT, after as many bytes were written as could be
PinUser        int: leading pages that are       nothing (a short count says where it stopped)
               present (and writable)
TakeFd         File, EventFd or ForeignFd        EBADF
GiveFd         int: the new fd in the caller     EMFILE
RevokeFd       None                              nothing
Signal         None                              nothing
Watch          Watcher                           nothing
Abandoned      bool: nobody has an fd of it      nothing
DmaRead        bytes of exactly `size`           EFAULT; EPERM when the address space is gone
DmaWrite       None                              EFAULT (a prefix may have been written); EPERM as above
PagesRead      bytes of exactly `size`           EFAULT: the memory has been lost
PagesWrite     None                              EFAULT (a prefix may have been written)
AllocatePages  SharedMemory                      ENOMEM
Current        AddressSpace, or None             nothing
Locked         None: the lock is held            nothing
Breathe        None                              nothing
=============  ================================  ==========================================================

`ReadUser` and `WriteUser` mean the *calling* process of this call. `DmaRead`, `DmaWrite` and `PinUser` name an
address space, because vfio_dma_rw() goes to whoever called MAP_DMA. `PagesRead` and `PagesWrite` name what an IOMMU
holds, wherever that is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

from vfioemu.uapi.kinds import FdKind

if TYPE_CHECKING:
    from vfioemu.core.base.caller import AddressSpace
    from vfioemu.core.base.locks import Lock
    from vfioemu.core.base.pages import Pages

T = TypeVar("T")

Buffer: TypeAlias = bytes | bytearray | memoryview
"""The bytes that an effect carries; a bitmap is passed as a memoryview, never copied on the way."""


class EventFd(ABC):
    """An eventfd that the caller gave us: a reference that stays valid after the caller closes its own.

    Drivers subclass it, so that `isinstance` tells it from a File and from a ForeignFd.
    """

    __slots__ = ()

    @abstractmethod
    def signal(self) -> None:
        """Add one to its count, at most up to the largest value, without waiting (eventfd_signal()).

        For drivers, which perform `Signal` so; a handler yields that effect, or a trace and a test would not see it.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop the reference (eventfd_ctx_put())."""


class Installable(Protocol):
    """An open file of ours, of which an fd can be made. It is a File (file.py), which is made of effects itself."""

    kind: FdKind

    @property
    def label(self) -> str:
        """Which one of its kind, for people."""

    def release(self) -> "Steps[None]":
        """Run when the last reference to the file is gone."""


class SharedMemory(Protocol):
    """Zeroed memory that a caller can map, of a size that nobody can change.

    Attributes:
        fd: to be given to who maps it, from offset 0 on; it belongs to this object.
        view: the bytes. Callers change them at any time: copy before looking.
    """

    fd: int
    view: Any

    def close(self) -> None:
        """Unmap it here and give up the fd; the mappings of callers stay as they are."""


@dataclass(frozen=True, slots=True)
class ForeignFd:
    """An open fd of the caller that is neither ours nor an eventfd; only its existence matters (EBADFD, EINVAL)."""

    number: int


@dataclass(frozen=True, slots=True)
class ReadUser:
    """copy_from_user(): `size` bytes of the caller's memory at `addr`."""

    addr: int
    size: int


@dataclass(frozen=True, slots=True)
class WriteUser:
    """copy_to_user(): as far as possible, then EFAULT."""

    addr: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class PinUser:
    """pin_user_pages(): how many of `npages` 4 KiB pages from `vaddr` are present (and writable); changes no byte."""

    space: "AddressSpace"
    vaddr: int
    npages: int
    write: bool


@dataclass(frozen=True, slots=True)
class TakeFd:
    """fget(): what the caller's fd `number` is. For an eventfd a reference is taken (close it when done)."""

    number: int


@dataclass(frozen=True, slots=True)
class GiveFd:
    """fd_install(): a new fd (O_CLOEXEC) of the caller for `file`; on EMFILE the handler must undo `file`."""

    file: "Installable"


@dataclass(frozen=True, slots=True)
class RevokeFd:
    """put_unused_fd(): take back the fd `number` that GiveFd has just made; its file gets no release() from it."""

    number: int


@dataclass(frozen=True, slots=True)
class Signal:
    """eventfd_signal(): add one; a saturated counter counts as signalled; never blocks."""

    eventfd: EventFd


class Watcher(Protocol):
    """An eventfd that is watched."""

    def close(self) -> None:
        """Stop watching, and drop the reference to the eventfd."""


@dataclass(frozen=True, slots=True)
class Watch:
    """vfio_virqfd_enable(): from now on, whenever `eventfd` is signalled, take its count away and run `then`.

    The reference to the eventfd is the watcher's from then on. An eventfd that is signalled already counts at once.
    """

    eventfd: EventFd
    then: "Callable[[], Steps[None]]"


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Ask whether every process has closed its fds of an eventfd to which we hold a reference: the kernel was told (EPOLLHUP).

    An fd that lies unread in a socket is not seen, and counts as closed.
    """

    eventfd: EventFd


@dataclass(frozen=True, slots=True)
class DmaRead:
    """Read guest memory for a device: `size` bytes at `vaddr` of `space`."""

    space: "AddressSpace"
    vaddr: int
    size: int


@dataclass(frozen=True, slots=True)
class DmaWrite:
    """Write guest memory for a device. The dirty mark is set by the handler *after* this returns, never before."""

    space: "AddressSpace"
    vaddr: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class PagesRead:
    """Read `size` bytes from `offset` of pinned pages, for hardware."""

    pages: "Pages"
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PagesWrite:
    """Write to pinned pages, for hardware. The dirty mark comes after it, as for `DmaWrite`."""

    pages: "Pages"
    offset: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class AllocatePages:
    """alloc_pages() for a region that callers map: `size` bytes, a multiple of 4096, under `name` in /proc/PID/maps."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Current:
    """current->mm: the address space of whoever made this call; None where nobody did, as in a kernel thread."""


@dataclass(frozen=True, slots=True)
class Locked:
    """Take `lock`; the handler releases it itself, in a finally."""

    lock: "Lock"


@dataclass(frozen=True, slots=True)
class Breathe:
    """cond_resched(): a slice of work is done; others may be served now, whatever locks the handler holds.

    A driver may do the same at any other effect. This one is for loops that have none: see core/base/slices.py.
    """


Effect: TypeAlias = (
    ReadUser
    | WriteUser
    | PinUser
    | TakeFd
    | GiveFd
    | RevokeFd
    | Signal
    | Watch
    | Abandoned
    | DmaRead
    | DmaWrite
    | PagesRead
    | PagesWrite
    | AllocatePages
    | Current
    | Locked
    | Breathe
)

Steps: TypeAlias = Generator[Effect, Any, T]
"""A handler: yields effects, gets their results, returns T. Typed wrappers below keep `Any` out of handlers."""

MaybeSteps: TypeAlias = T | Steps[T]
"""The result of a callback: the answer itself, or a generator of effects that returns it."""


def finish(value: MaybeSteps[T]) -> Steps[T]:
    """Run a callback's result to its end, whichever of the two kinds it is."""
    if isinstance(value, Generator):
        return cast("T", (yield from value))
    return value


def read_user(addr: int, size: int) -> Steps[bytes]:
    """Copy `size` bytes from the caller; EFAULT."""
    data: bytes = yield ReadUser(addr, size)
    return data


def write_user(addr: int, data: Buffer) -> Steps[None]:
    """Copy `data` to the caller, as far as possible; EFAULT."""
    yield WriteUser(addr, data)


def current() -> Steps["AddressSpace | None"]:
    """Ask who calls."""
    space: AddressSpace | None = yield Current()
    return space


def allocate_pages(name: str, size: int) -> Steps[SharedMemory]:
    """Allocate memory that callers can map; ENOMEM."""
    memory: SharedMemory = yield AllocatePages(name, size)
    return memory


def locked(lock: "Lock") -> Steps[None]:
    """Take a lock."""
    yield Locked(lock)
