# SPDX-License-Identifier: MIT
"""Generate part 2 of the support matrix, the answers to every call, from the registry and the profiles."""

import errno
from collections.abc import Iterable, Iterator, Mapping
from enum import IntFlag
from typing import Final

from vfioemu.uapi import constants as c
from vfioemu.uapi.flags import DeviceState, MigrationFlag
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.profile import FACTS, Profile
from vfioemu.uapi.profiles import DEFAULT, PROFILES
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
call answers, on {default} and here. What other kernels add or answer instead ({others}) is in brackets. An fd that is not
open is EBADF everywhere.
"""


def extensions(profile: Profile) -> tuple[tuple[str, str, str, str], ...]:
    """List the extensions: name, CHECK_EXTENSION before and after SET_IOMMU, and the answer of SET_IOMMU to the number."""
    nesting = ("1", "1", "yes, where no group has an IOMMU") if profile.nesting else ("0", "0", "ENODEV")
    return (
        ("VFIO_TYPE1_IOMMU", "1", "1", "yes"),
        ("VFIO_SPAPR_TCE_IOMMU", "0", "0", "ENODEV"),
        ("VFIO_TYPE1v2_IOMMU", "1", "1", "yes"),
        ("VFIO_DMA_CC_IOMMU", "0", "1 if all IOMMUs are coherent, or there is none", "ENODEV"),
        ("VFIO_EEH", "0", "0", "ENODEV"),
        ("VFIO_TYPE1_NESTING_IOMMU", *nesting),
        ("VFIO_SPAPR_TCE_v2_IOMMU", "0", "0", "ENODEV"),
        ("VFIO_NOIOMMU_IOMMU", "0", "0", "ENODEV"),
        ("VFIO_UNMAP_ALL", "1", "1", "EINVAL"),
        ("VFIO_UPDATE_VADDR", "0", "1 while no emulated group is attached", "ENODEV"),
    )


def matrix() -> str:
    """Generate all tables, in Markdown."""
    parts = [_intro()]
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
            _extensions(),
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
    parts.append("### Where kernels differ\n")
    parts.append(table(("what", *(f"`{name}`" for name in PROFILES)), _differences()))
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
    return f"`{row.name}`", f"{row.number:#x}", argument, str(row.minsz) if row.minsz else "", _errnos(row)


def _errnos(row: Ioctl) -> str:
    """List the errnos of a call; in brackets those that other releases add or leave out."""
    usual = DEFAULT.errnos(row.kind, row.number)
    other = {}
    for profile in _others():
        names = profile.errnos(row.kind, row.number)
        other[profile.name] = ", ".join(
            [*sorted(names - usual), *(f"not {name}" for name in sorted(usual - names))]
        )
    return _names(usual) + _brackets(other)


def _extensions() -> Iterator[tuple[str, ...]]:
    """Yield a row for each extension; each cell includes the answers of other releases."""
    tables = {name: extensions(profile) for name, profile in PROFILES.items()}
    for at, (name, *cells) in enumerate(tables[DEFAULT.name]):
        shown = [
            by_release({release: rows[at][1 + column] for release, rows in tables.items()})
            for column in range(len(cells))
        ]
        yield f"`{name}`", str(getattr(c, name)), *shown


def _differences() -> Iterator[tuple[str, ...]]:
    """Yield a row for each fact, ioctl and feature that differs between releases."""
    for name, fact in FACTS.items():
        told = [_value(getattr(profile, name)) for profile in PROFILES.values()]
        if len(set(told)) > 1:
            yield fact.what, *told
    for name in sorted(frozenset[str]().union(*(profile.absent for profile in PROFILES.values()))):
        yield f"`{name}`", *(_value(profile.has(name)) for profile in PROFILES.values())


def _value(value: bool | int | None) -> str:
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else errno.errorcode[value]


def _intro() -> str:
    others = [f"`{profile.name}`" for profile in _others()]
    return _INTRO.format(
        default=kernel(DEFAULT.name), others=f"profile{'s' * (len(others) > 1)} {', '.join(others)}"
    )


def taken_by(fact: str) -> str:
    """List the releases for which a yes-or-no fact is true, and those for which it is not: "6.12, not by 7.2"."""
    versions: dict[bool, list[str]] = {True: [], False: []}
    for name, profile in PROFILES.items():
        versions[getattr(profile, fact)].append(name.removeprefix("linux-"))
    return " and ".join(versions[True]) + (
        ", not by " + " or ".join(versions[False]) if versions[False] else ""
    )


def kernel(release: str) -> str:
    """Format a release's name for people: Linux 6.12."""
    return release.replace("linux-", "Linux ")


def _others() -> list[Profile]:
    return [profile for profile in PROFILES.values() if profile is not DEFAULT]


def by_release(said: Mapping[str, str]) -> str:
    """Format the text for the default release, followed by differing texts for other releases in brackets."""
    usual = said[DEFAULT.name]
    return usual + _brackets({name: text for name, text in said.items() if text != usual})


def _brackets(said: Mapping[str, str]) -> str:
    """Format texts about other releases; with only one other release its name is left out."""
    releases: dict[str, list[str]] = {}
    for name, text in said.items():
        if text:
            releases.setdefault(text, []).append(name)
    if not releases:
        return ""
    grouped = [(text, ", ".join(names)) for text, names in releases.items()]
    if len(_others()) == 1:
        return f" ({next(iter(releases))})"
    return f" ({'; '.join(f'{names}: {text}' for text, names in grouped)})"


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
        by_release(
            {
                name: "yes" if row.served and profile.has(row.c_name) else "no"
                for name, profile in PROFILES.items()
            }
        ),
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
    """Format a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
