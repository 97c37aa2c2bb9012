# SPDX-License-Identifier: MIT
"""The memory, not the addresses, that MAP_DMA has pinned for an IOMMU.

Kernel: vfio_pin_pages_remote() holds pages until they are unmapped for DMA, and the IOMMU knows nothing of what becomes of
the addresses meanwhile. vfio_dma_rw() is the opposite: it goes to an address, and to whatever is there at that moment.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vfioemu.core.base.locks import Lock


class Holder(Protocol):
    """The mapping that holds pages."""

    @property
    def lock(self) -> "Lock":
        """The container's, without which nothing of the pages may move."""

    def moved(self) -> None:
        """They are at another place in this process by now, or at none."""

    def written(self, offset: int, size: int) -> None:
        """Mark [offset, offset+size) dirty again: a device's write there, marked before, reaches the programs only now."""


class Pages(Protocol):
    """The pinned pages of one mapping. `AddressSpace.pages` makes them, and each driver has its own.

    They are read and written by the effects PagesRead and PagesWrite, which see no protection: that was looked at when they
    were pinned.
    """

    def host(self) -> int | None:
        """Return the address in this process where all of them are mapped one behind the other, or None.

        It stays for as long as the pages are held, until the holder is told that they have `moved`.
        """

    def readdress(self, space: object, vaddr: int) -> None:
        """MAP_DMA with VADDR says that they are at `vaddr` of `space` by now: what has been lost is to be found there."""

    def release(self) -> None:
        """They are pinned no more."""
