# SPDX-License-Identifier: MIT
"""The state of a type1 instance: struct vfio_iommu, vfio_domain and vfio_iommu_group.

One lock, the container's, guards all of it as iommu->lock does in the kernel: handlers take it with `hold()` and keep
it over the effects that they yield. The handlers are in the modules beside this one.
"""

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from vfioemu.core.base.effects import Steps, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, U64_MAX, dirty_bitmap_bytes
from vfioemu.core.base.slices import MAPPING, Slices
from vfioemu.core.memory.backend import IommuGroup, PinningDevice, Setting
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.memory.iova_map import Dma, IovaMap
from vfioemu.core.memory.pin_counts import AREA, runs
from vfioemu.core.type1.owners import Owners
from vfioemu.native.index import IovaIndex

if TYPE_CHECKING:
    from vfioemu.core.base.caller import AddressSpace


class Domain:
    """One IOMMU domain: page tables that several groups share."""

    __slots__ = ("groups", "spec")

    def __init__(self, spec: IommuSpec) -> None:
        self.spec = spec
        self.groups: list[AttachedGroup] = []

    def takes(self, spec: IommuSpec) -> bool:
        """Tell whether a group behind such hardware can join: same coherency, width and page sizes."""
        mine = self.spec
        return (mine.coherent, mine.address_bits, mine.pgsizes) == (
            spec.coherent,
            spec.address_bits,
            spec.pgsizes,
        )


class AttachedGroup:
    """A group in the container.

    Attributes:
        group: which.
        domain: its domain; None for emulated devices.
        pinned_page_dirty_scope: only pins and dma_rw can dirty memory: all of its DMA is known.
    """

    __slots__ = ("domain", "group", "pinned_page_dirty_scope")

    def __init__(self, group: IommuGroup, domain: Domain | None) -> None:
        self.group = group
        self.domain = domain
        self.pinned_page_dirty_scope = domain is None


