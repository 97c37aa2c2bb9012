# SPDX-License-Identifier: MIT
"""Find the PCI functions and IOMMU groups of the real machine, so that emulated ones do not hide them by default."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

BUS: Final = Path("/sys/bus/pci")
GROUPS: Final = (Path("/dev/vfio"), Path("/sys/kernel/iommu_groups"))
"""Directories with groups: a container may have nodes without the part in /sys, and /sys has groups without a node."""
_FIRST_DOMAIN: Final = 0x1000
"""Above the domains of host bridges, from 0; below those of Intel VMD, from 0x10000."""


def names(directory: Path) -> list[str]:
    """List a directory; return nothing if it does not exist."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def has(name: str) -> bool:
    """Return True if the real machine has a PCI function at this address."""
    return os.path.lexists(BUS / "devices" / name)


def free_domain() -> str:
    """Return a PCI domain that the real machine does not use: 1000, unless it is taken."""
    taken = {name.partition(":")[0] for name in names(BUS / "devices")}
    numbers = range(_FIRST_DOMAIN, _FIRST_DOMAIN + len(taken) + 1)
    return next(domain for number in numbers if (domain := f"{number:04x}") not in taken)


def groups() -> frozenset[int]:
    """Return the numbers of the real machine's IOMMU groups."""
    found = (name for directory in GROUPS for name in names(directory))
    return frozenset(
        int(name) for name in found if name.isascii() and name.isdecimal() and str(int(name)) == name
    )


def free_group(taken: Collection[int]) -> int:
    """Return the lowest group number from 1 that is neither in `taken` nor used by the real machine."""
    used = groups().union(taken)
    return next(number for number in range(1, len(used) + 2) if number not in used)
