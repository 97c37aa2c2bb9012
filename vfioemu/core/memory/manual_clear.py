# SPDX-License-Identifier: MIT
"""Manual clearing of the dirty log, as data: an extension that was proposed for type1 in 2021 and never merged.

Between GET_BITMAP and the moment at which a client copies a page, the page may get dirty again, and is copied twice. So
the proposal lets a client look at the bitmap without clearing it, and clear page by page just before it copies. The
variants differ in how one asks for that, and in mistakes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from vfioemu.uapi import proposed as p


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualClear:
    """One variant.

    Attributes:
        name: as in a machine description.
        clear_flag: the operation CLEAR_BITMAP; 0 where there is none.
        noclear_flag: the operation GET_BITMAP_NOCLEAR; 0 where there is none.
        by_query: CHECK_EXTENSION of the extension makes GET_BITMAP leave the bitmap alone from then on, for good.
        shift_back: a bitmap that was shifted to meet the user's is shifted back when it is not cleared.
        mapped_only: CLEAR_BITMAP passes over mappings that no IOMMU has.
    """

    name: str
    clear_flag: int = 0
    noclear_flag: int = 0
    by_query: bool = False
    shift_back: bool = False
    mapped_only: bool = False

    @property
    def offered(self) -> bool:
        """Tell whether the extension is there."""
        return self.clear_flag != 0


OFF: Final = ManualClear(name="off")
AS_POSTED: Final = ManualClear(
    name="as-posted",
    clear_flag=p.VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_BITMAP_POSTED,
    by_query=True,
    mapped_only=True,
)
"""The patch of April 2021, to the bit."""
FIXED: Final = ManualClear(
    name="fixed",
    clear_flag=p.VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_BITMAP_POSTED,
    by_query=True,
)
"""The same with what its text promises: pages of mappings that only devices without an IOMMU use can be cleared."""
NOCLEAR_FLAG: Final = ManualClear(
    name="noclear-flag",
    clear_flag=p.VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_BITMAP,
    noclear_flag=p.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP_NOCLEAR,
    shift_back=True,
)
"""The second RFC, of May 2021, which openEuler ships: an operation of its own instead of a side effect."""

VARIANTS: Final[Mapping[str, ManualClear]] = MappingProxyType(
    {variant.name: variant for variant in (OFF, AS_POSTED, FIXED, NOCLEAR_FLAG)}
)
