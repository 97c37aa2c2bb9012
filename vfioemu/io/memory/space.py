# SPDX-License-Identifier: MIT
"""The address spaces of clients: windows that they shared (io/memory/windows.py), and the two ways to reach the rest."""

import bisect
import errno
import os
import resource
import weakref
from typing import Protocol

from vfioemu.core.base.caller import AddressSpace
from vfioemu.core.base.effects import Buffer
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.pages import Holder
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.usage import Usage
from vfioemu.io.memory.kept import Left
from vfioemu.io.memory.mm import PAGE, TOP, BoundMemory
from vfioemu.io.memory.pages import ClientPages, Piece, Pinned
from vfioemu.io.memory.regions import RegionFile
from vfioemu.io.memory.sharing import is_shmem, needs_guard
from vfioemu.io.memory.windows import Window


class Asker(Protocol):
    """The owner of memory that is neither mapped here nor open to us, and can be asked for it. A session is one.

    `during` is what performs the call in progress, if the effect is one of a call: an owner that waits for the answer of that
    very call can be asked on its connection. Each method may take as long as the owner does, up to a time limit of its own, is
    shielded from cancellation, and never fails with anything but an IoctlError.
    """

    @property
    def pid(self) -> int:
        """Its process, for the log; 0 if there is none."""

    def hung_up(self) -> bool:
        """Tell whether nobody is there any more."""

    async def pin(self, vaddr: int, npages: int, *, write: bool, during: object) -> int:
        """Count the leading pages that are present (and writable); 0 if nobody answers."""

    async def read(self, vaddr: int, size: int, *, pinned: bool, during: object) -> bytes:
        """Read exactly `size` bytes; EFAULT. `pinned`: for hardware, whatever the process itself may read there."""

    async def write(self, vaddr: int, data: Buffer, *, pinned: bool, during: object) -> None:
        """Write all bytes; EFAULT after as many as could be written. `pinned` as for `read`."""


