# SPDX-License-Identifier: MIT
"""PCI functions and IOMMU groups that the machine itself has: what is emulated does not take their place by default."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

BUS: Final = Path("/sys/bus/pci")
GROUPS: Final = (Path("/dev/vfio"), Path("/sys/kernel/iommu_groups"))
"""Where groups are: a container may have been given nodes without their part of /sys; /sys has those without a node, too."""
_FIRST_DOMAIN: Final = 0x1000
"""Above those of host bridges, which are counted from 0; below those of Intel's VMD, from 0x10000."""


def names(directory: Path) -> list[str]:
    """What is in a directory; nothing if it is not there."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def has(name: str) -> bool:
    """Whether the machine has a PCI function of that address."""
    return os.path.lexists(BUS / "devices" / name)


def free_domain() -> str:
    """A PCI domain that the machine has not: 1000, unless that is taken."""
    taken = {name.partition(":")[0] for name in names(BUS / "devices")}
    numbers = range(_FIRST_DOMAIN, _FIRST_DOMAIN + len(taken) + 1)
    return next(domain for number in numbers if (domain := f"{number:04x}") not in taken)


def groups() -> frozenset[int]:
    """Give the numbers of the IOMMU groups that the machine has."""
    found = (name for directory in GROUPS for name in names(directory))
    return frozenset(
        int(name) for name in found if name.isascii() and name.isdecimal() and str(int(name)) == name
    )


def free_group(taken: Collection[int]) -> int:
    """Give the lowest number from 1 on that is neither taken nor that of a group of the machine's."""
    used = groups().union(taken)
    return next(number for number in range(1, len(used) + 2) if number not in used)
