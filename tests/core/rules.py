# SPDX-License-Identifier: MIT
"""The rules by which the answers of two kernel releases may differ.

A rule is about facts of a profile. It looks at a call and at what the older release holds, and says of both what they have to
answer, if those facts are not the same. A new release needs no rule unless it differs in a way that no release has yet differed in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tests.core.calls import GROUPS, KINDS, PAGE, TOP, Answer, Call, Side
from tests.releases import name
from vfioemu.devices.pci import VfioPci
from vfioemu.devices.pci.vfio_pci import names
from vfioemu.uapi import constants as c
from vfioemu.uapi.profile import Profile
from vfioemu.uapi.registry import IOCTLS


@dataclass(frozen=True)
class Pair:
    """Two releases; a rule is about the facts of which they have different ones."""

    old: Profile
    new: Profile

    def differ(self, *facts: str) -> bool:
        """Whether they have different values of one of these facts, or one alone has one of these ioctls and features."""
        return any(_fact(self.old, fact) != _fact(self.new, fact) for fact in facts)


def _fact(profile: Profile, name: str):
    return profile.has(name) if name.startswith("VFIO_") else getattr(profile, name)


Allowed = Callable[[Answer, Answer], bool]
"""Whether two answers, the older release's and the newer one's, may stand beside each other."""
Applies = Callable[[Call, Side, Pair], Allowed | None]


class Rule(NamedTuple):
    """A difference between releases.

    Attributes:
        name: for people.
        where: chapter and verse of the specification.
        facts: the facts of a profile, or the ioctls and features (VFIO_*), that it is about.
        applies: what the two may answer, if the rule is about this call; None if it is not. Asked before the call.
        parts: from here on the two may hold different things, so that the sequence ends when they do.
    """

    name: str
    where: str
    facts: tuple[str, ...]
    applies: Applies
    parts: bool = False


def each(pair: Pair, says: Callable[[Profile], int | str | None]) -> Allowed:
    """Each release answers what `says` tells of it (None: that is open); where both fail, they write back the same."""
    wanted = says(pair.old), says(pair.new)

    def allowed(old: Answer, new: Answer) -> bool:
        known = all(
            result in (None, answer.result) for result, answer in zip(wanted, (old, new), strict=True)
        )
        failed = isinstance(old.result, str) and isinstance(new.result, str)
        return known and (not failed or (old.out, old.bitmap) == (new.out, new.bitmap))

    return allowed


def anything(old: Answer, new: Answer) -> bool:
    """What follows from something that the two hold differently."""
    return True


def _wraps(start: int, size: int) -> bool:
    return start + size - 1 >= TOP


def _iommu(side: Side, number: int):
    return side.container(number).iommu


def _mapping(call: Call, side: Side) -> tuple[int, int, int, int] | None:
    """(flags, vaddr, iova, size) of a MAP_DMA whose argsz and flags are in order."""
    if call.name != "VFIO_IOMMU_MAP_DMA" or _iommu(side, call.on) is None:
        return None
    argsz, flags, vaddr, iova, size = call.words("IIQQQ")
    return (
        None if argsz < 32 or flags & ~7 else (flags, vaddr if call.data is None else side.data, iova, size)
    )


def _whole(flags: int, vaddr: int, iova: int, size: int) -> bool:
    """READ or WRITE, or VADDR alone, of whole pages: what is left of MAP_DMA's checks of its argument, but for wraps."""
    return bool(flags & 3) != bool(flags & 4) and not (vaddr | iova | size) % PAGE


def map_wraps(call: Call, side: Side, pair: Pair) -> Allowed | None:
    found = _mapping(call, side)
    if found is None or not found[3] or not any(_wraps(start, found[3]) for start in found[1:3]):
        return None
    return each(
        pair,
        lambda profile: (
            name(profile.map_wrap_errno) if profile.map_range_first or _whole(*found) else "EINVAL"
        ),
    )


def map_overlaps(call: Call, side: Side, pair: Pair) -> Allowed | None:
    found = _mapping(call, side)
    if found is None or not found[3] or found[0] & 4 or not _whole(*found):
        return None
    if any(_wraps(start, found[3]) for start in found[1:3]) or _at_the_top(call, side, pair):
        return None
    if _iommu(side, call.on).map.find(*found[2:]) is None:
        return None
    return each(pair, lambda profile: name(profile.map_overlap_errno))


