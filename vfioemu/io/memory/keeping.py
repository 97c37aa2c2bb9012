# SPDX-License-Identifier: MIT
"""Keeping for hardware what a client takes away: munmap(), MAP_FIXED, MADV_DONTNEED, mremap(), holes in files.

An IOMMU holds pages. Their addresses may come to mean something else, and their file may get new pages in their place: the device
goes on with the old ones, which the program cannot see any more. So a copy, made here before they go, is as good as they are, if
nobody writes in between: DMA does not, for it waits for the container's lock, and whoever takes memory away while others write
to it does not know what he does on any machine. The client says what goes before it goes (protocol/wire.md section 7), and
afterwards, if it has not gone, or only moved.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from vfioemu.core.base.effects import PagesRead, PagesWrite, Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.slices import MAPPING, Slices
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.usage import Usage
from vfioemu.io.memory.kept import Kept, Left
from vfioemu.io.memory.mm import PAGE
from vfioemu.io.memory.pages import ClientPages, FileId, Piece
from vfioemu.io.memory.space import ClientSpace

_STEP: Final = 1 << 18
_WORK_SHIFT: Final = 11
"""Bytes of a copy that are a unit of work."""
_PIECE: Final = 8
"""Work: something that is done to a piece."""
_OUTSTANDING: Final = 256
"""Parts that may be about to go at the same time, in several threads."""


def leaves(space: ClientSpace, vaddr: int, size: int, usage: Usage, limits: Limits) -> Steps[int]:
    """Keep what hardware holds of [vaddr, vaddr+size), which is about to mean something else.

    Returns:
        How many bytes are kept.

    Raises:
        IoctlError: ENOSPC, ENOMEM: more than the process may have.
    """
    end = vaddr + size
    slices = Slices()
    found = set()
    for pages in list(space.pinned.by_address.get(space, ())):
        if any(piece.vaddr < end and piece.vaddr + _size(piece) > vaddr for piece in pages.pieces):
            found.add(pages)
        if slices.done(_PIECE * len(pages.pieces)):
            yield from slices.breathe()
    return (
        yield from _keep(space, found, lambda: _at_address(found, space, vaddr, end), None, usage, limits)
    )


def hole(
    space: ClientSpace,
    file: FileId,
    offset: int,
    size: int,
    usage: Usage,
    limits: Limits,
) -> Steps[int]:
    """Keep the pages of a file that hardware holds, whosever, in [offset, offset+size): they are about to be given up.

    Args:
        space: who says so.
        file: which.
        offset: where.
        size: bytes.
        usage: who pays.
        limits: how much.

    Returns:
        How many bytes are kept.

    Raises:
        IoctlError: ENOSPC, ENOMEM.
    """
    found = set(space.pinned.by_file.get(file, ()))
    return (
        yield from _keep(
            space, found, lambda: _in_file(found, file, offset, offset + size), file, usage, limits
        )
    )


def _keep(
    space: ClientSpace,
    found: set[ClientPages],
    parts_now: "Callable[[], Steps[list[Part]]]",
    file: FileId | None,
    usage: Usage,
    limits: Limits,
) -> Steps[int]:
    _forget(space)
    if not found:
        return 0
    with _locks(found) as locks:
        for lock in locks.wanted:
            yield from locked(lock)
            locks.taken.append(lock)
        parts = yield from parts_now()
        if file is None and parts:
            yield from _leave_shared(parts)
            parts = yield from parts_now()
        if not parts:
            return 0
        low = parts[0][0]
        size = max(at + _size(piece) for at, _, piece in parts) - low
        usage.refuse(size, limits)
        if space.bound is None:
            usage.refuse_kept(size, limits)
        kept = Kept(size, usage)
        total = yield from _copy(parts, kept, low)
        places: dict[ClientPages, list[Left]] = {}
        slices = Slices()
        for at, pages, old in parts:
            new = Piece(old.start, old.end, old.space, old.vaddr, kept, at - low)
            places.setdefault(pages, []).append(Left(file, at, weakref.ref(pages), old, new))
            if slices.done(_PIECE):
                yield from slices.breathe()
        for pages, lefts in places.items():
            pages.replace(*sorted((left.new for left in lefts), key=lambda piece: piece.start))
            pages.holder.moved()
            space.left += lefts
            if slices.done(MAPPING + _PIECE * len(pages.pieces)):
                yield from slices.breathe()
        return total


def _leave_shared(parts: "list[Part]") -> Steps[None]:
    """Reach what is shared with somebody, or mapped once more, there: a copy would not be the same to them."""
    first, last = parts[0][0], max(at + _size(piece) for at, _, piece in parts)
    slices = Slices()
    for _, pages, piece in parts:
        if piece.shared is None:
            continue
        if slices.done(MAPPING + _PIECE * len(pages.pieces)):
            yield from slices.breathe()
        old = next(each for each in pages.pieces if each.start <= piece.start < each.end)
        if (old.start, old.end) != (piece.start, piece.end):
            pages.replace(piece)
        if pages.look_elsewhere(piece.start, (first, last)):
            pages.holder.moved()


def returns(space: ClientSpace, vaddr: int, size: int, to: int) -> Steps[int]:
    """Give back what had left [vaddr, vaddr+size) and is at `to`: it has only moved, or has not gone at all.

    Returns:
        How many bytes that devices wrote in between are there as well now.
    """
    total = 0
    for left in _take_back(space, None, vaddr, size):
        end = min(left.old.end, left.old.start + vaddr + size - left.at)
        place = Piece(left.old.start, end, space, to + left.at - vaddr, None, 0)
        total += yield from _give_back(left, place)
    return total


def filled(space: ClientSpace, file: FileId, offset: int, size: int) -> Steps[int]:
    """Give back what was kept for a hole that has not been made; returns as `returns`."""
    total = 0
    for left in _take_back(space, file, offset, size):
        total += yield from _give_back(left, left.old)
    return total


def _take_back(space: ClientSpace, file: FileId | None, start: int, size: int) -> list[Left]:
    """Take out what had left there: another call of the client's finds none of it while this one waits."""
    taken: list[Left] = []
    others: list[Left] = []
    for left in space.left:
        (taken if left.file == file and start <= left.at < start + size else others).append(left)
    space.left = others
    return taken


