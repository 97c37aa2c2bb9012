# SPDX-License-Identifier: MIT
"""Generate the support matrix: ``python -m vfioemu.conformance.support > protocol/support.md``.

Nothing in parts 1 and 2 is written by hand. The names are those that the C compiler found in <linux/vfio.h>; exact ones are
counted in the golden traces; for all others a live machine is probed.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from pathlib import Path
from typing import Final

from vfioemu.conformance.answers import kernel, matrix, table, taken_by
from vfioemu.conformance.evidence import Evidence, collect
from vfioemu.conformance.probes import live_names, machine_spec
from vfioemu.conformance.unrecorded import section
from vfioemu.uapi import structs
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.flags import PREFIXES, Extension, c_name
from vfioemu.uapi.hints import Hint
from vfioemu.uapi.payload import Payload
from vfioemu.uapi.profile import Profile
from vfioemu.uapi.profiles import PROFILES
from vfioemu.uapi.registry import IOCTLS, UNSERVED

PROTOCOL: Final = Path(__file__).parents[2] / "protocol"

NO_NAMES: Final = re.compile(
    r"_(TYPE|SIZE|FEATURE|STATE|VENDOR)_MASK$|_NR$|_NUM_|^VFIO_(TYPE|BASE|API_VERSION)$|^__"
)
"""Names that nobody can ask for: masks, bases, counts and reserved numbers."""

REASONS: Final[tuple[tuple[str, str], ...]] = (
    (r"_CCW|_SCHIB|_CRW", "channel I/O of s390"),
    (r"_AP_|FLAGS_AP$", "crypto adapters of s390"),
    (r"ZPCI", "PCI of s390"),
    (r"EEH|SPAPR|NVLINK2", "PowerPC"),
    (r"NOIOMMU", "devices without any protection"),
    (r"IOMMU_(ENABLE|DISABLE)$", "PowerPC; type1 has no such call"),
    (r"IOMMUFD|PASID|BIND_FLAG|HOT_RESET_FLAG|PCI_DEVID", "devices opened through iommufd, without a group"),
    (r"GFX|IGD", "graphics: no model has a display"),
    (r"FLAGS_(PLATFORM|AMBA|FSL_MC|CDX)$", "devices that are not PCI"),
    (r"FLAGS_CAPS$|ATOMIC", "no model tells of AtomicOps"),
    (r"PCI_VENDOR", "no model has a region of a PCI vendor's own"),
    (r"BUS_MASTER|_MASTER$", "for the CDX bus only"),
    (r"VF_TOKEN", "no model is a physical function with virtual ones"),
)
"""Reasons for names that are refused or absent."""

NOTES: Final[Mapping[str, str]] = {
    "VFIO_DEVICE_IOEVENTFD_64": f"read in vfio_pci_rdwr.c: taken by {taken_by('ioeventfd_64')}",
}
"""Remarks on names that are implemented."""

INTRO: Final = """\
# What is supported

Made by `python -m vfioemu.conformance.support`; do not edit. A test holds this file to it.

Part 1 goes through every name of `<linux/vfio.h>` (of {oldest} and, where it says so, {others}; the lists in `uapi/` come from the C
compiler). Part 2 says how calls are answered, part 3 what no recorded call shows.

## 1. Every name

| status | means |
| --- | --- |
| exact, N steps | N recorded calls of a real kernel involve it, some of which worked; each is answered bit for bit |
| implemented, N refusals exact | it works here; the kernel was only recorded refusing it, and we refuse that alike |
| implemented | it works here; no kernel was recorded |
| refused, N steps exact | the kernel was recorded refusing it, and so do we, wherever it is asked for |
| refused | it gets what a number gets that means nothing |
| absent | nothing here says it or knows it; where a number can be asked for, it gets what an unknown one gets |

"Works" was found by asking a live machine that has a device of each kind, under {all} kernel profiles: a call that involves
the name succeeds, or is refused otherwise than with nonsense in its place.
"""


_CALLS: Final = [*(row.name for row in IOCTLS), *(row.name for row in UNSERVED)]


class Status(StrEnum):
    """Status of a name."""

    EXACT = "exact"
    IMPLEMENTED = "implemented"
    REFUSED = "refused"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Claim:
    """The entry of one name.

    Attributes:
        steps: number of recorded calls that involve it.
        text: the status as printed.
        why: the reason, for a name that is not supported, or not everywhere.
    """

    status: Status
    steps: int
    text: str
    why: str = ""


def symbols() -> dict[str, str]:
    """Return every name of the header, with the first of our releases that has it ("" for all)."""
    since: dict[str, str] = {}
    for number, profile in enumerate(PROFILES.values()):
        for name in _header(profile):
            if not NO_NAMES.search(name):
                since.setdefault(name, profile.name if number else "")
    return since


def _header(profile: Profile) -> list[str]:
    """Return the names in the release's <linux/vfio.h>; if that was never compiled, those of the release it is based on."""
    file = PROTOCOL / "uapi" / f"{profile.name}.json"
    if not file.exists() and profile.base is not None:
        return _header(profile.base)
    return list(json.loads(file.read_text(encoding="utf-8"))["headers"]["vfio.h"]["constants"])


