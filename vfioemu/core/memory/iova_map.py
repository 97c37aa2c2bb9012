# SPDX-License-Identifier: MIT
"""The mappings of a container, and how they are looked up.

Kernel: struct vfio_dma, vfio_find_dma(), vfio_find_dma_first_node(), vfio_link_dma() and the walks with rb_next().
"""

from collections.abc import Iterator

from vfioemu.core.base.caller import AddressSpace
from vfioemu.core.base.limits import U64_MAX
from vfioemu.core.base.pages import Pages
from vfioemu.core.memory.pin_counts import PinCounts
from vfioemu.core.memory.rbtree import Node, Tree
from vfioemu.native.bitmap import DirtyBitmap

PROT_READ = 1
"""IOMMU_READ, and bit for bit VFIO_DMA_MAP_FLAG_READ: the device may read."""
PROT_WRITE = 2
"""IOMMU_WRITE, VFIO_DMA_MAP_FLAG_WRITE: the device may write."""


class Dma(Node):
    """One mapping: struct vfio_dma.

    Attributes:
        iova: where devices see it.
        size: in bytes; 0 while it is being made.
        vaddr: where `space` sees it.
        prot: PROT_READ, PROT_WRITE.
        space: the address space that called MAP_DMA, whoever asks for DMA later.
        ipc_lock: the mapper had CAP_IPC_LOCK.
        iommu_mapped: all of it is pinned and mapped by hardware.
        pages: what is pinned for hardware, once it is.
        vaddr_invalid: UNMAP_DMA with VADDR took its vaddr away.
        locked: pages charged for it.
        pins: how often each exact iova is pinned; an unaligned pin is its own, not its page's.
        quotas: of whoever made it, whoever has it later.
        bitmap: its dirty pages while tracking is on.
        all_dirty: every page is dirty, whatever the bitmap says: it need not be filled for that.
        indexed: it is in the C index.
        window: keeps the memory mapped here that the C index has the address of.
    """

    __slots__ = (
        "all_dirty",
        "bitmap",
        "indexed",
        "iommu_mapped",
        "iova",
        "ipc_lock",
        "locked",
        "pages",
        "pins",
        "prot",
        "quotas",
        "size",
        "space",
        "vaddr",
        "vaddr_invalid",
        "window",
    )

    def __init__(self, iova: int, vaddr: int, prot: int, space: AddressSpace, ipc_lock: bool) -> None:
        super().__init__()
        self.iova = iova
        self.size = 0
        self.vaddr = vaddr
        self.prot = prot
        self.space = space
        self.ipc_lock = ipc_lock
        self.iommu_mapped = False
        self.pages: Pages | None = None
        self.vaddr_invalid = False
        self.window: object = None
        self.locked = 0
        self.quotas = space.quotas
        self.pins = PinCounts(self.quotas.pins)
        self.bitmap: DirtyBitmap | None = None
        self.all_dirty = False
        self.indexed = False

    def __repr__(self) -> str:
        return f"<Dma {self.iova:#x}+{self.size:#x} -> {self.vaddr:#x} prot {self.prot}>"

    def __str__(self) -> str:
        return f"mapping {self.iova:#x}+{self.size:#x} (vaddr {self.vaddr:#x})"


class IovaMap:
    """The mappings by iova.

    Args:
        top_wraps: ends are computed in 64 bits, so that a mapping up to 2^64 ends at 0, as vfio_find_dma() of Linux
            6.12 has it: such a mapping is found by nobody, and whoever meets it in the tree turns the wrong way.
    """

    __slots__ = ("_mask", "_tree", "tangled", "top_wraps")

    def __init__(self, top_wraps: bool) -> None:
        self.top_wraps = top_wraps
        self.tangled = False
        """There has been a mapping with the end 0 since the map was empty, so mappings may overlap: a lookup that went
        astray at it has let others in, which stay when it goes."""
        self._mask = U64_MAX if top_wraps else -1
        self._tree: Tree[Dma] = Tree()

    def __len__(self) -> int:
        return self._tree.count

    def __iter__(self) -> Iterator[Dma]:
        """In the order of IOVAs; the map must not change meanwhile."""
        dma = self._tree.first()
        while dma is not None:
            yield dma
            dma = self._tree.next(dma)

    def end(self, iova: int, size: int) -> int:
        """Add `size` in the arithmetic of lookups."""
        return (iova + size) & self._mask

    def find(self, start: int, size: int) -> Dma | None:
        """Find some mapping that overlaps [start, start+size). Kernel: vfio_find_dma()."""
        mask = self._mask
        end = (start + size) & mask
        dma = self._tree.root
        while dma is not None:
            if end <= dma.iova:
                dma = dma.left
            elif start >= (dma.iova + dma.size) & mask:
                dma = dma.right
            else:
                return dma
        return None

    def find_last(self, start: int, size: int) -> Dma | None:
        """Find the mapping that holds the last byte of the range. Kernel: vfio_find_dma(iommu, iova + size - 1, 0)."""
        return self.find(start + size - 1, 0 if self.top_wraps else 1)

    def first_overlapping(self, start: int, size: int) -> Dma | None:
        """Find the first mapping in [start, start+size). Kernel: vfio_find_dma_first_node()."""
        mask = self._mask
        found: Dma | None = None
        dma = self._tree.root
        while dma is not None:
            if start < (dma.iova + dma.size) & mask:
                found = dma
                if start >= dma.iova:
                    break
                dma = dma.left
            else:
                dma = dma.right
        if found is not None and found.iova >= (start + size) & mask:
            return None
        return found

    def starting_from(self, iova: int) -> Dma | None:
        """Find the first mapping that starts at `iova` or later; the order of starts is right in any tree."""
        found: Dma | None = None
        dma = self._tree.root
        while dma is not None:
            if dma.iova >= iova:
                found, dma = dma, dma.left
            else:
                dma = dma.right
        return found

    def starting_before(self, iova: int) -> Dma | None:
        """Find the last mapping that starts before `iova`."""
        found: Dma | None = None
        dma = self._tree.root
        while dma is not None:
            if dma.iova < iova:
                found, dma = dma, dma.right
            else:
                dma = dma.left
        return found

    def next(self, dma: Dma) -> Dma | None:
        """rb_next()."""
        return self._tree.next(dma)

    def link(self, dma: Dma) -> None:
        """vfio_link_dma(); the mapping is linked with size 0 and grows afterwards."""
        parent: Dma | None = None
        left = False
        at = self._tree.root
        while at is not None:
            parent, left = at, dma.iova <= at.iova
            at = at.left if left else at.right
        self._tree.link(dma, parent, left)

    def grow(self, dma: Dma, size: int) -> None:
        """Give a mapping its size."""
        dma.size = size
        self.tangled |= self.end(dma.iova, size) == 0

    def unlink(self, dma: Dma) -> None:
        """vfio_unlink_dma()."""
        self._tree.erase(dma)
        self.tangled = self.tangled and self._tree.root is not None
