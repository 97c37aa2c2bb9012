# SPDX-License-Identifier: MIT
"""An in-memory client process: memory, a table of fds, and the system calls, without a process or a socket.

The conformance runner, the fuzzer and the property tests drive the core with it. `Process` answers what the kernel's
system call layer answers (EBADF, EFAULT, ENOTTY on foreign fds); everything else comes from the core. Several fds, of
several processes, may refer to one open file; its release() runs when the last is gone.
"""

import errno
import mmap
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol, TypeVar

from vfioemu.core.base.caller import AddressSpace, Caller
from vfioemu.core.base.effects import (
    Abandoned,
    AllocatePages,
    Breathe,
    Buffer,
    Current,
    DmaRead,
    DmaWrite,
    Effect,
    ForeignFd,
    GiveFd,
    PagesRead,
    PagesWrite,
    PinUser,
    ReadUser,
    RevokeFd,
    Signal,
    Steps,
    TakeFd,
    Watch,
    Watcher,
    WriteUser,
)
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import POLLIN, POLLOUT, POLLPRI, File
from vfioemu.core.base.pages import Holder
from vfioemu.syscalls.shared_pages import SharedPages
from vfioemu.testing import files
from vfioemu.testing.files import (
    EVENTFD_MAX,
    MemoryEventFd,
    MemoryWatcher,
    NullDevice,
    OpenFile,
    Result,
    errno_name,
)
from vfioemu.testing.memory import PAGE, Memory
from vfioemu.testing.pages import MemoryPages
from vfioemu.testing.scheduler import Scheduler, Task

__all__ = ["MemoryEventFd", "NullDevice", "OpenFile", "Process", "Result", "errno_name"]

T = TypeVar("T")

FIRST_FD: Final = 3
MAX_FDS: Final = 1024
"""RLIMIT_NOFILE."""
DEFAULT_MEMLOCK: Final = 8 << 20
_HEARERS: Final = 64

_NEVER_FAILS: Final = frozenset({Breathe, RevokeFd, Signal, Watch, Current})


class Opener(Protocol):
    """The opener of device nodes: a Machine."""

    def open(self, caller: Caller, path: str) -> Steps[File]:
        """Open `path`."""