def unmap_wraps(call: Call, side: Side, pair: Pair) -> Allowed | None:
    if call.name != "VFIO_IOMMU_UNMAP_DMA" or _iommu(side, call.on) is None:
        return None
    argsz, flags, iova, size = call.words("IIQQ")
    if argsz < 24 or not size or (iova | size) % PAGE or not _wraps(iova, size):
        return None
    if flags & ~4 and not (flags == 1 and argsz >= 48 and _fits(size, *call.words("QQ", 24))):
        return None
    if flags & 4 and _iommu(side, call.on).has_emulated:
        return None  # EBUSY comes first
    return each(pair, lambda profile: name(profile.unmap_wrap_errno))


def _fits(size: int, pgsize: int, nbytes: int) -> bool:
    """verify_bitmap_size()."""
    pages = pgsize and size // (pgsize & -pgsize)
    return bool(pages) and (pages + 63) // 64 * 8 <= nbytes <= 1 << 28


def _range_of_get(call: Call, side: Side) -> tuple[int, int] | None:
    if call.name != "VFIO_IOMMU_DIRTY_PAGES" or _iommu(side, call.on) is None or not _iommu(side, call.on).v2:
        return None
    argsz, flags = call.words("II")
    if flags != 4 or argsz < 48:
        return None
    iova, size = call.words("QQ", 8)
    return iova, size


def get_bitmap_wraps(call: Call, side: Side, pair: Pair) -> Allowed | None:
    found = _range_of_get(call, side)
    if not found or not found[1] or not all(_too_far(profile, *found) for profile in (pair.old, pair.new)):
        return None
    return each(pair, lambda profile: name(profile.get_bitmap_wrap_errno))


def _too_far(profile: Profile, iova: int, size: int) -> bool:
    return iova + size > TOP - (not profile.get_bitmap_to_top)


def get_bitmap_to_the_top(call: Call, side: Side, pair: Pair) -> Allowed | None:
    found = _range_of_get(call, side)
    if not found or not found[1] or sum(found) != TOP:
        return None
    (pgsize, size) = call.words("QQ", 24)
    whole = found[0] % PAGE == 0 and pgsize == PAGE and _fits(found[1], pgsize, size)
    iommu = _iommu(side, call.on)

    def says(profile: Profile) -> int | str | None:
        if not profile.get_bitmap_to_top:
            return name(profile.get_bitmap_wrap_errno)
        if not whole or not iommu.dirty_page_tracking:
            return "EINVAL"
        return None if any(dma.iova + dma.size > found[0] for dma in iommu.map) else 0

    return each(pair, says)


def pin_wraps(call: Call, side: Side, pair: Pair) -> Allowed | None:
    """A release that does not look at the sum finds no mapping there, or one that belongs to another rule."""
    if call.name != "pin" or not side.device(call.on).has_dma_unmap:
        return None
    iova, npages, _ = call.numbers
    container = side.container_of(call.on)
    if (
        not 0 < npages <= 512
        or container is None
        or not container.iommu.v2
        or not _wraps(iova, npages * PAGE)
    ):
        return None
    return each(pair, lambda profile: name(profile.pin_wrap_errno))


def mapping_at_the_top(call: Call, side: Side, pair: Pair) -> Allowed | None:
    """Where top_wraps, lookups that meet a mapping up to 2^64, or a range up to there, go astray."""
    return anything if _at_the_top(call, side, pair) else None


def _at_the_top(call: Call, side: Side, pair: Pair) -> bool:
    if not pair.differ("top_wraps"):
        return False
    if any(rule(call, side, pair) for rule in (map_wraps, unmap_wraps, get_bitmap_wraps, pin_wraps)):
        return False
    if call.name in ("VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA") and _iommu(side, call.on) is not None:
        iova, size = call.words("QQ", 16 if call.name == "VFIO_IOMMU_MAP_DMA" else 8)
        if iova + size == TOP and call.words("II")[1] & 2 == (call.name == "VFIO_IOMMU_MAP_DMA") * 2:
            return True
    container = _touched(call, side)
    return container is not None and container.iommu is not None and container.iommu.map.tangled


def _touched(call: Call, side: Side):
    """The container whose mappings a call looks at or changes."""
    if call.name in ("VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA", "VFIO_IOMMU_DIRTY_PAGES"):
        return side.container(call.on)
    if call.name in ("pin", "unpin", "write"):
        return side.container_of(call.on)
    return None


