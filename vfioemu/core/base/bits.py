# SPDX-License-Identifier: MIT
"""Bits of buffers and words.

Those of a buffer are numbered as the uAPI's bitmaps are: bit i is bit i % 8 of byte i / 8.
"""


def set_bits(buffer: bytearray, first: int, last: int) -> None:
    """bitmap_set() of [first, last]; nothing if that is empty."""
    if first > last:
        return
    head, tail = first >> 3, last >> 3
    if head == tail:
        buffer[head] |= (0xFF << (first & 7)) & (0xFF >> (7 - (last & 7)))
        return
    buffer[head] |= (0xFF << (first & 7)) & 0xFF
    buffer[tail] |= 0xFF >> (7 - (last & 7))
    buffer[head + 1 : tail] = b"\xff" * (tail - head - 1)


def int32(word: int) -> int:
    """Return the low half of a word as a C int."""
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
