# SPDX-License-Identifier: MIT
"""The names of calls that fail: an OSError of this library knows which call it is of."""

from typing import Final

from vfioemu.uapi import constants as c
from vfioemu.uapi import registry
from vfioemu.uapi.kinds import FdKind

_FEATURES: Final = {
    getattr(c, f"VFIO_DEVICE_FEATURE_{name}"): f"VFIO_DEVICE_FEATURE_{name}"
    for name in (
        "PCI_VF_TOKEN",
        "MIGRATION",
        "MIG_DEVICE_STATE",
        "LOW_POWER_ENTRY",
        "LOW_POWER_ENTRY_WITH_WAKEUP",
        "LOW_POWER_EXIT",
        "DMA_LOGGING_START",
        "DMA_LOGGING_STOP",
        "DMA_LOGGING_REPORT",
        "MIG_DATA_SIZE",
        "BUS_MASTER",
        "DMA_BUF",
        "MIG_PRECOPY_INFOv2",
    )
}


def of_ioctl(kind: FdKind, cmd: int, argument: bytes = b"") -> str:
    """Name an ioctl on a fd of a kind; of VFIO_DEVICE_FEATURE, if its argument is known, the feature."""
    if kind is FdKind.DEVICE and cmd == c.VFIO_DEVICE_FEATURE and len(argument) >= 8:
        flags = int.from_bytes(argument[4:8], "little")
        return _FEATURES.get(flags & c.VFIO_DEVICE_FEATURE_MASK, "VFIO_DEVICE_FEATURE")
    row = registry.lookup(kind, cmd)
    return f"ioctl {cmd:#x}" if row is None else row.name


def in_words(what: str) -> str | None:
    """Find the call that words begin with, as `DIRTY_PAGES START` or `a read of its state`; None if that is none."""
    first, *rest = what.split() or [""]
    feature = f"VFIO_DEVICE_FEATURE_{first}"
    if first.startswith("VFIO_") or feature in _FEATURES.values():
        return first if first.startswith("VFIO_") else feature
    if first == "DIRTY_PAGES":
        return "VFIO_IOMMU_DIRTY_PAGES"
    return rest[0] if first == "a" and rest[:1] in (["read"], ["write"]) else None


def name_failed(error: OSError, name: str | None) -> OSError:
    """Note in an error of which call it is."""
    error.vfio_call = name  # type: ignore[attr-defined]  # no class of its own: OSError chooses its class by errno
    return error


def name_of_failed(error: OSError) -> str | None:
    """Tell of which call an error is; None if it is of none of this library."""
    name = getattr(error, "vfio_call", None)
    return name if isinstance(name, str) else None