def nesting_extension(call: Call, side: Side, pair: Pair) -> Allowed | None:
    if call.name != "VFIO_CHECK_EXTENSION" or call.value != c.VFIO_TYPE1_NESTING_IOMMU:
        return None
    return each(pair, lambda profile: int(profile.nesting))


def nesting_type(call: Call, side: Side, pair: Pair) -> Allowed | None:
    if call.name != "VFIO_SET_IOMMU" or call.value != c.VFIO_TYPE1_NESTING_IOMMU:
        return None
    container = side.container(call.on)
    if not container.groups or container.iommu is not None:
        return None
    return each(pair, lambda profile: None if profile.nesting else "ENODEV")


def narrow_group(call: Call, side: Side, pair: Pair) -> Allowed | None:
    """What is mapped lies beyond the group's IOMMU; memory that is not there is EFAULT for both."""
    if call.name != "join" or not side.is_open("container", call.numbers[0]):
        return None
    iommu, hardware = _iommu(side, call.numbers[0]), GROUPS[call.on]
    if (
        iommu is None
        or hardware is None
        or all(dma.iova + dma.size - 1 <= hardware.last for dma in iommu.map)
    ):
        return None
    by_width = each(pair, lambda profile: name(profile.beyond_width_errno))
    return lambda old, new: new == old or by_width(old, new)


def _feature(call: Call, number: int) -> tuple[int, bool] | None:
    """(GET and SET bits, whether it is a PROBE) of a call about a feature that passes the common checks."""
    if call.name != "VFIO_DEVICE_FEATURE":
        return None
    argsz, flags = call.words("II")
    asked, probe = flags >> 16 & 3, bool(flags >> 18 & 1)
    if argsz < 8 or flags >> 19 or flags & 0xFFFF != number or (asked == 3 and not probe):
        return None
    return asked, probe


def dma_buf(call: Call, side: Side, pair: Pair) -> Allowed | None:
    """The payload is zeros, which no device makes a dma-buf of."""
    found = _feature(call, c.VFIO_DEVICE_FEATURE_DMA_BUF)
    if found is None or not isinstance(side.device(call.on).model, VfioPci):
        return None
    asked, probe = found
    answer = 0 if probe and not asked & 2 else "EINVAL"
    return each(pair, lambda profile: answer if profile.has("VFIO_DEVICE_FEATURE_DMA_BUF") else "ENOTTY")


MADE_OF = {
    "join": "VFIO_GROUP_SET_CONTAINER",
    "device": "VFIO_GROUP_GET_DEVICE_FD",
    "state": "VFIO_DEVICE_FEATURE",
}
"""The ioctls that other calls here make."""


def missing_ioctl(call: Call, side: Side, pair: Pair) -> Allowed | None:
    ioctl = MADE_OF.get(call.name, call.name)
    if not pair.differ(ioctl) if ioctl.startswith("VFIO_") else True:
        return None
    early = KINDS.get(call.name) == "container" and _iommu(side, call.on) is None
    return each(pair, lambda profile: None if profile.has(ioctl) else "EINVAL" if early else "ENOTTY")


def cap_offset(call: Call, side: Side, pair: Pair) -> Allowed | None:
    """Of a PCI function, whose driver writes back what it has read."""
    if call.name != "VFIO_DEVICE_GET_REGION_INFO" or not isinstance(side.device(call.on).model, VfioPci):
        return None

    def told(answer: Answer) -> Answer:
        return answer._replace(out=answer.out[:12] + bytes(4) + answer.out[16:])

    return lambda old, new: old == new or told(old) == new or old == told(new)


def ioeventfd_64(call: Call, side: Side, pair: Pair) -> Allowed | None:
    """One of 8 bytes, of a PCI function that is on a bus; mdevs have none, whatever they look like."""
    if call.name != "VFIO_DEVICE_IOEVENTFD" or names.parse(side.device(call.on).name) is None:
        return None
    argsz, flags = call.words("II")
    if argsz < 32 or flags != c.VFIO_DEVICE_IOEVENTFD_64:
        return None
    return each(pair, lambda profile: None if profile.ioeventfd_64 else "EINVAL")


