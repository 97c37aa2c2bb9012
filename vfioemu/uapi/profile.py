# SPDX-License-Identifier: MIT
"""How one kernel release answers: its facts, and the names of <linux/vfio.h> that it does not have.

A release is one file in `releases/`, which says what it is based on and what differs. A handler asks the profile for a
fact (`profile.map_wrap_errno`), never for a version; what the documentation, the fuzzers and the lockstep test say of a
release, they read here as well. The rows of the registry describe an ioctl in every release that has it; `errnos` adds
what the facts of this one make it answer.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Final, get_type_hints

from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS, UNKNOWN_ERRNOS, Ioctl, lookup


@dataclass(frozen=True, slots=True)
class Fact:
    """What a fact of a release is about.

    Attributes:
        what: for the support page, in a few words.
        call: the ioctl that may fail with the errno that the fact's value is; "" if the value is no errno of an ioctl.
    """

    what: str
    call: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """How one kernel release answers where releases differ. Compared by identity: there is one per release.

    Attributes:
        name: as in a machine description: ``linux-7.2``.
        base: the release that this one is described by the differences from; None if it is described in full.
        absent: the ioctls and features (whole names) of the registry that it does not have: ENOTTY, as for any unknown
            number.
    """

    name: str
    base: "Profile | None" = field(default=None, repr=False)
    absent: frozenset[str] = frozenset()

    map_range_first: Annotated[bool, Fact("MAP_DMA looks at size and wrap before the access flags")]
    map_wrap_errno: Annotated[
        int, Fact("MAP_DMA, iova or vaddr + size - 1 passes 2^64", "VFIO_IOMMU_MAP_DMA")
    ]
    map_overlap_errno: Annotated[int, Fact("MAP_DMA of what is mapped already", "VFIO_IOMMU_MAP_DMA")]
    unmap_wrap_errno: Annotated[int, Fact("UNMAP_DMA, iova + size - 1 passes 2^64", "VFIO_IOMMU_UNMAP_DMA")]
    get_bitmap_wrap_errno: Annotated[int, Fact("GET_BITMAP, the range passes 2^64", "VFIO_IOMMU_DIRTY_PAGES")]
    get_bitmap_to_top: Annotated[bool, Fact("GET_BITMAP takes a range that ends at 2^64")]
    pin_wrap_errno: Annotated[
        int | None, Fact("vfio_pin_pages(), the range passes 2^64 (none: it goes on at 0)")
    ]
    top_wraps: Annotated[bool, Fact("a mapping that ends at 2^64 has the end 0 in lookups (vfio_find_dma())")]
    beyond_width_errno: Annotated[
        int, Fact("a group joins whose IOMMU is too narrow for a mapping", "VFIO_GROUP_SET_CONTAINER")
    ]
    nesting: Annotated[bool, Fact("VFIO_TYPE1_NESTING_IOMMU is a type, which no x86 domain takes")]
    region_info_keeps_cap_offset: Annotated[
        bool,
        Fact("GET_REGION_INFO of vfio-pci and mtty, without capabilities, leaves the caller's cap_offset"),
    ]
    ioeventfd_64: Annotated[
        bool,
        Fact("IOEVENTFD takes 8 bytes: vfio_pci_rdwr.c sees iowrite64 (6.12.16 and later, and 7.3 again)"),
    ]

    _absent: frozenset[tuple[FdKind, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = {row.name: (row.kind, row.number) for row in IOCTLS}
        features = {row.c_name for row in FEATURES.values()}
        if strange := self.absent - known.keys() - features:
            raise ValueError(
                f"{self.name}: {', '.join(sorted(strange))}: no ioctl or feature of the registry"
            )
        object.__setattr__(self, "_absent", frozenset(known[name] for name in self.absent & known.keys()))

    def has(self, name: str) -> bool:
        """Tell whether the release has an ioctl or a feature, by its whole name."""
        return name not in self.absent

    def has_feature(self, number: int) -> bool:
        """Tell whether the release has the feature of this number."""
        return number in FEATURES and FEATURES[number].c_name not in self.absent

    def serves(self, kind: FdKind, number: int) -> bool:
        """Tell whether the release has ioctl `number` on fds of `kind`, if it is one of the registry."""
        return not self._absent or (kind, number) not in self._absent

    def lookup(self, kind: FdKind, number: int) -> Ioctl | None:
        """Return the row of ioctl `number` on a fd of `kind`, or None if the release has none or it is not served."""
        return lookup(kind, number) if self.serves(kind, number) else None

    def errnos(self, kind: FdKind, number: int) -> frozenset[str]:
        """Return all that ioctl `number` on an open fd of `kind` may fail with, served or not."""
        row = self.lookup(kind, number)
        if row is None:
            return UNKNOWN_ERRNOS[kind]
        found = set(row.errnos)
        found |= {
            errno.errorcode[getattr(self, name)] for name, fact in FACTS.items() if fact.call == row.name
        }
        if row.name == "VFIO_DEVICE_FEATURE":
            found |= {
                name for number in FEATURES if self.has_feature(number) for name in FEATURES[number].errnos
            }
        return frozenset(found)


FACTS: Final[Mapping[str, Fact]] = MappingProxyType(
    {
        name: fact
        for name, hint in get_type_hints(Profile, include_extras=True).items()
        for fact in getattr(hint, "__metadata__", ())
    }
)
"""What each fact of a profile is about, by its name."""