class Iommu:
    """A type1 instance.

    Args:
        setting: what the container gives it.
        v2: VFIO_TYPE1v2_IOMMU.
        nesting: VFIO_TYPE1_NESTING_IOMMU.

    Attributes:
        manual_clear_on: GET_BITMAP clears nothing any more.
    """

    def __init__(self, setting: Setting, *, v2: bool, nesting: bool) -> None:
        profile = setting.profile
        self.lock = setting.lock
        self.v2 = v2
        self.nesting = nesting
        self.profile = profile
        self.recorded = setting.quirks == "recorded"
        self.accounting = setting.accounting
        self.dma_avail = setting.dma_avail
        self.manual_clear = setting.manual_clear
        self.manual_clear_on = False
        self.released = False
        self.map = IovaMap(top_wraps=profile.top_wraps and self.recorded)
        self.index = IovaIndex()
        self.owners = Owners()
        self.domains: list[Domain] = []
        self.groups: dict[IommuGroup, AttachedGroup] = {}
        self.iova_list: list[tuple[int, int]] = []
        """Usable ranges, inclusive and ascending; empty until there has been an IOMMU-backed group."""
        self.pgsize_bitmap = PAGE_MASK
        self.vaddr_invalid_count = 0
        self.num_non_pinned_groups = 0
        self.dirty_page_tracking = False
        self.devices: list[PinningDevice] = []
        """Open devices with a dma_unmap callback, newest first."""

    def hold(self) -> Steps[None]:
        """Take the lock; EINVAL, without it, when the last group left the container meanwhile."""
        yield from locked(self.lock)
        if self.released:
            self.lock.release()
            raise IoctlError(errno.EINVAL, "the last group has left the container")

    @property
    def pgsize(self) -> int:
        """The smallest page size: of IOVAs, of pins, of dirty bits."""
        return self.pgsize_bitmap & -self.pgsize_bitmap

    @property
    def pgshift(self) -> int:
        """log2 of `pgsize`."""
        return self.pgsize.bit_length() - 1

    @property
    def has_emulated(self) -> bool:
        """Tell whether there is an mdev in the container."""
        return any(attached.domain is None for attached in self.groups.values())

    @property
    def coherent(self) -> bool:
        """VFIO_DMA_CC_IOMMU: every domain enforces coherency; true of none at all."""
        return all(domain.spec.coherent for domain in self.domains)

    def update_pgsizes(self) -> None:
        """vfio_update_pgsize_bitmap(): what all domains support, with 4 KiB for anything smaller."""
        pgsizes = U64_MAX
        for domain in self.domains:
            pgsizes &= domain.spec.pgsizes
        if pgsizes & ~PAGE_MASK:
            pgsizes = (pgsizes & PAGE_MASK) | PAGE_SIZE
        self.pgsize_bitmap = pgsizes

    def iova_valid(self, start: int, end: int) -> bool:
        """vfio_iommu_iova_dma_valid(): [start, end] is inside one usable range, or there are none."""
        return not self.iova_list or any(first <= start and end <= last for first, last in self.iova_list)

    def expose(self, dma: Dma) -> None:
        """Let the C index find the mapping, once it is whole.

        It shows the memory that hardware holds, or without hardware, the window at the address. What the index has no
        memory for goes the slow way, as does everything while mappings may overlap: the index does not take those.
        """
        if self.map.tangled:
            return
        host = dma.space.window(dma.vaddr, dma.size) if dma.pages is None else dma.pages.host()
        with suppress(MemoryError):
            self.index.insert(dma.iova, dma.size, dma.prot, host or 0, dma.bitmap)
            dma.window = dma.space.hold(dma.vaddr, dma.size) if dma.pages is None else dma.pages
            dma.indexed = True

    def conceal(self, dma: Dma) -> None:
        """Take the mapping from the C index: from here on no batch touches its memory."""
        if dma.indexed:
            self.index.remove(dma.iova)
            dma.window = None
            dma.indexed = False

    def expose_anew(self, dma: Dma) -> None:
        """Its memory is another one now, or at another place in this process."""
        self.conceal(dma)
        self.expose(dma)

    def index_serves_rw(self, current: "AddressSpace | None") -> Steps[bool]:
        """Tell whether vfio_dma_rw() of a caller may go by the C index.

        Not if an address has become something else since it was shown: hardware keeps what was there, vfio_dma_rw() does
        not. Not if a mapping is somebody else's either: the index does not say whose.
        """
        if self.map.tangled or not self.owners.are(current):
            return False
        if self.owners.changed():
            if self.domains:
                return False
            slices = Slices()
            for dma in self.map:
                self.expose_anew(dma)
                if slices.done(MAPPING):
                    yield from slices.breathe()
            self.owners.note()
        return True

    def mark(self, dma: Dma, offset: int, count: int) -> None:
        """Mark bytes of a mapping dirty."""
        if dma.bitmap is not None:
            first = offset >> self.pgshift
            dma.bitmap.mark_range(first, ((offset + count - 1) >> self.pgshift) - first + 1)

    def track(self, dma: Dma) -> None:
        """Let DMA through the C index mark the mapping's bitmap."""
        if dma.indexed:
            self.index.set_bitmap(dma.iova, dma.bitmap)

    def populate(self, dma: Dma) -> Steps[None]:
        """vfio_dma_populate_bitmap(): every pinned page is dirty."""
        bitmap = dma.bitmap
        if not dma.pins or bitmap is None:
            return
        more = self.pgshift - PAGE_SHIFT
        slices = Slices()
        for start, bits in dma.pins.within(dma.iova, dma.iova + dma.size - 1):
            first = (start - dma.iova) >> PAGE_SHIFT  # of the area, which may begin before the mapping
            if more:
                bitmap.populate((first + at + i) >> more for at, count in runs(bits) for i in range(count))
            else:
                skip = max(0, -first)
                bitmap.merge(
                    (bits >> skip).to_bytes(AREA // 8, "little"), first + skip, bits.bit_length() - skip
                )
            if slices.done(AREA if more else MAPPING):
                yield from slices.breathe()

    def free_bitmap(self, dma: Dma) -> None:
        """vfio_dma_bitmap_free()."""
        bitmap, dma.bitmap = dma.bitmap, None
        dma.all_dirty = False
        if bitmap is not None:
            dma.quotas.bitmaps.give(bitmap.nbytes)
            self.track(dma)
            bitmap.close()

    def remove(self, dma: Dma) -> None:
        """vfio_remove_dma(): after it nothing of the mapping is left, its pins and charges included."""
        self.conceal(dma)
        dma.pins.clear()
        self.accounting.charge(dma, -dma.locked)
        pages, dma.pages = dma.pages, None
        if pages is not None:
            pages.release()
        self.owners.drop(dma.space)
        self.map.unlink(dma)
        self.free_bitmap(dma)
        self.vaddr_invalid_count -= dma.vaddr_invalid
        self.dma_avail += 1
        dma.quotas.mappings.give(1)

    def remove_all(self) -> Steps[None]:
        """vfio_iommu_unmap_unpin_all()."""
        slices = Slices()
        while (dma := next(iter(self.map), None)) is not None:
            if slices.done(MAPPING):
                yield from slices.breathe()
            self.remove(dma)

    def count_mappings(self) -> int:
        """Count the mappings."""
        return len(self.map)

    def gauges(self) -> dict[str, int]:
        """Return what is held, in the kernel's own units, for statistics and for the checks of fuzzers."""
        shift = self.pgshift
        size = locked = pins = references = bitmaps = bitmap_bytes = 0
        for dma in self.map:  # once: there may be 65535, and everybody waits
            size += dma.size
            locked += dma.locked
            if dma.pins:
                pins += len(dma.pins)
                references += dma.pins.references
            if dma.bitmap is not None:
                bitmaps += 1
                bitmap_bytes += dirty_bitmap_bytes(dma.size >> shift) + 8
        return {
            "mappings": len(self.map),
            "mapped_bytes": size,
            "dma_avail": self.dma_avail,
            "pins": pins,
            "pin_references": references,
            "locked_pages": locked,
            "bitmaps": bitmaps,
            "bitmap_bytes": bitmap_bytes,
            "vaddr_invalid": self.vaddr_invalid_count,
            "devices": len(self.devices),
        }


def pages(size: int) -> int:
    """Return the number of 4 KiB pages in `size` bytes: the unit of pins and of locked memory."""
    return size >> PAGE_SHIFT