def precopy_info_v2(call: Call, side: Side, pair: Pair) -> Allowed | None:
    found = _feature(call, c.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2)
    if found is None:
        return None
    asked, probe = found
    able = side.device(call.on).model.migration_flags & c.VFIO_MIGRATION_PRE_COPY
    answer = 0 if able and not asked & 1 and (probe or asked) else "EINVAL"
    return each(
        pair,
        lambda profile: answer if profile.has("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2") else "ENOTTY",
    )


def precopy_flags(call: Call, side: Side, pair: Pair) -> Allowed | None:
    """Once it has been promised (a release without the feature knows no such promise), the flags are an output."""
    if call.name != "VFIO_MIG_GET_PRECOPY_INFO":
        return None
    return lambda old, new: old == new or _cleared(old) == new or old == _cleared(new)


def _cleared(answer: Answer) -> Answer:
    """The same with flags of 0, if it is an answer."""
    return answer._replace(out=answer.out[:4] + bytes(4) + answer.out[8:]) if answer.result == 0 else answer


RULES = (
    Rule(
        "MAP_DMA of a range that wraps",
        "type1.md 5, DIFF-7.2 A1",
        ("map_range_first", "map_wrap_errno"),
        map_wraps,
    ),
    Rule("MAP_DMA of what is mapped", "type1.md 5", ("map_overlap_errno",), map_overlaps),
    Rule(
        "UNMAP_DMA of a range that wraps",
        "type1.md 7 row 13, DIFF-7.2 A2",
        ("unmap_wrap_errno",),
        unmap_wraps,
    ),
    Rule(
        "GET_BITMAP of a range that wraps",
        "type1.md 8.3 row 3, DIFF-7.2 A3",
        ("get_bitmap_wrap_errno",),
        get_bitmap_wraps,
    ),
    Rule(
        "GET_BITMAP up to 2^64",
        "type1.md 8.3 row 3, DIFF-7.2 B2",
        ("get_bitmap_to_top",),
        get_bitmap_to_the_top,
        parts=True,
    ),
    Rule(
        "vfio_pin_pages() of a range that wraps", "type1.md 10, DIFF-7.2 A4", ("pin_wrap_errno",), pin_wraps
    ),
    Rule(
        "a mapping that ends at 2^64",
        "type1.md 11, DIFF-7.2 B1",
        ("top_wraps",),
        mapping_at_the_top,
        parts=True,
    ),
    Rule("extension 6", "type1.md 12 case 3, DIFF-7.2 C1", ("nesting",), nesting_extension),
    Rule("SET_IOMMU(6)", "type1.md 3, DIFF-7.2 C2", ("nesting",), nesting_type, parts=True),
    Rule(
        "a group that is too narrow", "type1.md 3 row 14, DIFF-7.2 D", ("beyond_width_errno",), narrow_group
    ),
    Rule(
        "feature 11 of vfio-pci", "migration_v2.md 2, DIFF-7.2 F11", ("VFIO_DEVICE_FEATURE_DMA_BUF",), dma_buf
    ),
    Rule(
        "cap_offset of GET_REGION_INFO",
        "group_device.md 6.1, 6.3",
        ("region_info_keeps_cap_offset",),
        cap_offset,
    ),
    Rule(
        "an ioeventfd of 8 bytes",
        "group_device.md, vfio_pci_rdwr.c: iowrite64",
        ("ioeventfd_64",),
        ioeventfd_64,
    ),
    Rule(
        "feature 12 of the core",
        "migration_v2.md 2, DIFF-7.2 F12",
        ("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2",),
        precopy_info_v2,
    ),
    Rule(
        "an ioctl that one of them does not have",
        "<linux/vfio.h>; group_device.md 2 and 3, type1.md 2: what an unknown number gets",
        tuple(row.name for row in IOCTLS),
        missing_ioctl,
        parts=True,
    ),
    Rule(
        "flags of PRECOPY_INFO",
        "migration_v2.md 4.1",
        ("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2",),
        precopy_flags,
    ),
)


def rules_of(pair: Pair) -> tuple[Rule, ...]:
    """The rules about what these two releases say of themselves."""
    return tuple(rule for rule in RULES if pair.differ(*rule.facts))


def pair_of(release: Profile) -> Pair:
    """A release, and the one that it is based on."""
    assert release.base is not None, release.name
    return Pair(release.base, release)
