# SPDX-License-Identifier: MIT
"""Numbers that were proposed for <linux/vfio.h> and never got there: manual clearing of the dirty log.

Two spellings exist in the field. The patches as posted in spring 2021 have CLEAR_BITMAP alone; those of the second RFC,
which openEuler ships, put GET_BITMAP_NOCLEAR in its place and CLEAR_BITMAP behind it. The argument is that of
GET_BITMAP in all cases.
"""

from typing import Final

VFIO_DIRTY_LOG_MANUAL_CLEAR: Final = 11
"""The extension, in all versions but the very first."""

VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_BITMAP_POSTED: Final = 1 << 3
"""CLEAR_BITMAP of the patches as posted."""
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP_NOCLEAR: Final = 1 << 3
VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_BITMAP: Final = 1 << 4
"""CLEAR_BITMAP where there is GET_BITMAP_NOCLEAR."""
