# SPDX-License-Identifier: MIT
"""Hardware reaches a piece of pinned pages: here, in the client, or where else the same object is mapped by now."""

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.memory.pages import ClientPages, Piece

if TYPE_CHECKING:
    from vfioemu.core.base.pages import Pages


def pieces(pages: "Pages", offset: int, size: int) -> Iterator[Piece]:
    """Return the pieces of a part of pinned pages; EFAULT for those of another driver."""
    if not isinstance(pages, ClientPages):
        raise IoctlError(errno.EFAULT, "no client's memory")
    return pages.parts(offset, size)


def read(pages: "Pages", piece: Piece) -> bytes | None:
    """Read a piece, wherever it is by now; None if its owner has to be asked."""
    try:
        return piece.space.piece_read_now(piece)
    except IoctlError as error:
        moved = _elsewhere(pages, piece, error)
        return moved.space.piece_read_now(moved)


def write(pages: "Pages", piece: Piece, data: memoryview) -> bool:
    """Write a piece, wherever it is by now; False if its owner has to be asked."""
    try:
        return piece.space.piece_write_now(piece, data)
    except IoctlError as error:
        moved = _elsewhere(pages, piece, error)
        return moved.space.piece_write_now(moved, data)


def _elsewhere(pages: "Pages", piece: Piece, error: IoctlError) -> Piece:
    if isinstance(pages, ClientPages) and pages.look_elsewhere(piece.start):
        return next(pages.parts(piece.start, piece.end - piece.start))
    raise lost(pages, piece, error) from None


def lost(pages: "Pages", piece: Piece, error: IoctlError) -> IoctlError:
    """Make the error of memory that cannot be reached any more, and say so once; to hardware that is an IOMMU fault."""
    if isinstance(pages, ClientPages):
        pages.lost(piece.start, error.why)
    return IoctlError(errno.EFAULT, error.why)
