# SPDX-License-Identifier: MIT
"""Dirty bitmaps as ranges."""

from collections.abc import Iterator


def bitmap_size(size: int, pgsize: int) -> int:
    """How many bytes the bitmap of `size` bytes has: whole 64-bit words, as the kernel wants them."""
    return (size + pgsize * 64 - 1) // (pgsize * 64) * 8


def ranges(
    bitmap: bytes | bytearray | memoryview, iova: int, size: int, pgsize: int = 4096
) -> list[tuple[int, int]]:
    """The dirty ranges (iova, size) of a bitmap whose first bit is the page at `iova`.

    Bits at and beyond `size` are not looked at. Adjacent pages are one range.
    """
    found: list[tuple[int, int]] = []
    npages = (size + pgsize - 1) // pgsize
    for first, count in runs(bitmap, npages):
        start = iova + first * pgsize
        found.append((start, min(count * pgsize, iova + size - start)))
    return found


def runs(bitmap: bytes | bytearray | memoryview, nbits: int) -> Iterator[tuple[int, int]]:
    """The runs (first, count) of ones among the first `nbits` bits."""
    data = bytes(bitmap[: (nbits + 7) // 8])
    start = -1
    position = 0
    size = len(data)
    while position < size:
        byte = data[position]
        if byte == 0 and start < 0:
            position = _skip(data, position, 0)
            continue
        if byte == 0xFF and start >= 0:
            position = _skip(data, position, 0xFF)
            continue
        for bit in range(8):
            if byte >> bit & 1:
                if start < 0:
                    start = position * 8 + bit
            elif start >= 0:
                if start < nbits:
                    yield start, min(position * 8 + bit, nbits) - start
                start = -1
        position += 1
    if 0 <= start < nbits:
        yield start, nbits - start


_BLOCK = 4096
_SAME = {0: bytes(_BLOCK), 0xFF: b"\xff" * _BLOCK}


def _skip(data: bytes, position: int, byte: int) -> int:
    """The first position from `position` on that holds something else than `byte`, a block at a time."""
    same = _SAME[byte]
    size = len(data)
    while data[position : position + _BLOCK] == same:
        position += _BLOCK
    while position < size and data[position] == byte:
        position += 1
    return position
