# SPDX-License-Identifier: MIT
"""Bounds of addresses and of the container side, with the names that they have in the kernel."""

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = (1 << 64) - PAGE_SIZE
U64_MAX: Final = (1 << 64) - 1

DMA_ENTRY_LIMIT: Final = 65535
"""Module parameter dma_entry_limit: U16_MAX."""

DIRTY_BITMAP_PAGES_MAX: Final = (1 << 31) - 1
"""INT_MAX: bitmap_set() counts in int."""

DIRTY_BITMAP_SIZE_MAX: Final = 1 << 28
"""DIRTY_BITMAP_BYTES(DIRTY_BITMAP_PAGES_MAX)."""

PIN_PAGES_MAX: Final = PAGE_SIZE // 8
"""VFIO_PIN_PAGES_MAX_ENTRIES: as many pages in one vfio_pin_pages() as one page holds pointers to."""

DMA_UNMAP_RETRIES: Final = 10
"""How often a device may leave pins behind in its dma_unmap(); after that the kernel has a BUG_ON()."""

DEVICE_NAME_MAX: Final = PAGE_SIZE
"""GET_DEVICE_FD: strndup_user(arg, PAGE_SIZE), the NUL included."""


def dirty_bitmap_bytes(npages: int) -> int:
    """DIRTY_BITMAP_BYTES(): a bit per page, in whole 64-bit words."""
    return (npages + 63) // 64 * 8
