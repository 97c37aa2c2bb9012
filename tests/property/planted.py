# SPDX-License-Identifier: MIT
"""Mistakes to plant into the core, of the kind that one makes: what cannot find these finds nothing."""

import errno
from collections.abc import Callable
from types import SimpleNamespace

from vfioemu.core import irqs
from vfioemu.core.container import Container
from vfioemu.core.group import Group
from vfioemu.core.limits import Accounting
from vfioemu.core.type1 import attach, dirty_pages, external, map_dma, state, unmap_dma


def _nothing(*args, **kwargs):
    del args, kwargs


def _yields_nothing(*args):
    del args
    yield from ()


def unpinned_pages_stay_pinned(patch):
    patch.setattr(external, "_unpin", _nothing)


def pinned_pages_are_reported_only_once(patch):
    patch.setattr(dirty_pages, "populate", _nothing)


def dma_writes_are_not_marked(patch):
    patch.setattr(external, "_mark", _nothing)


def dma_marks_one_page_too_few(patch):
    def mark(iommu, dma, offset, count):
        if dma.bitmap is not None:
            first = offset >> 12
            dma.bitmap.mark_range(first, max(1, (offset + count - 1 >> 12) - first))

    patch.setattr(external, "_mark", mark)


def bisected_mappings_are_accepted(patch):
    patch.setattr(dirty_pages, "refuse_bisecting", _nothing)
    patch.setattr(unmap_dma, "refuse_bisecting", _nothing)


def dirty_bits_have_no_residue(patch):
    patch.setattr(dirty_pages, "_merge_recorded", dirty_pages._merge_clean)


def reserved_iovas_are_accepted(patch):
    patch.setattr(state.Iommu, "iova_valid", lambda *_: True)


def overlaps_have_another_errno(patch):
    patch.setattr(map_dma, "errno", SimpleNamespace(**vars(errno) | {"EEXIST": errno.EBUSY}))


def locked_memory_is_not_given_back(patch):
    charge = Accounting.charge
    patch.setattr(Accounting, "charge", lambda self, dma, n: charge(self, dma, n) if n > 0 else None)


def groups_are_opened_twice(patch):
    def open_again(self):
        self.file = None
        return (yield from open_once(self))

    open_once = Group.open
    patch.setattr(Group, "open", open_again)


def groups_stay_in_their_container(patch):
    patch.setattr(Container, "detach", _yields_nothing)


def hot_added_groups_replay_nothing(patch):
    patch.setattr(attach, "_replay", _yields_nothing)


def a_leaving_group_dirties_nothing(patch):
    detach = attach.detach_group

    def silently(iommu, group):
        tracking, iommu.dirty_page_tracking = iommu.dirty_page_tracking, False
        detach(iommu, group)
        iommu.dirty_page_tracking = tracking

    patch.setattr(attach, "detach_group", silently)


def eventfds_are_never_put(patch):
    def drop(self, index=None):
        for key in [key for key in self._triggers if index is None or key[0] == index]:
            del self._triggers[key]

    patch.setattr(irqs.IrqTable, "drop", drop)


SEEN_BY_CALLS: list[Callable] = [
    unpinned_pages_stay_pinned,
    pinned_pages_are_reported_only_once,
    dma_writes_are_not_marked,
    dma_marks_one_page_too_few,
    bisected_mappings_are_accepted,
    dirty_bits_have_no_residue,
    reserved_iovas_are_accepted,
    overlaps_have_another_errno,
    locked_memory_is_not_given_back,
    groups_are_opened_twice,
    groups_stay_in_their_container,
    hot_added_groups_replay_nothing,
    a_leaving_group_dirties_nothing,
]
"""What a sequence of well-formed calls can show."""

SEEN_BY_THE_FUZZER: list[Callable] = [*SEEN_BY_CALLS, eventfds_are_never_put]

IN_C: dict[str, str] = {
    "VFE_PLANT_LOST_BIT": "bitmap",
    "VFE_PLANT_SUMMARY": "bitmap",
    "VFE_PLANT_BOUND": "dma",
    "VFE_PLANT_RESIDUE": "bitmap",
    "VFE_PLANT_LOG": "dma",
    "VFE_PLANT_ZERO": "pages",
}
"""Mistakes in the C kernel (csrc/vfe_plant.h), and the fuzz target that finds each."""
