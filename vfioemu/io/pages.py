# SPDX-License-Identifier: MIT
"""What an IOMMU holds of a client's memory: by what is behind the addresses where that can be had, else by address.

A window (io/memory.py) is the memory itself, and is kept here whatever the client does to its addresses. All other memory is
reached in the client's address space. It does not matter then what the client may do there itself by now, but what becomes of
the addresses does: whoever takes memory away says so before (io/keeping.py), and what nobody has said is found out too late.
"""

import bisect
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vfioemu.core.pages import Pages

if TYPE_CHECKING:
    from vfioemu.io.memory import ClientSpace, Window


class Piece:
    """A part of pinned pages that is in one place.

    Attributes:
        start, end: which part: offsets in the pages.
        space, vaddr: where it is, if nobody maps it here.
        window: what maps it here.
        at: where in the window's own addresses, as Window.vaddr counts.
    """

    __slots__ = ("at", "end", "space", "start", "vaddr", "window")

    def __init__(
        self, start: int, end: int, space: "ClientSpace", vaddr: int, window: "Window | None", at: int
    ) -> None:
        self.start = start
        self.end = end
        self.space = space
        self.vaddr = vaddr
        self.window = window
        self.at = at

    def cut(self, start: int, end: int) -> "Piece":
        """The part of it from `start` up to `end`."""
        skipped = start - self.start
        return Piece(start, end, self.space, self.vaddr + skipped, self.window, self.at + skipped)


class ClientPages(Pages):
    """Pinned pages of a client.

    Args:
        space: whose.
        vaddr: where they are now.
        size: bytes.
    """

    __slots__ = ("_starts", "pieces")

    def __init__(self, space: "ClientSpace", vaddr: int, size: int) -> None:
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
        self._starts = [piece.start for piece in self.pieces]

    def _append(self, piece: Piece) -> None:
        self.pieces.append(piece)

    def host(self) -> int | None:
        """Where one window has all of it."""
        piece = self.pieces[0]
        if len(self.pieces) > 1 or piece.window is None:
            return None
        return piece.window.local + piece.at - piece.window.vaddr

    def readdress(self, space: object, vaddr: int) -> None:
        """Where its owner has gone, what is not mapped here is looked for where it is said to be."""
        for piece in self.pieces:
            if piece.window is None and piece.space.gone():
                piece.space = space  # type: ignore[assignment]  # all spaces of a daemon are clients'
                piece.vaddr = vaddr + piece.start

    def release(self) -> None:
        """Whatever is kept for it goes."""
        self.pieces.clear()
        self._starts.clear()

    def parts(self, offset: int, size: int) -> Iterator[Piece]:
        """The pieces of [offset, offset+size), cut to it."""
        end = offset + size
        number = bisect.bisect_right(self._starts, offset) - 1
        while offset < end:
            piece = self.pieces[number]
            stop = min(end, piece.end)
            yield piece.cut(offset, stop)
            offset = stop
            number += 1
