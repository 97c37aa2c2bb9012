# SPDX-License-Identifier: MIT
"""What an IOMMU holds of a client's memory: by what is behind the addresses where that can be had, else by address.

A window (io/memory/windows.py) is the memory itself, and is kept here whatever the client does to its addresses. All other memory is
reached in the client's address space. It does not matter then what the client may do there itself by now, but what becomes of
the addresses does: whoever takes memory away says so before (io/memory/keeping.py), and what nobody has said is found out too late.
"""

import bisect
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from vfioemu.core.base.effects import Buffer
from vfioemu.core.base.pages import Holder, Pages
from vfioemu.core.base.quota import Quotas
from vfioemu.io.memory.mm import BoundMemory, SharedObject

K = TypeVar("K")
FileId = tuple[int, int]
"""Which file: st_dev and st_ino."""


class Memory(Protocol):
    """Memory that is mapped here: a window, or what is kept of something that went."""

    @property
    def local(self) -> int:
        """Where, if C may access it; else 0."""

    @property
    def vaddr(self) -> int:
        """How its addresses are counted: from here."""

    @property
    def file(self) -> FileId | None:
        """Of which file."""

    @property
    def offset(self) -> int:
        """Where in the file."""

    def read(self, at: int, size: int) -> bytes:
        """Bytes at one of its addresses; EFAULT."""

    def write(self, at: int, data: Buffer) -> None:
        """Change them; EFAULT."""


class Shared(Memory, Protocol):
    """A window, as far as pages are concerned."""

    @property
    def end(self) -> int:
        """Where it ends, as `vaddr` counts."""


class Owner(Protocol):
    """The address space that pages are of. There is one class of them, `ClientSpace`, which imports this module."""

    pinned: "Pinned"
    quotas: Quotas
    remarked: set[str]

    @property
    def pid(self) -> int:
        """The pid of its process, for the log."""

    @property
    def bound(self) -> BoundMemory | None:
        """The process's own memory, where we may reach it."""

    def gone(self) -> bool:
        """Tell whether its process has exited or become another program."""

    def windows_in(self, vaddr: int, size: int) -> Sequence[Shared]:
        """Return the windows that overlap [vaddr, vaddr+size), in order."""

    def piece_read_now(self, piece: "Piece") -> bytes | None:
        """Read a piece; None if its owner has to be asked. EFAULT when it has been lost."""

    def piece_write_now(self, piece: "Piece", data: Buffer) -> bool:
        """Write a piece; False if its owner has to be asked. Errors as `piece_read_now`."""

    async def ask_read(self, vaddr: int, size: int, *, pinned: bool, during: object) -> bytes:
        """Ask the owner for memory; EFAULT, EPERM when the address space is gone."""

    async def ask_write(self, vaddr: int, data: Buffer, *, pinned: bool, during: object) -> None:
        """Have the owner write memory; errors as `ask_read`."""


class Piece:
    """A part of pinned pages that is in one place.

    Attributes:
        start, end: which part: offsets in the pages.
        space, vaddr: where it is, if nobody maps it here.
        window: what maps it here.
        at: where in that, as its `vaddr` counts.
        shared: what it is a shared mapping of, if it is reached by address and that is known.
    """

    __slots__ = ("at", "end", "shared", "space", "start", "vaddr", "window")

    def __init__(
        self, start: int, end: int, space: Owner, vaddr: int, window: Memory | None, at: int
    ) -> None:
        self.start = start
        self.end = end
        self.space = space
        self.vaddr = vaddr
        self.window = window
        self.at = at
        self.shared: SharedObject | None = None

    def in_file(self, file: FileId) -> int | None:
        """Return the offset in that file at which it begins; None if it is not of that file."""
        if self.window is None or self.window.file != file:
            return None
        return self.window.offset + self.at - self.window.vaddr

    def cut(self, start: int, end: int) -> "Piece":
        """Return the part of it from `start` up to `end`."""
        skipped = start - self.start
        part = Piece(start, end, self.space, self.vaddr + skipped, self.window, self.at + skipped)
        if self.shared is not None:
            part.shared = self.shared
        return part


class Pinned:
    """All pages that hardware holds of the clients of a daemon: those that are reached by address, and those of each file.

    Args:
        remark: tells whoever watches of what happens to them.
    """

    def __init__(self, remark: "Callable[[Owner, str, str], None] | None" = None) -> None:
        self.spaces: weakref.WeakSet[Owner] = weakref.WeakSet()
        self.remark = remark or _say_nothing
        self.by_address: dict[Owner, set[ClientPages]] = {}
        self.by_file: dict[FileId, set[ClientPages]] = {}

    def add(self, pages: "ClientPages") -> None:
        """Enter pages that are pinned, or have moved."""
        for piece in pages.pieces:
            if piece.window is None:
                self.by_address.setdefault(piece.space, set()).add(pages)
            elif piece.window.file is not None:
                self.by_file.setdefault(piece.window.file, set()).add(pages)

    def drop(self, pages: "ClientPages") -> None:
        """Take out pages that are pinned no more, or about to move."""
        for piece in pages.pieces:
            if piece.window is None:
                _discard(self.by_address, piece.space, pages)
            elif piece.window.file is not None:
                _discard(self.by_file, piece.window.file, pages)


def _say_nothing(space: Owner, about: str, text: str) -> None:
    """Do nothing."""


def _discard(index: "dict[K, set[ClientPages]]", key: "K", pages: "ClientPages") -> None:
    found = index.get(key)
    if found is not None:
        found.discard(pages)
        if not found:
            del index[key]