class ClientSpace(AddressSpace):
    """The address space of a client process.

    Attributes:
        owner: who is asked for memory that we cannot reach; None when nobody answers any more.
        bound: the memory itself, in process_vm mode.
        memlock: RLIMIT_MEMLOCK, as the client says; None for RLIM_INFINITY.
        pinned: what hardware holds, of this client and of all others.
        regions: files of devices' memory that it was given, by inode, while it has the devices.
        pid: of its process, for whoever reads of it.
        remarked: which kinds of remarks have been logged of it.
        left: what is kept of memory that is about to go, and may yet come back.
    """

    __slots__ = (
        "_starts",
        "_windows",
        "bound",
        "left",
        "memlock",
        "owner",
        "pid",
        "pinned",
        "regions",
        "remarked",
        "shared",
    )

    def __init__(self, owner: Asker | None, bound: BoundMemory | None, pinned: Pinned | None = None) -> None:
        super().__init__()
        self.owner = owner
        self.bound = bound
        self.pid = 0 if owner is None else owner.pid
        self.remarked: set[str] = set()
        self.memlock: int | None = None
        self.shared = 0
        self.pinned: Pinned = Pinned() if pinned is None else pinned
        self.pinned.spaces.add(self)
        self.left: list[Left] = []
        self.regions: weakref.WeakValueDictionary[int, RegionFile] = weakref.WeakValueDictionary()
        self._starts: list[int] | None = None
        self._windows: list[Window] = []

    def memlock_limit(self) -> int | None:
        """Return RLIMIT_MEMLOCK in bytes; None for no limit."""
        return self.memlock

    def beyond_memlock(self, npages: int, limit: int) -> None:
        """Say once that Linux would have refused, if that is so now, too."""
        if "memlock" in self.remarked:
            return
        try:
            now = resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK)[0]
        except (OSError, ValueError):
            now = limit  # what it said of itself
        if now != resource.RLIM_INFINITY and npages << 12 > now:
            self.pinned.remark(
                self,
                "memlock",
                f"{npages << 12} bytes are locked, and RLIMIT_MEMLOCK (ulimit -l) is {now}: ENOMEM from Linux, "
                f"without CAP_IPC_LOCK (--memlock client refuses as well)",
            )

    def _pinned_on_disk(self, vaddr: int, size: int) -> None:
        """Say once that Linux would have refused (check_vma_flags(), since 6.5): that the file is to be written back may be lost."""
        if "file" not in self.remarked:
            self.pinned.remark(
                self,
                "file",
                f"{size:#x} bytes at {vaddr:#x} are mapped for writing, and of a file on a disk (MAP_SHARED): "
                f"EFAULT from Linux, which lets devices write to private memory, memfds and tmpfs",
            )

    def gone(self) -> bool:
        """Tell whether its process has exited or become another program, as far as can be seen from here."""
        if self.bound is not None:
            return not self.bound.alive()
        return self.owner is None or self.owner.hung_up()

    # --- windows ---

    def share_region(
        self, vaddr: int, size: int, inode: int, offset: int, limits: Limits, usage: Usage
    ) -> None:
        """Map memory of a device, of which the client has a mapping from us, as `share` maps its own.

        Raises:
            IoctlError: ENOENT: it has not; and as `share`.
        """
        file = self.regions.get(inode)
        if file is None:
            raise IoctlError(errno.ENOENT, f"the process has not mapped any region with inode {inode}")
        self.share(vaddr, size, file.fd, offset, limits, usage, region=True)

    def reserved(self, vaddr: int, size: int) -> int:
        """Count the bytes of a range that are mappings of devices' memory."""
        end = vaddr + size
        return sum(
            min(window.end, end) - max(window.vaddr, vaddr)
            for window in self.windows_in(vaddr, size)
            if window.reserved
        )

    def share(
        self,
        vaddr: int,
        size: int,
        fd: int,
        offset: int,
        limits: Limits,
        usage: Usage,
        *,
        region: bool = False,
    ) -> None:
        """Map [offset, offset+size) of `fd`, which the client has mapped at `vaddr`; it counts for `usage`.

        Raises:
            IoctlError: EINVAL, EPERM, EEXIST, ENOSPC as in protocol/wire.md section 7.
        """
        if not size or (vaddr | size | offset) % PAGE or vaddr + size > TOP or offset + size > TOP:
            raise IoctlError(
                errno.EINVAL, f"cannot share {size:#x} bytes at {vaddr:#x}, file offset {offset:#x}"
            )
        guarded = needs_guard(fd, trusted=self.bound is not None)
        if offset + size > os.fstat(fd).st_size:
            raise IoctlError(errno.EINVAL, f"the file is shorter than {offset + size:#x} bytes")
        starts = self._starts or []
        at = bisect.bisect_left(starts, vaddr)
        if (at and self._windows[at - 1].end > vaddr) or (at < len(starts) and starts[at] < vaddr + size):
            raise IoctlError(
                errno.EEXIST, f"[{vaddr:#x}, {vaddr + size:#x}) overlaps memory that is shared already"
            )
        usage.refuse(size, limits)
        if guarded and (why := usage.no_fd()):
            raise IoctlError(errno.ENOSPC, why)
        window = Window(vaddr, size, fd, offset, usage, guarded=guarded)
        window.reserved = region
        window.on_disk = not region and not is_shmem(fd)
        self._windows.insert(at, window)
        starts.insert(at, vaddr)
        self._starts = starts
        self.shared += size

    def unshare(self, vaddr: int, size: int) -> None:
        """Forget the windows that overlap [vaddr, vaddr+size): the client maps something else there.

        What hardware has pinned keeps them, as the kernel keeps the pages. vfio_dma_rw() goes by the address again.
        """
        starts = self._starts
        if starts is None or not size:
            return
        first = bisect.bisect_right(starts, vaddr) - 1
        if first < 0 or self._windows[first].end <= vaddr:
            first += 1
        last = bisect.bisect_left(starts, min(vaddr + size, TOP))
        if first == last:
            return
        for window in self._windows[first:last]:
            self.shared -= window.end - window.vaddr
        del self._windows[first:last]
        del starts[first:last]
        self.changes += 1

    def windows_in(self, vaddr: int, size: int) -> list[Window]:
        """Return the windows that overlap [vaddr, vaddr+size), in order."""
        if self._starts is None:
            return []
        first = max(bisect.bisect_right(self._starts, vaddr) - 1, 0)
        last = bisect.bisect_left(self._starts, vaddr + size)
        return [window for window in self._windows[first:last] if window.end > vaddr]

    def pages(self, vaddr: int, size: int, holder: Holder) -> ClientPages:
        """Hold [vaddr, vaddr+size) for hardware from now on."""
        return ClientPages(self, vaddr, size, holder)

    def hold(self, vaddr: int, size: int) -> "Window | None":
        """Return the window of `window()`, for whoever keeps its address."""
        return self._covering(vaddr, size)

    def window(self, vaddr: int, size: int) -> int | None:
        """Return where [vaddr, vaddr+size) is in this process, if it lies within one window; else None."""
        window = self._covering(vaddr, size)
        return None if window is None else window.local + vaddr - window.vaddr

    def _covering(self, vaddr: int, size: int) -> "Window | None":
        if self._starts is None:
            return None
        at = bisect.bisect_right(self._starts, vaddr) - 1
        if at < 0:
            return None
        window = self._windows[at]
        return window if vaddr + size <= window.end else None

    # --- DMA that needs nobody's help ---

    def read_now(self, vaddr: int, size: int) -> bytes | None:
        """Read for a device; None if the client has to be asked. EFAULT, EPERM when the address space is gone."""
        window = self._covering(vaddr, size)
        if window is not None:
            return window.read(vaddr, size)
        if self.bound is not None:
            return self.bound.read(vaddr, size)
        return None

    def write_now(self, vaddr: int, data: Buffer) -> bool:
        """Write for a device; False if the client has to be asked. Errors as `read_now`."""
        window = self._covering(vaddr, memoryview(data).nbytes)
        if window is not None:
            window.write(vaddr, data)
            return True
        if self.bound is not None:
            self.bound.write(vaddr, data)
            return True
        return False

    # --- DMA of hardware: no protection is asked about, it was when the pages were pinned ---

    def piece_read_now(self, piece: Piece) -> bytes | None:
        """Read a piece; None if its owner has to be asked. EFAULT when it has been lost."""
        size = piece.end - piece.start
        if piece.window is not None:
            return piece.window.read(piece.at, size)
        if self.bound is not None:
            return self.bound.read(piece.vaddr, size, pinned=True)
        return None

    def piece_write_now(self, piece: Piece, data: Buffer) -> bool:
        """Write a piece; False if its owner has to be asked. Errors as `piece_read_now`."""
        if piece.window is not None:
            piece.window.write(piece.at, data)
            return True
        if self.bound is not None:
            self.bound.write(piece.vaddr, data, pinned=True)
            return True
        return False

    def pin_now(self, vaddr: int, npages: int, *, write: bool) -> int | None:
        """Count the leading pages that are present; None if the client has to be asked."""
        start = vaddr & ~(PAGE - 1)
        window = self._covering(start, npages * PAGE)
        if window is not None:
            if write and window.on_disk:
                self._pinned_on_disk(start, npages * PAGE)
            return window.present(start, npages)
        if self.bound is not None:
            return self.bound.present(vaddr, npages, write=write)
        return None

    # --- what its owner has to be asked for ---

    async def ask_pin(self, vaddr: int, npages: int, *, write: bool, during: object) -> int:
        """Ask how many leading pages are present; 0 if nobody answers."""
        if self.owner is None:
            return 0
        return await self.owner.pin(vaddr, npages, write=write, during=during)

    async def ask_read(self, vaddr: int, size: int, *, pinned: bool, during: object) -> bytes:
        """Ask for memory; EFAULT, EPERM when the address space is gone."""
        return await self._owner().read(vaddr, size, pinned=pinned, during=during)

    async def ask_write(self, vaddr: int, data: Buffer, *, pinned: bool, during: object) -> None:
        """Have memory written; errors as `ask_read`."""
        await self._owner().write(vaddr, data, pinned=pinned, during=during)

    def _owner(self) -> Asker:
        if self.owner is None:
            raise IoctlError(errno.EPERM, "the address space is gone")
        return self.owner
