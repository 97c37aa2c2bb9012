# SPDX-License-Identifier: MIT
"""Convert dirty bitmaps to ranges."""

from vfioemu.native.bitmap import buffer_runs


def bitmap_size(size: int, pgsize: int) -> int:
    """Return the size in bytes of the bitmap of `size` bytes: whole 64-bit words, as the kernel demands."""
    return (size + pgsize * 64 - 1) // (pgsize * 64) * 8


def ranges(
    bitmap: bytes | bytearray | memoryview, iova: int, size: int, pgsize: int = 4096
) -> list[tuple[int, int]]:
    """Return the dirty ranges (iova, size) of a bitmap whose first bit is the page at `iova`.

    Bits at and beyond `size` are ignored. Adjacent pages make one range.
    """
    npages = min((size + pgsize - 1) // pgsize, memoryview(bitmap).nbytes * 8)
    runs = [(first * pgsize, count * pgsize) for first, count in buffer_runs(bitmap, npages)]
    return [(iova + start, min(length, size - start)) for start, length in runs]