class ClientPages(Pages):
    """Pinned pages of a client.

    They are in one piece, or in as many as there are windows, shared mappings and parts that have gone. A piece costs about
    as much as a mapping, and counts as one (protocol/wire.md section 10).

    Args:
        space: whose.
        vaddr: where they are now.
        size: bytes.
        holder: the mapping that holds them.

    Raises:
        IoctlError: ENOMEM: too many pieces.
    """

    __slots__ = ("_lost", "_pinned", "_quota", "_starts", "holder", "pieces")

    def __init__(self, space: Owner, vaddr: int, size: int, holder: Holder) -> None:
        self.holder = holder
        self._lost = False
        self._pinned = space.pinned
        self.pieces: list[Piece] = []
        at = vaddr
        for window in space.windows_in(vaddr, size):
            if at < window.vaddr:
                self._append(Piece(at - vaddr, window.vaddr - vaddr, space, at, None, 0))
                at = window.vaddr
            end = min(window.end, vaddr + size)
            self._append(Piece(at - vaddr, end - vaddr, space, at, window, at))
            at = end
        if at < vaddr + size:
            self._append(Piece(at - vaddr, size, space, at, None, 0))
        self._quota = space.quotas.mappings
        self._quota.take(len(self.pieces) - 1)  # the first is the mapping itself
        self._starts = [piece.start for piece in self.pieces]
        self._pinned.add(self)

    def _append(self, piece: Piece) -> None:
        """Add a piece; if it is reached by address, one for each object that is shared there."""
        bound = piece.space.bound
        while piece.window is None and bound is not None:
            found = bound.shared_at(piece.vaddr)
            if found is None:
                break
            stop, shared = found
            part = piece.cut(piece.start, min(piece.end, piece.start + stop - piece.vaddr))
            part.shared = shared
            self.pieces.append(part)
            if part.end == piece.end:
                return
            piece = piece.cut(part.end, piece.end)
        self.pieces.append(piece)

    def look_elsewhere(self, offset: int, leaving: tuple[int, int] = (0, 0)) -> bool:
        """Look for the piece at `offset`, which is not where it was: another process, or its own, may have the same object mapped.

        Args:
            offset: in the pages.
            leaving: these addresses of its process will not do.
        """
        piece = self.pieces[bisect.bisect_right(self._starts, offset) - 1]
        shared = piece.shared
        if shared is None or piece.window is not None:
            return False
        start = piece.vaddr + shared.shift
        for space in list(self._pinned.spaces):
            if space.bound is None or not space.bound.alive():
                continue
            own = space is piece.space
            where = space.bound.find(shared, start, piece.end - piece.start, leaving if own else (0, 0))
            if where is not None and not (own and where == piece.vaddr):
                place = Piece(piece.start, piece.end, space, where, None, 0)
                place.shared = shared._replace(shift=start - where)
                self.replace(place)
                return True
        return False

    def lost(self, offset: int, why: str) -> None:
        """Say once that we have not what is at `offset`, and hardware would have."""
        if not self._lost:
            self._lost = True
            piece = self.pieces[bisect.bisect_right(self._starts, offset) - 1]
            self._pinned.remark(
                piece.space, "lost", f"{self.holder}: {why}; devices would still have what was pinned there"
            )

    def host(self) -> int | None:
        """Return the address in this process where one window has all of it, or None."""
        piece = self.pieces[0]
        if len(self.pieces) > 1 or piece.window is None or not piece.window.local:
            return None
        return piece.window.local + piece.at - piece.window.vaddr

    def readdress(self, space: object, vaddr: int) -> None:
        """Take from now on what is not mapped here, and whose owner has gone, from where it is said to be."""
        self._pinned.drop(self)
        for piece in self.pieces:
            if piece.window is None and piece.space.gone():
                piece.space = space  # type: ignore[assignment]  # all spaces of a daemon are clients'
                piece.vaddr = vaddr + piece.start
        self._pinned.add(self)

    def replace(self, *places: Piece) -> None:
        """Put pieces in the place of what is there; the holder has to be told that something `moved`.

        Args:
            places: ascending, and apart from each other.

        Raises:
            IoctlError: ENOMEM: too many pieces; nothing is replaced.
        """
        merged: list[Piece] = []
        number = 0
        for old in self.pieces:
            at = old.start
            while number < len(places) and (place := places[number]).start < old.end:
                if at < place.start:
                    merged.append(old.cut(at, place.start))
                if place.start >= old.start:
                    merged.append(place)
                at = place.end
                if at > old.end:
                    break  # it goes on in the next
                number += 1
            if at < old.end:
                merged.append(old if at == old.start else old.cut(at, old.end))
        if (more := len(merged) - len(self.pieces)) > 0:
            self._quota.take(more)
        else:
            self._quota.give(-more)
        self._pinned.drop(self)
        self.pieces = merged
        self._starts = [each.start for each in merged]
        self._pinned.add(self)

    def release(self) -> None:
        """Unpin: whatever is kept for it goes."""
        self._pinned.drop(self)
        if self.pieces:
            self._quota.give(len(self.pieces) - 1)
        self.pieces.clear()
        self._starts.clear()

    def parts(self, offset: int, size: int) -> Iterator[Piece]:
        """Yield the pieces of [offset, offset+size), cut to it."""
        end = offset + size
        while offset < end:  # whoever reaches one may replace it before he asks for the next
            piece = self.pieces[bisect.bisect_right(self._starts, offset) - 1]
            stop = min(end, piece.end)
            yield piece.cut(offset, stop)
            offset = stop
