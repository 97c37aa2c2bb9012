# SPDX-License-Identifier: MIT
"""Bits of a buffer, numbered as the uAPI's bitmaps are: bit i is bit i % 8 of byte i / 8."""


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