def _give_back(left: Left, place: Piece) -> Steps[int]:
    pages = left.pages()
    if pages is None:
        return 0
    total = 0
    yield from locked(pages.holder.lock)
    try:
        if left.new not in pages.pieces:
            return 0
        kept = left.new.window
        assert isinstance(kept, Kept)
        pages.replace(place)
        pages.holder.moved()
        for first, last in kept.take_written(left.new.at, left.new.at + _size(place)):
            for at in range(first, last, _STEP):
                count = min(_STEP, last - at)
                offset = place.start + at - left.new.at
                yield PagesWrite(pages, offset, kept.read(at, count))
                pages.holder.written(offset, count)  # whoever has copied the page meanwhile has not seen it
                total += count
    finally:
        pages.holder.lock.release()
    return total


class _Locks:
    def __init__(self, wanted: list[Lock]) -> None:
        self.wanted = wanted
        self.taken: list[Lock] = []


@contextmanager
def _locks(found: Iterable[ClientPages]) -> Iterator[_Locks]:
    """Collect the locks of all containers, in an order of their own: nobody else takes two, so this cannot deadlock."""
    locks = _Locks(sorted({pages.holder.lock for pages in found}, key=id))
    try:
        yield locks
    finally:
        for lock in locks.taken:
            lock.release()


def _size(piece: Piece) -> int:
    return piece.end - piece.start


Part = tuple[int, ClientPages, Piece]
"""Where a piece is, in the address space or in the file; of what; the piece."""


def _at_address(found: Iterable[ClientPages], space: ClientSpace, vaddr: int, end: int) -> Steps[list[Part]]:
    parts: list[Part] = []
    slices = Slices()
    for pages in found:
        for piece in pages.pieces:
            first, last = max(vaddr, piece.vaddr), min(end, piece.vaddr + _size(piece))
            if piece.window is None and piece.space is space and first < last:
                start = piece.start + first - piece.vaddr
                parts.append((first, pages, piece.cut(start, start + last - first)))
        if slices.done(_PIECE * len(pages.pieces)):
            yield from slices.breathe()
    return sorted(parts, key=lambda part: part[0])


def _in_file(found: Iterable[ClientPages], file: FileId, offset: int, end: int) -> Steps[list[Part]]:
    parts: list[Part] = []
    slices = Slices()
    for pages in found:
        for piece in pages.pieces:
            at = piece.in_file(file)
            if at is not None and max(offset, at) < (last := min(end, at + _size(piece))):
                first = max(offset, at)
                start = piece.start + first - at
                parts.append((first, pages, piece.cut(start, start + last - first)))
        if slices.done(_PIECE * len(pages.pieces)):
            yield from slices.breathe()
    return sorted(parts, key=lambda part: part[0])


def _copy(parts: list[Part], kept: Kept, low: int) -> Steps[int]:
    """Copy what is in the parts, each address once; return how many bytes that is."""
    slices = Slices()
    done = low
    total = 0
    for at, pages, piece in parts:
        position = max(at, done)
        end = at + _size(piece)
        while position < end:
            count = min(_STEP, end - position)
            offset = piece.start + position - at
            kept.fill(position - low, (yield from _read(pages, offset, count)))
            position += count
            total += count
            if slices.done(count >> _WORK_SHIFT):
                yield from slices.breathe()
        done = max(done, end)
    return total


def _read(pages: ClientPages, offset: int, size: int) -> Steps[bytes]:
    """Read what can be read; zeros for pages that are not there."""
    try:
        data: bytes = yield PagesRead(pages, offset, size)
    except IoctlError:
        if size <= PAGE:
            return bytes(size)
    else:
        return data
    whole = bytearray(size)
    for at in range(0, size, PAGE):
        whole[at : at + PAGE] = yield from _read(pages, offset + at, min(PAGE, size - at))
    return bytes(whole)


def _forget(space: ClientSpace) -> None:
    """Forget the oldest: calls that are over long since have said by now if something came back."""
    while len(space.left) > _OUTSTANDING:
        kept = space.left.pop(0).new.window
        if isinstance(kept, Kept):
            kept.journal = None
