# SPDX-License-Identifier: MIT
"""Groups come and go: vfio_iommu_type1_attach_group() and vfio_iommu_type1_detach_group().

Both run under the container's lock, which the container holds.
"""

import errno

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.slices import MAPPING, Slices
from vfioemu.core.memory.backend import IommuGroup
from vfioemu.core.memory.iova_map import Dma
from vfioemu.core.type1 import iova_list
from vfioemu.core.type1.pinning import pin_whole, unpin_whole
from vfioemu.core.type1.state import AttachedGroup, Domain, Iommu, pages


def attach_group(iommu: Iommu, group: IommuGroup) -> Steps[None]:
    """Take a group in; on any error the container stays as it was.

    Raises:
        IoctlError: EBUSY while vaddrs are invalid; EINVAL for a group that is here already, a nesting type, an
            aperture or reserved regions that existing mappings do not fit; EPERM without isolated MSIs; and what
            replaying the mappings runs into: EFAULT, ENOMEM, EINVAL.
    """
    if iommu.vaddr_invalid_count:
        raise IoctlError(errno.EBUSY, f"{iommu.vaddr_invalid_count} mappings wait for their vaddr")
    if group in iommu.groups:
        raise IoctlError(errno.EINVAL, f"group {group.number} is in this container already")
    spec = group.iommu
    if spec is None:
        iommu.groups[group] = AttachedGroup(group, None)
        return
    if iommu.nesting:
        raise IoctlError(errno.EINVAL, "type 6 (NESTING): no x86 IOMMU does it")  # iommu_enable_nesting()
    last = spec.last
    if _aperture_conflict(iommu, 0, last):
        raise IoctlError(errno.EINVAL, f"mappings exist beyond the aperture [0, {last:#x}]")
    for start, end in spec.reserved:
        if dma := iommu.map.find(start, end - start + 1):  # vfio_iommu_resv_conflict()
            raise IoctlError(errno.EINVAL, f"{dma} overlaps the reserved [{start:#x}, {end:#x}]")
    usable = iova_list.exclude(iova_list.clip(iommu.iova_list, 0, last), spec.reserved)
    if not spec.isolated_msi:
        raise IoctlError(errno.EPERM, "MSIs are not isolated, and allow_unsafe_interrupts is off")
    domain = next((domain for domain in iommu.domains if domain.takes(spec)), None)
    if domain is None:
        domain = Domain(spec)
        yield from _replay(iommu, domain)
        iommu.domains.insert(0, domain)
        iommu.update_pgsizes()
    attached = AttachedGroup(group, domain)
    domain.groups.insert(0, attached)
    iommu.groups[group] = attached
    iommu.iova_list = usable
    iommu.num_non_pinned_groups += 1


def _aperture_conflict(iommu: Iommu, start: int, end: int) -> bool:
    """vfio_iommu_aper_conflict(): mappings outside of [start, end], inside of what was usable so far.

    In 6.12 the second lookup asks for a range that may end at 2^64, finds nothing then, and the replay fails instead.
    """
    if not iommu.iova_list:
        return False
    first, last = iommu.iova_list[0][0], iommu.iova_list[-1][1]
    if start > last or end < first:
        return True
    if start > first and iommu.map.find(first, start - first):
        return True
    return end < last and iommu.map.find(end + 1, last - end) is not None


def _replay(iommu: Iommu, domain: Domain) -> Steps[None]:
    """vfio_iommu_replay(): map what is mapped into a new domain, and pin what no domain has pinned yet."""
    charged: list[tuple[Dma, int]] = []
    done = False
    slices = Slices()
    try:
        for dma in iommu.map:
            if slices.done(MAPPING):
                yield from slices.breathe()
            if iommu.map.end(dma.iova, dma.size) == 0:
                continue  # 6.12: `while (iova < dma->iova + dma->size)` does not begin for a mapping up to 2^64
            if not dma.iommu_mapped:
                charged.append((dma, (yield from pin_whole(iommu, dma, dma.size))))
            if dma.iova + dma.size - 1 > domain.spec.last:  # iommu_map()
                raise IoctlError(
                    iommu.profile.beyond_width_errno, f"{dma} needs more than {domain.spec.address_bits} bits"
                )
        done = True
    finally:
        if not done:
            for dma, npages in charged:
                iommu.accounting.charge(dma, -npages)
                unpin_whole(dma)
    for dma in iommu.map:
        dma.iommu_mapped = True
        if slices.done(1):
            yield from slices.breathe()
    for dma, _ in charged:
        iommu.expose_anew(dma)
        if slices.done(MAPPING):
            yield from slices.breathe()


def detach_group(iommu: Iommu, group: IommuGroup) -> Steps[None]:
    """Let a group go, with all mappings if it was the last, or from hardware if it was the last with an IOMMU."""
    attached = iommu.groups.pop(group)
    domain = attached.domain
    if domain is None:
        if not iommu.groups:
            yield from iommu.remove_all()
    else:
        yield from _leave_domain(iommu, domain, attached)
    if not attached.pinned_page_dirty_scope:
        iommu.num_non_pinned_groups -= 1
        if iommu.dirty_page_tracking:  # vfio_iommu_populate_bitmap_full()
            slices = Slices()
            for dma in iommu.map:
                dma.all_dirty = dma.bitmap is not None
                if slices.done(1):
                    yield from slices.breathe()


def _leave_domain(iommu: Iommu, domain: Domain, attached: AttachedGroup) -> Steps[None]:
    usable = list(iommu.iova_list)
    domain.groups.remove(attached)
    if not domain.groups:
        if len(iommu.domains) == 1:
            if iommu.groups:
                yield from _unmap_reaccount(iommu)
            else:
                yield from iommu.remove_all()
        iommu.domains.remove(domain)
        usable = iova_list.widen(usable, ((0, left.spec.last) for left in iommu.domains))
        iommu.update_pgsizes()
    reserved = [
        region
        for left in iommu.domains
        for other in left.groups
        if other.group.iommu is not None
        for region in other.group.iommu.reserved
    ]
    try:
        iommu.iova_list = iova_list.refresh(usable, reserved)
    except IoctlError:
        return  # the kernel keeps the old list, too


def _unmap_reaccount(iommu: Iommu) -> Steps[None]:
    """vfio_iommu_unmap_unpin_reaccount(): only what devices have pinned stays locked."""
    slices = Slices()
    for dma in iommu.map:
        if slices.done(MAPPING):
            yield from slices.breathe()
        wraps = iommu.map.end(dma.iova, dma.size) == 0
        unlocked = pages(dma.size) if dma.iommu_mapped and not wraps else 0
        dma.iommu_mapped = False
        unpin_whole(dma)
        iommu.expose_anew(dma)
        more = len(dma.pins) - unlocked
        try:
            iommu.accounting.charge(dma, max(more, -dma.locked))
        except IoctlError:
            continue  # the kernel does not look at the result of vfio_lock_acct() here
