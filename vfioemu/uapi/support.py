# SPDX-License-Identifier: MIT
"""How every call is answered, as tables made from the registry; conformance/support.py prints them."""

from collections.abc import Iterable, Iterator
from enum import IntFlag
from typing import Final

from vfioemu.uapi import constants as c
from vfioemu.uapi.flags import DeviceState, MigrationFlag
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import FEATURES, IOCTLS, UNKNOWN_ERRNOS, UNSERVED, Feature, Ioctl

_TITLES: Final = {
    FdKind.CONTAINER: "Container: `/dev/vfio/vfio`",
    FdKind.GROUP: "Group: `/dev/vfio/N`",
    FdKind.DEVICE: "Device",
    FdKind.DATA: "Migration data",
    FdKind.DMA_BUF: "DMA buffer",
}
_INTRO: Final = """\
## 2. How calls are answered

"Reads" is how many bytes of the argument the kernel insists on; a larger `argsz` is allowed. "May fail with" is everything that the
call answers, on Linux 6.12 and here. What later kernels add or answer instead (profile `linux-7.2`) is in brackets. An fd that is not
open is EBADF everywhere.
"""

EXTENSIONS: Final = (
    ("VFIO_TYPE1_IOMMU", "1", "1", "yes"),
    ("VFIO_SPAPR_TCE_IOMMU", "0", "0", "ENODEV"),
    ("VFIO_TYPE1v2_IOMMU", "1", "1", "yes"),
    ("VFIO_DMA_CC_IOMMU", "0", "1 if all IOMMUs are coherent, or there is none", "ENODEV"),
    ("VFIO_EEH", "0", "0", "ENODEV"),
    ("VFIO_TYPE1_NESTING_IOMMU", "1 (0)", "1 (0)", "yes, where no group has an IOMMU (ENODEV)"),
    ("VFIO_SPAPR_TCE_v2_IOMMU", "0", "0", "ENODEV"),
    ("VFIO_NOIOMMU_IOMMU", "0", "0", "ENODEV"),
    ("VFIO_UNMAP_ALL", "1", "1", "EINVAL"),
    ("VFIO_UPDATE_VADDR", "0", "1 while no emulated group is attached", "ENODEV"),
)
"""CHECK_EXTENSION's answers before and after SET_IOMMU, and what SET_IOMMU says to the same number."""


def matrix() -> str:
    """All tables, in Markdown."""
    parts = [_INTRO]
    for kind in FdKind:
        parts.append(f"### {_TITLES[kind]}\n")
        parts.append(
            table(("call", "number", "argument", "reads", "may fail with"), map(_ioctl, _rows(kind)))
        )
        parts.append(f"Any other number: {_names(UNKNOWN_ERRNOS[kind])}.\n")
    parts.append("### Extensions and IOMMU types\n")
    parts.append(
        table(
            ("extension", "value", "before `VFIO_SET_IOMMU`", "after", "as an IOMMU type"),
            ((f"`{name}`", str(getattr(c, name)), *answers) for name, *answers in EXTENSIONS),
        )
    )
    parts.append("### Flags of the calls\n")
    parts.append(table(("call", "flag", "value"), _flags()))
    parts.append("### Features: `VFIO_DEVICE_FEATURE`\n")
    parts.append(
        table(
            ("feature", "number", "operations", "payload", "may fail with", "served"),
            map(_feature, FEATURES.values()),
        )
    )
    parts.append("A feature that a device does not have is ENOTTY, PROBE included.\n")
    parts.append("### Migration\n")
    parts.append(table(("state", "value"), ((f"`{state.name}`", str(int(state))) for state in DeviceState)))
    parts.append(table(("capability", "value"), ((f"`{flag.name}`", f"{flag:#x}") for flag in MigrationFlag)))
    parts.append("### Known and not served\n")
    parts.append("They get what any other number gets on that fd.\n")
    parts.append(
        table(
            ("call", "number", "fd", "why"),
            ((f"`{row.name}`", f"{row.number:#x}", str(row.kind), row.why) for row in UNSERVED),
        )
    )
    return "\n".join(parts)


def _rows(kind: FdKind) -> Iterator[Ioctl]:
    return (row for row in IOCTLS if row.kind is kind)


def _ioctl(row: Ioctl) -> tuple[str, ...]:
    argument = f"`struct {row.payload.CNAME}`" if row.payload else row.argument
    fails = _names(row.errnos)
    if row.later:
        fails += f" ({_names(row.later)})"
    return f"`{row.name}`", f"{row.number:#x}", argument, str(row.minsz) if row.minsz else "", fails


def _feature(row: Feature) -> tuple[str, ...]:
    operations = [
        name
        for name, bit in (("GET", c.VFIO_DEVICE_FEATURE_GET), ("SET", c.VFIO_DEVICE_FEATURE_SET))
        if row.ops & bit
    ]
    return (
        f"`{row.name}`",
        str(row.number),
        ", ".join(operations),
        f"`struct {row.payload.CNAME}`" if row.payload else "none",
        _names(row.errnos),
        "yes" if row.served else "no",
    )


def _flags() -> Iterator[tuple[str, ...]]:
    for row in IOCTLS:
        if row.flags is not None:
            for flag in _members(row.flags):
                yield f"`{row.name}`", f"`{flag.name}`", f"{flag:#x}"


def _members(flags: type[IntFlag]) -> list[IntFlag]:
    return list(flags)


def _names(errnos: Iterable[str]) -> str:
    return ", ".join(sorted(errnos)) or "nothing"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
