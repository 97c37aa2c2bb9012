# SPDX-License-Identifier: MIT
"""The list of usable IOVAs: inclusive ranges, ascending, cut to apertures and around reserved regions.

All functions are pure: the kernel, too, works on a copy and installs it at the end, so that a failure changes nothing.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import U64_MAX

Ranges: TypeAlias = list[tuple[int, int]]


def clip(ranges: Sequence[tuple[int, int]], start: int, end: int) -> Ranges:
    """vfio_iommu_aper_resize(): what lies in [start, end]; all of that if there was no list yet."""
    if not ranges:
        return [(start, end)]
    rest = list(ranges)
    while rest and start >= rest[0][0]:
        last = rest[0][1]
        if start < last:
            rest[0] = (start, last)
            break
        del rest[0]
    return [(first, min(end, last)) for first, last in rest if end > last or end > first]


def exclude(ranges: Sequence[tuple[int, int]], reserved: Iterable[tuple[int, int]]) -> Ranges:
    """vfio_iommu_resv_exclude(): without the reserved regions; EINVAL when nothing is left."""
    rest = list(ranges)
    for start, end in reserved:
        cut: Ranges = []
        for first, last in rest:
            if start > last or end < first:
                cut.append((first, last))
                continue
            if start > first:
                cut.append((first, start - 1))
            if end < last:
                cut.append((end + 1, last))
        rest = cut
    if not rest:
        raise IoctlError(errno.EINVAL, "the reserved regions leave no IOVA")
    return rest


def widen(ranges: Sequence[tuple[int, int]], apertures: Iterable[tuple[int, int]]) -> Ranges:
    """vfio_iommu_aper_expand(): a domain has left; the outer ends are what the others allow, or 64 bits."""
    if not ranges:
        return []
    start, end = 0, U64_MAX
    for first, last in apertures:
        start, end = max(start, first), min(end, last)
    rest = list(ranges)
    rest[0] = (start, rest[0][1])
    rest[-1] = (rest[-1][0], end)
    return rest


def refresh(ranges: Sequence[tuple[int, int]], reserved: Iterable[tuple[int, int]]) -> Ranges:
    """vfio_iommu_resv_refresh(): one range between the outer ends, without what is reserved now; EINVAL for none."""
    if not ranges:
        raise IoctlError(errno.EINVAL, "there is no list of IOVAs")
    return exclude([(ranges[0][0], ranges[-1][1])], reserved)
