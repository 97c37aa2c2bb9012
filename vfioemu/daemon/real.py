# SPDX-License-Identifier: MIT
"""PCI functions that the machine itself has: no emulated one takes their place."""

import os
from pathlib import Path
from typing import Final

BUS: Final = Path("/sys/bus/pci")
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