def claims(evidence: Evidence, live: set[str]) -> dict[str, Claim]:
    """Make the entry of every name."""
    asked = askable()
    return {name: _claim(name, evidence, name in live, name in asked) for name in symbols()}


def _claim(name: str, evidence: Evidence, live: bool, asked: bool) -> Claim:
    steps, worked = evidence.steps[name], evidence.worked[name]
    if worked:
        return Claim(Status.EXACT, steps, f"exact, {steps} steps")
    if live:
        recorded = f", {steps} refusals exact" if steps else ""
        return Claim(Status.IMPLEMENTED, steps, f"implemented{recorded}", NOTES.get(name, ""))
    if steps or asked:
        recorded = f", {steps} steps exact" if steps else ""
        return Claim(Status.REFUSED, steps, f"refused{recorded}", reason(name))
    return Claim(Status.ABSENT, steps, "absent", reason(name))


def reason(name: str) -> str:
    """Return the reason why a name is not supported; "" if none is given."""
    return next((why for pattern, why in REASONS if re.search(pattern, name)), "")


def askable() -> set[str]:
    """Return the names that a client can put into a call."""
    found = {*_CALLS} | {c_name(member) for member in Extension}
    found |= {feature.c_name for feature in FEATURES.values()}
    for cls in _payloads():
        for member in cls.MEMBERS:
            if Hint.OUT not in member.hints and not cls.CNAME.startswith(
                ("vfio_region_info_cap", "vfio_device_info_cap")
            ):
                found |= _names_of(member.hints)
    for row in IOCTLS:
        found |= _names_of((row.flags,))
    return found


def _payloads() -> Iterator[type[Payload]]:
    for name in structs.__all__:
        cls = getattr(structs, name)
        assert issubclass(cls, Payload)
        yield cls


def _names_of(hints: Iterable[object]) -> set[str]:
    classes = [hint for hint in hints if isinstance(hint, type)]
    return {name for cls in classes for name in _names_of_class(cls)}


def sections() -> Iterator[tuple[str, list[str]]]:
    """Group the names by kind, in the order of the header; names unknown to the registry come last."""
    left = dict.fromkeys(symbols())

    def take(names: Iterable[str]) -> list[str]:
        return [name for name in names if name in left and (left.pop(name) or True)]

    yield "Calls", take(_CALLS)
    yield "Extensions and IOMMU types", take(c_name(member) for member in Extension)
    yield "Features", take(feature.c_name for feature in FEATURES.values())
    for cls in PREFIXES:
        title = (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")
        if names := take(_names_of_class(cls)):
            yield f"`{title}`" if title.startswith("vfio_") and " " not in title else title, names
    explained = [name for name in left if reason(name)]
    yield "Everything else", [*explained, *(name for name in left if name not in explained)]


def _names_of_class(cls: type) -> list[str]:
    if issubclass(cls, IntFlag):
        return [c_name(flag) for flag in cls]
    return [c_name(value) for value in cls] if issubclass(cls, IntEnum) else []


def page(found: Mapping[str, Claim]) -> str:
    """Format the whole page."""
    since = symbols()
    oldest, *others = (kernel(name) for name in PROFILES)
    parts = [
        INTRO.format(
            oldest=oldest,
            others=", ".join(name.removeprefix("Linux ") for name in others),
            all="both" if len(PROFILES) == 2 else f"all {len(PROFILES)}",
        )
    ]
    total = {status: sum(claim.status is status for claim in found.values()) for status in Status}
    parts.append(
        f"{len(found)} names: {', '.join(f'{count} {status}' for status, count in total.items())}.\n"
    )
    for title, names in sections():
        rows = [
            (f"`{name}`", since[name].removeprefix("linux-"), found[name].text, found[name].why)
            for name in names
        ]
        parts.append(f"### {title}\n")
        parts.append(table(("name", "since", "status", "why"), rows))
    parts.append(matrix())
    parts.append(section())
    return "\n".join(parts)


def generate() -> str:
    """Collect the evidence, probe, and format the page."""
    evidence = collect(sorted((PROTOCOL / "golden").glob("linux-*")))
    live = set().union(*(live_names(machine_spec(release)) for release in PROFILES))
    return page(claims(evidence, live))


__all__ = ["Claim", "Status", "askable", "claims", "generate", "page", "reason", "sections", "symbols"]

if __name__ == "__main__":
    sys.stdout.write(generate())
