# SPDX-License-Identifier: MIT
"""The dirty bits of a large mapping on their way to the user: window by window, so that no copy is as large as the mapping.

The bits are looked at, copied, and cleared only when all have arrived, as the kernel does it: the container's lock is held all
the while, and whoever marks holds it. A mapping that is dirty as a whole (`full`) needs no bits at all to say so. The answers,
the kernel's mistakes included, are those that `dirty_pages.merge` gives for a small mapping in one go.
"""

from typing import Final

from vfioemu.core.base.bits import set_bits
from vfioemu.core.base.effects import Steps, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import U64_MAX
from vfioemu.core.base.slices import SLICE, Slices
from vfioemu.native.bitmap import DirtyBitmap

WINDOW: Final = 1 << 22
"""Pages in a window: 512 KiB of bits, which is 16 GiB of pages of 4 KiB."""
_WORDS: Final = WINDOW // 64
_WORK: Final = SLICE // 4
"""The bytes of a window that has bits everywhere."""


def is_large(npages: int) -> bool:
    """Tell whether a mapping takes more than one window."""
    return npages > WINDOW


class Delivery:
    """One look at a large bitmap.

    Args:
        bitmap: of the mapping.
        shift: how far its first page is from a multiple of 64 in the user's bitmap.
        lead: the user's bits of the word before that, as they are to be kept.
        full: every page is dirty, whatever the bitmap says.
        residue: bits past the end go out too, and are kept, as in the kernel.
    """

    def __init__(self, bitmap: DirtyBitmap, shift: int, lead: int, *, full: bool, residue: bool) -> None:
        self._bitmap = bitmap
        self._npages = bitmap.nbits()
        self._shift = shift
        self._total = bitmap.harvest_size(shift) // 8
        self._full = full
        self._slices = Slices()
        self._extra = {0: lead} if shift and lead else {}
        self._residue = bitmap.residue
        if residue:
            self._add_residue()

    def _add_residue(self) -> None:
        """finish_residue() of csrc/vfe_harvest.c: what past the end goes out, and what stays of it."""
        old, tail = self._residue, self._npages // 64
        kept = list(old)
        for i in range(min(2, self._total - tail)):
            mine = (old[i] << self._shift | (old[0] >> (64 - self._shift) if i else 0)) & U64_MAX
            self._extra[tail + i] = self._extra.get(tail + i, 0) | mine
            word = int.from_bytes(self._window(tail + i, 1), "little")
            kept[i] = word if i else word >> self._npages % 64 << self._npages % 64
        self._residue = kept[0], kept[1]

    def deliver(self, at: int) -> Steps[None]:
        """Copy all to the user's memory at `at`; EFAULT."""
        for word in range(0, self._total, _WORDS):
            yield from write_user(at + 8 * word, self._window(word, min(_WORDS, self._total - word)))
            yield from self._pause()

    def clear(self) -> Steps[None]:
        """All has arrived: the pages are clean, the residue stays."""
        scratch = bytearray(WINDOW // 8)
        for first in range(0, self._npages, WINDOW):
            self._bitmap.harvest_or(scratch, first, min(WINDOW, self._npages - first))
            yield from self._pause()
        self._bitmap.residue = self._residue

    def keep_shifted(self) -> Steps[None]:
        """Leave the bitmap as the kernel has it after it shifted it in place: the lead is in it, and the top is residue."""
        scratch = bytearray(WINDOW // 8)
        for word in reversed(range(0, -(-self._npages // 64), _WORDS)):
            first = word * 64
            count = min(WINDOW, self._npages - first)
            out = self._window(word, -(-count // 64))
            self._bitmap.harvest_or(scratch, first, count)
            self._bitmap.merge(out, first, count)
            yield from self._pause()
        self._bitmap.residue = self._residue

    def keep_unshifted(self, lead: int) -> None:
        """Leave it as after shifting back: as it was, with those bits of the lead that lie over pages."""
        self._bitmap.merge(lead.to_bytes(8, "little"), 0, min(64 - self._shift, self._npages), self._shift)
        self._bitmap.residue = 0, 0

    def _window(self, word: int, count: int) -> bytearray:
        """Words [word, word + count) of what goes out."""
        out = bytearray(8 * count)
        low = 64 * word - self._shift  # the page of bit 0
        first, end = max(low, 0), min(low + 64 * count, self._npages)
        if first < end:
            if self._full:
                set_bits(out, first - low, end - low - 1)
            else:
                self._bitmap.peek(out, first, end - first, first - low)
        for at, bits in self._extra.items():
            if word <= at < word + count:
                where = slice(8 * (at - word), 8 * (at - word + 1))
                out[where] = (int.from_bytes(out[where], "little") | bits).to_bytes(8, "little")
        return out

    def _pause(self) -> Steps[None]:
        if self._slices.done(_WORK):
            yield from self._slices.breathe()


def merge_recorded(
    delivery: Delivery, at: int, shift: int, lead: int, *, keep: bool, shift_back: bool
) -> Steps[bool]:
    """update_user_bitmap(); with `keep` nothing is to be cleared. Whether the bitmap says now which pages are dirty.

    Raises:
        IoctlError: EFAULT; the bitmap is shifted then, and says so itself unless `shift` is 0.
    """
    try:
        yield from delivery.deliver(at)
    except IoctlError:
        if shift:
            yield from delivery.keep_shifted()
        raise
    if not keep:
        yield from delivery.clear()
        return True
    if shift and shift_back:
        delivery.keep_unshifted(lead)
        return False
    if shift:
        yield from delivery.keep_shifted()
        return True
    return False


def merge_clean(delivery: Delivery, at: int, *, keep: bool) -> Steps[bool]:
    """Merge as Linux should, without its mistakes: bits that have not arrived at the user are not cleared."""
    yield from delivery.deliver(at)
    if keep:
        return False
    yield from delivery.clear()
    return True