class Process(AddressSpace):
    """A client process.

    Args:
        machine: opens /dev/vfio/*.
        scheduler: shared by all processes of a test whose calls shall interleave.
        ipc_lock: it has CAP_IPC_LOCK.
        memlock: RLIMIT_MEMLOCK in bytes.
        pid: for logs.
        kernel_thread: what is done in its name is nobody's call: a device's own work.
    """

    def __init__(
        self,
        machine: Opener,
        *,
        scheduler: Scheduler | None = None,
        ipc_lock: bool = True,
        memlock: int = DEFAULT_MEMLOCK,
        pid: int = 1,
        kernel_thread: bool = False,
    ) -> None:
        super().__init__()
        self.machine = machine
        self.scheduler = scheduler or Scheduler()
        self.memory = Memory()
        self.fds: dict[int, OpenFile] = {}
        self.alive = True
        self.fallible = 0
        self._kernel_thread = kernel_thread
        self._memlock = memlock
        self._faults: dict[int, int] = {}
        self._ipc_lock = ipc_lock
        self._pid = pid

    # --- as the core sees it ---

    @property
    def caller(self) -> Caller:
        """The calling thread."""
        return Caller(space=self, pid=self._pid, ipc_lock=self._ipc_lock)

    def gone(self) -> bool:
        """Tell whether the process has exited."""
        return not self.alive

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes."""
        return self._memlock

    def window(self, vaddr: int, size: int) -> int | None:
        """Return the address in this process of memory allocated with ``shared=True``, or None."""
        return self.memory.window(vaddr, size)

    def pages(self, vaddr: int, size: int, holder: Holder) -> MemoryPages:
        """Hold the allocations that are there."""
        return MemoryPages(self.memory, vaddr, size)

    def perform(self, effect: Effect, task: Task[Any]) -> object:
        """Carry out an effect of a call that this process made."""
        if isinstance(effect, TakeFd):
            return self._take_fd(effect, task)
        handler = self._effects[type(effect)]
        if not self._faults or type(effect) in _NEVER_FAILS:
            self.fallible += type(effect) not in _NEVER_FAILS
            return handler(self, effect)
        self.fallible += 1
        fault = self._faults.pop(self.fallible, None)
        return handler(self, effect) if fault is None else self._fail(effect, fault)

    def inject(self, nth: int, fault: int = errno.EFAULT) -> None:
        """Let the nth effect from now on that can fail do so: half of a write arrives, half of the pages are there."""
        self._faults[self.fallible + nth] = fault

    def heal(self) -> bool:
        """Forget all faults that have not happened; returns whether there were any."""
        pending = bool(self._faults)
        self._faults.clear()
        return pending

    def pending_fault(self) -> int | None:
        """Return the errno of a fault that has not happened yet."""
        return next(iter(self._faults.values()), None)

    def limit_memlock(self, size: int) -> None:
        """Give up CAP_IPC_LOCK and set RLIMIT_MEMLOCK."""
        self._ipc_lock = False
        self._memlock = size

    # --- system calls ---

    def open(self, path: str) -> Result:
        """Open a node read-write: a new fd; EMFILE, and what the machine answers."""
        return self._finish(self.start(self._open(path), "open"))

    def ioctl(self, fd: int, cmd: int, arg: int) -> Result:
        """Make an ioctl; EBADF, ENOTTY on what is not ours, and what the core answers."""
        return self._file_call(
            fd, lambda file: file.ioctl(self.caller, cmd & 0xFFFFFFFF, arg & 0xFFFFFFFFFFFFFFFF), errno.ENOTTY
        )

    def start_ioctl(self, fd: int, cmd: int, arg: int, name: str = "ioctl") -> Task[int]:
        """Begin an ioctl on one of our files and leave it to the scheduler (`Scheduler.step`, `run`)."""
        opened = self.fds[fd]
        if not isinstance(opened.what, File):
            raise TypeError(f"fd {fd} is not one of ours")
        return self._spawn(opened, opened.what.ioctl(self.caller, cmd, arg), name)

    def start_call(
        self, fd: int, serve: Callable[[File, Caller], Steps[int]], name: str = "call"
    ) -> Task[int]:
        """Begin any call on one of our files and leave it to the scheduler."""
        opened = self.fds[fd]
        if not isinstance(opened.what, File):
            raise TypeError(f"fd {fd} is not one of ours")
        return self._spawn(opened, serve(opened.what, self.caller), name)

    def read(self, fd: int, addr: int, size: int) -> Result:
        """Read into memory; EBADF."""
        opened = self.fds.get(fd)
        if opened is not None and isinstance(opened.what, MemoryEventFd):
            return files.read_eventfd(opened.what, self.memory, addr, size)
        return self._file_call(fd, lambda file: file.read(self.caller, addr, size), errno.EINVAL)

    def write(self, fd: int, addr: int, size: int) -> Result:
        """Write from memory; EBADF."""
        opened = self.fds.get(fd)
        if opened is not None and isinstance(opened.what, MemoryEventFd):
            result = files.write_eventfd(opened.what, self.memory, addr, size)
            if self.scheduler.choose is None:
                self.scheduler.run_all(_HEARERS)  # whatever watches it
            return result
        return self._file_call(fd, lambda file: file.write(self.caller, addr, size), errno.EINVAL)

    def pread(self, fd: int, addr: int, size: int, offset: int) -> Result:
        """Read at an offset; EINVAL for negative ones, EBADF."""
        if offset >> 63:
            return Result(-1, "EINVAL")
        return self._file_call(fd, lambda file: file.pread(self.caller, addr, size, offset), errno.ESPIPE)

    def pwrite(self, fd: int, addr: int, size: int, offset: int) -> Result:
        """Write at an offset; EINVAL for negative ones, EBADF."""
        if offset >> 63:
            return Result(-1, "EINVAL")
        return self._file_call(fd, lambda file: file.pwrite(self.caller, addr, size, offset), errno.ESPIPE)

    def mmap(self, fd: int, size: int, prot: str, offset: int) -> Result:
        """Map a file shared; the result of success is 0."""
        bits = {"rw": mmap.PROT_READ | mmap.PROT_WRITE, "r": mmap.PROT_READ, "none": 0}[prot]
        call = self.caller, offset, size, bits
        mapped = self._file_call(fd, lambda file: files.fd_of(file.mmap(*call, shared=True)), errno.ENODEV)
        return mapped if mapped.err else Result(0)

    def poll(self, fd: int) -> int:
        """Ask for IN, OUT and PRI with no time to wait: revents (0 for a negative fd)."""
        opened = self.fds.get(fd)
        if opened is None:
            return 0 if fd < 0 else 0x20  # POLLNVAL
        what = opened.what
        if isinstance(what, File):
            return what.poll() & (POLLIN | POLLOUT | POLLPRI)
        if isinstance(what, MemoryEventFd):
            return (POLLIN if what.count else 0) | (POLLOUT if what.count < EVENTFD_MAX else 0)
        return POLLIN | POLLOUT

    def close(self, fd: int) -> Result:
        """Close an fd; EBADF."""
        opened = self.fds.pop(fd, None)
        if opened is None:
            return Result(-1, "EBADF")
        self._put(opened)
        return Result(0)

    def dup(self, fd: int) -> int:
        """Make a second fd for the same open file."""
        return self.install(self.fds[fd])

    def send(self, fd: int, receiver: "Process") -> int:
        """SCM_RIGHTS: give another process an fd for the same open file; returns its number there."""
        return receiver.install(self.fds[fd])

    def eventfd(self) -> int:
        """Make a non-blocking eventfd."""
        eventfd = MemoryEventFd()
        eventfd.opened = OpenFile(eventfd)
        return self.install(eventfd.opened)

    def null(self) -> int:
        """open("/dev/null", O_RDWR)."""
        return self.install(OpenFile(NullDevice()))

    def exit(self) -> None:
        """End the process: first its memory goes (exit_mm), then its fds are closed, lowest first (exit_files)."""
        self.alive = False
        for fd in sorted(self.fds):
            self.close(fd)

    def start(self, steps: Steps[T], name: str = "task") -> Task[T]:
        """Leave any generator of effects to the scheduler, in the name of this process."""
        return self.scheduler.spawn(steps, self, name)

    # --- inside ---

    def _open(self, path: str) -> Steps[int]:
        file = yield from self.machine.open(self.caller, path)
        try:
            number: int = yield GiveFd(file)
        except IoctlError:
            yield from file.release()
            raise
        return number

    def _file_call(self, fd: int, call: Callable[[File], Steps[int]], foreign: int) -> Result:
        opened = self.fds.get(fd)
        if opened is None:
            return Result(-1, "EBADF")
        if not isinstance(opened.what, File):
            return Result(-1, errno_name(foreign))
        return self._finish(self._spawn(opened, call(opened.what), "call"))

    def _spawn(self, opened: OpenFile, steps: Steps[T], name: str) -> Task[T]:
        """Keep the file open while a call on it runs (fdget): a close() meanwhile releases it afterwards."""
        task = self.scheduler.spawn(steps, self, name)
        self._hold(opened, task)
        return task

    def _hold(self, opened: OpenFile, task: Task[Any]) -> None:
        opened.references += 1
        task.at_end.append(lambda: self._put(opened))

    def _finish(self, task: Task[int]) -> Result:
        try:
            return Result(self.scheduler.run(task))
        except IoctlError as error:
            return Result(-1, errno_name(error.errno))

    def install(self, opened: OpenFile) -> int:
        """Give an open file the lowest free fd; EMFILE."""
        number = FIRST_FD
        while number in self.fds:
            number += 1
        if number >= MAX_FDS:
            raise IoctlError(errno.EMFILE, f"{MAX_FDS} fds are open")
        opened.references += 1
        self.fds[number] = opened
        return number

    def _put(self, opened: OpenFile) -> None:
        opened.references -= 1
        if opened.references == 0 and isinstance(opened.what, File):
            self.scheduler.call(opened.what.release(), self, "release")

    # --- effects ---

    def _fail(self, effect: Effect, fault: int) -> object:
        if isinstance(effect, PinUser):
            return min(effect.npages // 2, self._pin_user(effect))
        if isinstance(effect, WriteUser) and self.alive:
            self.memory.write(effect.addr, memoryview(effect.data).cast("B")[: len(effect.data) // 2])
        if isinstance(effect, DmaWrite):
            self._dma_write(DmaWrite(effect.space, effect.vaddr, effect.data[: len(effect.data) // 2]))
        if isinstance(effect, PagesWrite):
            self._pages_write(PagesWrite(effect.pages, effect.offset, effect.data[: len(effect.data) // 2]))
        raise IoctlError(fault, "a fault was injected here")

    def _read_user(self, effect: ReadUser) -> bytes:
        data = self.memory.read(effect.addr, effect.size) if self.alive else b""
        if len(data) != effect.size:
            raise IoctlError(errno.EFAULT, f"cannot read {effect.addr:#x}+{effect.size:#x}")
        return data

    def _write_user(self, effect: WriteUser) -> None:
        self._store(self, effect.addr, effect.data)

    def _store(self, process: "Process", addr: int, data: Buffer) -> None:
        size = memoryview(data).nbytes
        if not process.alive or process.memory.write(addr, data) != size:
            raise IoctlError(errno.EFAULT, f"cannot write {addr:#x}+{size:#x}")

    def _pin_user(self, effect: PinUser) -> int:
        owner = _process(effect.space)
        if not owner.alive:
            return 0
        return owner.memory.accessible(effect.vaddr, effect.npages * PAGE, write=effect.write) // PAGE

    def _take_fd(self, effect: TakeFd, task: Task[Any]) -> File | MemoryEventFd | ForeignFd:
        self.fallible += 1
        if (fault := self._faults.pop(self.fallible, None)) is not None:
            raise IoctlError(fault, "a fault was injected here")
        opened = self.fds.get(effect.number)
        if opened is None:
            raise IoctlError(errno.EBADF, f"fd {effect.number} is not open")
        if isinstance(opened.what, MemoryEventFd):
            opened.what.references += 1
            return opened.what
        if isinstance(opened.what, NullDevice):
            return ForeignFd(effect.number)
        self._hold(opened, task)
        return opened.what

    def _give_fd(self, effect: GiveFd) -> int:
        file = effect.file
        assert isinstance(file, File)
        return self.install(OpenFile(file))

    def _revoke_fd(self, effect: RevokeFd) -> None:
        del self.fds[effect.number]

    def _allocate_pages(self, effect: AllocatePages) -> SharedPages:
        try:
            return SharedPages(effect.name, effect.size)
        except OSError as error:
            raise IoctlError(errno.ENOMEM, f"no memory for {effect.name}: {error}") from error

    def _breathe(self, effect: Breathe) -> None:
        """Do nothing: the scheduler lets others go on after any effect, if anybody is to."""

    def _signal(self, effect: Signal) -> None:
        if not isinstance(effect.eventfd, MemoryEventFd):
            raise TypeError("an eventfd of another driver")
        effect.eventfd.signal()

    def _watch(self, effect: Watch) -> Watcher:
        if not isinstance(effect.eventfd, MemoryEventFd):
            raise TypeError("an eventfd of another driver")
        return MemoryWatcher(effect.eventfd, lambda: self.scheduler.spawn(effect.then(), self, "eventfd"))

    def _abandoned(self, effect: Abandoned) -> bool:
        if not isinstance(effect.eventfd, MemoryEventFd):
            raise TypeError("an eventfd of another driver")
        return not effect.eventfd.opened.references

    def _dma_read(self, effect: DmaRead) -> bytes:
        owner = _process(effect.space)
        if not owner.alive:
            raise IoctlError(errno.EPERM, "the address space is gone")
        data = owner.memory.read(effect.vaddr, effect.size)
        if len(data) != effect.size:
            raise IoctlError(errno.EFAULT, f"cannot read {effect.vaddr:#x}+{effect.size:#x}")
        return data

    def _dma_write(self, effect: DmaWrite) -> None:
        owner = _process(effect.space)
        if not owner.alive:
            raise IoctlError(errno.EPERM, "the address space is gone")
        self._store(owner, effect.vaddr, effect.data)

    def _pages_read(self, effect: PagesRead) -> bytes:
        return _pages(effect).read(effect.offset, effect.size)

    def _pages_write(self, effect: PagesWrite) -> None:
        _pages(effect).write(effect.offset, effect.data)

    def _current(self, effect: Current) -> "Process | None":
        return None if self._kernel_thread else self

    _effects: ClassVar[Mapping[type, Callable[..., object]]] = {
        ReadUser: _read_user,
        WriteUser: _write_user,
        PinUser: _pin_user,
        GiveFd: _give_fd,
        RevokeFd: _revoke_fd,
        Signal: _signal,
        AllocatePages: _allocate_pages,
        Breathe: _breathe,
        Watch: _watch,
        Abandoned: _abandoned,
        DmaRead: _dma_read,
        DmaWrite: _dma_write,
        PagesRead: _pages_read,
        PagesWrite: _pages_write,
        Current: _current,
    }


def _pages(effect: PagesRead | PagesWrite) -> MemoryPages:
    if not isinstance(effect.pages, MemoryPages):
        raise TypeError("pages of another driver")
    return effect.pages


def _process(space: AddressSpace) -> Process:
    if not isinstance(space, Process):
        raise TypeError("an address space of another driver")
    return space
