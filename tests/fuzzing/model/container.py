# SPDX-License-Identifier: MIT
"""The model's container: groups, mappings and the dirty tracker."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.fuzzing.model.device import Device, Group
from tests.fuzzing.model.mapping import PAGE, VADDR, WRITE, Mapping, Refusal, Space, UserBitmap

GET_DIRTY, ALL = 1, 2
NESTING: Final = 6
MAX_PAGES: Final = (1 << 31) - 1
MAX_BITMAP: Final = 1 << 28
WORD: Final = (1 << 64) - 1


@dataclass(eq=False, kw_only=True)
class Container:
    """A container and its type1 IOMMU.

    Attributes:
        limit: dma_entry_limit as it was at SET_IOMMU.
        devices: all devices of the machine, to find those that are in here.
        ranges: usable IOVAs; None as long as no IOMMU-backed group has ever been in here.
        clean: dirty bits are as they should be, without the kernel's mistakes.
    """

    devices: list[Device]
    clean: bool = False
    groups: list[Group] = field(default_factory=list)
    type: int | None = None
    limit: int = 65535
    maps: dict[int, Mapping] = field(default_factory=dict)
    ranges: tuple[tuple[int, int], ...] | None = None
    tracking: bool = False

    @property
    def invalid(self) -> int:
        """How many mappings have an invalid vaddr."""
        return sum(not mapping.vaddr_valid for mapping in self.maps.values())

    @property
    def backed(self) -> bool:
        """An IOMMU-backed group is in here."""
        return any(group.backed for group in self.groups)

    def find(self, iova: int) -> Mapping | None:
        """The mapping that contains an IOVA."""
        for mapping in self.maps.values():
            if mapping.iova <= iova < mapping.iova + mapping.size:
                return mapping
        return None

    def within(self, iova: int, size: int) -> list[Mapping]:
        """The mappings that touch a range, in IOVA order."""
        touched = [m for m in self.maps.values() if m.iova < iova + size and iova < m.iova + m.size]
        return sorted(touched, key=lambda mapping: mapping.iova)

    def unpin(self, page: int) -> None:
        """vfio_unpin_pages() of one page."""
        mapping = self.find(page)
        if mapping is not None and mapping.pins[page] > 0:
            mapping.unpin(page)

    # --- groups ---

    def set_iommu(self, type_: int) -> None:
        """VFIO_SET_IOMMU."""
        if not self.groups or self.type is not None or type_ == 9:
            raise Refusal("EINVAL")
        if type_ not in (1, 3, 6):
            raise Refusal("ENODEV")
        if type_ == NESTING and self.backed:
            raise Refusal("EINVAL")
        self.type = type_
        for group in self.groups:
            self._attach(group)

    def add_group(self, group: Group) -> None:
        """VFIO_GROUP_SET_CONTAINER."""
        if group.container is not None:
            raise Refusal("EINVAL")
        if self.type is not None:
            self._attach(group)
        group.container = self
        self.groups.append(group)

    def remove_group(self, group: Group) -> None:
        """VFIO_GROUP_UNSET_CONTAINER, once no device of it is open."""
        self.groups.remove(group)
        group.container = None
        if not self.groups:
            self.__init__(devices=self.devices, clean=self.clean, limit=self.limit)  # type: ignore[misc]  # as new
            return
        if self.type is None or not group.backed:
            return
        if not self.backed:
            self.ranges = ((0, WORD),)
            for mapping in self.maps.values():
                mapping.iommu_mapped = False
        if not group.tracks:
            for mapping in self.maps.values():
                mapping.mark_all()

    def _attach(self, group: Group) -> None:
        if self.invalid:
            raise Refusal("EBUSY")
        if group.ranges is None:
            group.tracks = True
            return
        if self.type == NESTING:  # an x86 IOMMU has nothing to nest
            raise Refusal("EINVAL")
        last = group.ranges[-1][1]
        beyond = any(mapping.iova + mapping.size - 1 > last for mapping in self.maps.values())
        if self.clean and self.ranges and beyond:  # 6.12 looks for them up to 2^64, and so finds none
            raise Refusal("EINVAL")
        for mapping in self.maps.values():
            if any(a < mapping.iova + mapping.size and mapping.iova < b for a, b in _holes(group.ranges)):
                raise Refusal("EINVAL")
        for mapping in sorted(self.maps.values(), key=lambda mapping: mapping.iova):
            if mapping.iova + mapping.size - 1 > last:
                raise Refusal("EFAULT")
            if not mapping.iommu_mapped and not _fully_accessible(mapping):
                raise Refusal("EFAULT")
        for mapping in self.maps.values():
            mapping.iommu_mapped = True
        self.ranges = group.ranges
        group.tracks = False

    # --- mappings ---

    def map(self, space: Space, *, flags: int, vaddr: int, iova: int, size: int) -> None:
        """VFIO_IOMMU_MAP_DMA."""
        if self.type is None or flags & ~7 or not flags or (flags & 3 and flags & VADDR):
            raise Refusal("EINVAL")
        if not size or (size | iova | vaddr) % PAGE or iova + size > 1 << 64 or vaddr + size > 1 << 64:
            raise Refusal("EINVAL")
        found = self.within(iova, size)
        if flags & VADDR:
            self._revalidate(space, found, vaddr, iova, size)
            return
        if found:
            raise Refusal("EEXIST")
        if len(self.maps) >= self.limit:
            raise Refusal("ENOSPC")
        if self.ranges is not None and not any(a <= iova and iova + size - 1 <= b for a, b in self.ranges):
            raise Refusal("EINVAL")
        mapping = Mapping(
            iova=iova, size=size, vaddr=vaddr, prot=flags & 3, space=space, iommu_mapped=self.backed
        )
        if self.backed and not _fully_accessible(mapping):
            raise Refusal("EFAULT")
        if self.tracking:
            if mapping.npages > MAX_PAGES:
                raise Refusal("EINVAL")
            mapping.bitmap = 0
        self.maps[iova] = mapping

    def unmap(self, *, flags: int, iova: int, size: int, bitmap: UserBitmap | None = None) -> int:
        """VFIO_IOMMU_UNMAP_DMA, with a bitmap if the flags ask for dirty bits; returns the bytes unmapped."""
        if self.type is None or flags & ~7 or (flags & GET_DIRTY and flags & (ALL | VADDR)):
            raise Refusal("EINVAL")
        if bitmap is not None:
            _check_bitmap(size, bitmap)
        if flags & VADDR and not all(group.backed for group in self.groups):
            raise Refusal("EBUSY")
        if iova % PAGE or size % PAGE or bool(flags & ALL) != (size == 0) or (flags & ALL and iova):
            raise Refusal("EINVAL")
        if iova + size > 1 << 64:
            raise Refusal("EINVAL")
        if bitmap is not None and (not self.tracking or bitmap.pgsize != PAGE):
            raise Refusal("EINVAL")
        touched = list(self.maps.values()) if flags & ALL else self.within(iova, size)
        touched.sort(key=lambda mapping: mapping.iova)
        if not self.clean and not flags & ALL and size and iova + size == 1 << 64:
            touched = [m for m in touched if self.type != 1 and m.iova < iova]  # else 6.12 looks below 0
        if not flags & ALL:
            if self.type != 1:
                self._check_bisected(touched, iova, size)
            elif touched and touched[0].iova < iova:
                return 0
        if flags & VADDR:
            if any(not mapping.vaddr_valid for mapping in touched):
                for mapping in touched[: [m.vaddr_valid for m in touched].index(False)]:
                    mapping.vaddr_valid = True
                raise Refusal("EINVAL")
            for mapping in touched:
                mapping.vaddr_valid = False
        else:
            for mapping in touched:
                self._remove(mapping, iova, bitmap)
        return sum(mapping.size for mapping in touched) & ((1 << 64) - 1)

    def _remove(self, mapping: Mapping, base: int, bitmap: UserBitmap | None) -> None:
        if mapping.pins:
            for device in self.devices:
                if device.opened and device.has_dma_unmap and device.group.container is self:
                    device.unmapped(mapping.iova, mapping.size)
        if bitmap is not None:
            self._merge(mapping, base, bitmap)
        del self.maps[mapping.iova]

    def _revalidate(self, space: Space, found: list[Mapping], vaddr: int, iova: int, size: int) -> None:
        if not found:
            raise Refusal("ENOENT")
        mapping = found[0]
        if mapping.vaddr_valid or (mapping.iova, mapping.size) != (iova, size):
            raise Refusal("EINVAL")
        mapping.vaddr, mapping.space, mapping.vaddr_valid = vaddr, space, True

    @staticmethod
    def _check_bisected(touched: list[Mapping], iova: int, size: int) -> None:
        if touched:
            last = touched[-1]
            if touched[0].iova < iova or last.iova + last.size > iova + size:
                raise Refusal("EINVAL")

    # --- dirty tracking ---

    def start(self) -> None:
        """VFIO_IOMMU_DIRTY_PAGES, START."""
        self._check_tracker()
        if self.tracking:
            return
        if any(mapping.npages > MAX_PAGES for mapping in self.maps.values()):
            raise Refusal("EINVAL")
        self.tracking = True
        for mapping in self.maps.values():
            mapping.bitmap = 0
            mapping.mark_pinned()

    def stop(self) -> None:
        """VFIO_IOMMU_DIRTY_PAGES, STOP."""
        self._check_tracker()
        self.tracking = False
        for mapping in self.maps.values():
            mapping.bitmap = None

    def get(self, *, iova: int, size: int, bitmap: UserBitmap) -> None:
        """VFIO_IOMMU_DIRTY_PAGES, GET_BITMAP."""
        self._check_tracker()
        if iova + size >= 1 << 64:
            raise Refusal("EINVAL")
        _check_bitmap(size, bitmap)
        if bitmap.pgsize != PAGE or iova % PAGE or size % PAGE or not self.tracking:
            raise Refusal("EINVAL")
        touched = self.within(iova, size)
        self._check_bisected(touched, iova, size)
        for mapping in touched:
            self._merge(mapping, iova, bitmap)
            if mapping.bitmap is not None:
                mapping.bitmap &= ~((1 << mapping.npages) - 1)
            mapping.mark_pinned()

    def _check_tracker(self) -> None:
        if self.type is None:
            raise Refusal("EINVAL")
        if self.type == 1:
            raise Refusal("EACCES")

    def _merge(self, mapping: Mapping, base: int, user: UserBitmap) -> None:
        """update_user_bitmap(): the words of one mapping's bitmap into the user's, shifted in place."""
        if mapping.bitmap is None:
            raise AssertionError("a mapping without a bitmap while tracking")
        if mapping.iommu_mapped and any(not group.tracks for group in self.groups):
            mapping.mark_all()
        offset = (mapping.iova - base) // PAGE
        first, shift = 8 * (offset // 64), offset % 64
        words = -(-(mapping.npages + shift) // 64)
        mask = (1 << 64 * words) - 1
        if self.clean:
            below = user.load(first) & ((1 << shift) - 1) if shift else 0
            user.store(first, (mapping.bitmap << shift | below).to_bytes(8 * words, "little"))
            return
        if shift:
            mapping.bitmap = mapping.bitmap & ~mask | (mapping.bitmap << shift) & mask
            mapping.bitmap |= user.load(first)
        user.store(first, (mapping.bitmap & mask).to_bytes(8 * words, "little"))


def _fully_accessible(mapping: Mapping) -> bool:
    size = mapping.size
    return mapping.space.accessible(mapping.vaddr, size, write=bool(mapping.prot & WRITE)) >= size


def _holes(ranges: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    for (_, before), (after, _) in itertools.pairwise(ranges):
        yield before + 1, after


def _check_bitmap(size: int, bitmap: UserBitmap) -> None:
    if not bitmap.valid or not bitmap.pgsize:
        raise Refusal("EINVAL")
    pages = size >> (bitmap.pgsize & -bitmap.pgsize).bit_length() - 1
    if not pages or not bitmap.size or bitmap.size > MAX_BITMAP or bitmap.size < -(-pages // 64) * 8:
        raise Refusal("EINVAL")
