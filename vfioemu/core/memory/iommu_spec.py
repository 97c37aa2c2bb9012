# SPDX-License-Identifier: MIT
"""The hardware IOMMU behind a group, as plain data."""

from dataclasses import dataclass

from vfioemu.core.base.limits import PAGE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class IommuSpec:
    """The hardware IOMMU behind a group.

    Attributes:
        address_bits: width of an IOVA: the aperture is [0, 2^address_bits).
        pgsizes: the page sizes it supports, as a mask; 4 KiB is among them.
        reserved: [start, end] ranges, inclusive, that no mapping may touch (the MSI window).
        coherent: it enforces cache coherency (VFIO_DMA_CC_IOMMU).
        isolated_msi: interrupts are remapped; without it the group is refused (EPERM).
    """

    address_bits: int = 48
    pgsizes: int = 0x40201000
    reserved: tuple[tuple[int, int], ...] = ()
    coherent: bool = False
    isolated_msi: bool = True

    def __post_init__(self) -> None:
        if not 12 < self.address_bits <= 64:
            raise ValueError(f"address_bits is {self.address_bits}, not 13 to 64")
        if not self.pgsizes & PAGE_SIZE or self.pgsizes >> 64:
            raise ValueError(f"pgsizes {self.pgsizes:#x} lacks 4 KiB")
        for start, end in self.reserved:
            if start > end:
                raise ValueError(f"reserved range [{start:#x}, {end:#x}]: start is after end")
            if start < 0 or end >> 64:
                raise ValueError(f"reserved range [{start:#x}, {end:#x}] is outside 0..{(1 << 64) - 1:#x}")

    @property
    def last(self) -> int:
        """The last IOVA of the aperture."""
        return (1 << self.address_bits) - 1
