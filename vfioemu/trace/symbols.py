# SPDX-License-Identifier: MIT
"""Find the names of <linux/vfio.h> that a call involves: its own, its feature's, those of flags, states, indices, capabilities.

They are read from the decoded trees by the hints on the structs' fields, so the support matrix counts a new flag as soon as it is
in the registry.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import Any, Final

from vfioemu.trace import events as e
from vfioemu.trace.decode import CAPS, follower
from vfioemu.uapi import constants as c
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.flags import c_name
from vfioemu.uapi.hints import Chain
from vfioemu.uapi.payload import Payload
from vfioemu.uapi.registry import Ioctl, lookup
from vfioemu.uapi.structs import DeviceFeature

_SUBTYPES: Final = {
    (c.VFIO_REGION_TYPE_MIGRATION_DEPRECATED, c.VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED): (
        "VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED"
    ),
    (c.VFIO_REGION_TYPE_GFX, c.VFIO_REGION_SUBTYPE_GFX_EDID): "VFIO_REGION_SUBTYPE_GFX_EDID",
}
"""(type, subtype) -> name: a subtype has a meaning only together with its type."""


def involved(event: e.Ioctl) -> set[str]:
    """Return the names that a call involves, in its argument or its result."""
    found = {event.ioctl}
    row = lookup(event.kind, event.cmd) if event.kind is not None else None
    if row is None:
        return found
    if row.values is not None and isinstance(event.arg, int):
        found.update(_named(row.values, event.arg))
    if row.payload is not None:
        arg = event.arg if isinstance(event.arg, dict) else {}
        found.update(_struct(row.payload, arg, arg, row))
        if isinstance(event.out, dict):
            found.update(_struct(row.payload, event.out, {**arg, **event.out}, row))
    return found


def _named(cls: type, value: int) -> Iterator[str]:
    """Yield the names of a number: those of its bits, or its own."""
    if issubclass(cls, IntFlag):
        yield from (c_name(member) for member in cls if member & value)
    elif issubclass(cls, IntEnum) and value in tuple(cls):
        yield c_name(cls(value))


def _struct(
    cls: type[Payload], tree: Mapping[str, Any], known: Mapping[str, Any], row: Ioctl | None
) -> Iterator[str]:
    for member in cls.MEMBERS:
        value = tree.get(member.name)
        if member.nested is not None and isinstance(value, dict):
            yield from _struct(member.nested, value, value, None)
            continue
        if not isinstance(value, int):
            continue
        named = [hint for hint in member.hints if isinstance(hint, type)]
        if not named and row is not None and row.flags is not None and member.name == "flags":
            named = [row.flags]
        for hint in named:
            yield from _named(hint, value)
        if cls is DeviceFeature and member.name == "flags":
            feature = FEATURES.get(value & c.VFIO_DEVICE_FEATURE_MASK)
            if feature is not None:
                yield feature.c_name
    for cap in tree.get(CAPS) or ():
        yield from _capability(cls, cap)
    inner = tree.get(cls.TAIL)
    if isinstance(inner, dict):
        flags = known.get("flags")
        follow = follower(cls, {"flags": flags if isinstance(flags, int) else 0})
        if follow is not None and not follow.count:
            yield from _struct(follow.item, inner, inner, None)


def _capability(cls: type[Payload], cap: Mapping[str, Any]) -> Iterator[str]:
    for member in cls.MEMBERS:
        for hint in member.hints:
            if isinstance(hint, Chain):
                yield from _named(hint.ids, cap["id"])
                inner = hint.caps.get(cap["id"])
                if inner is not None:
                    yield from _struct(inner, cap, cap, None)
                if (found := _SUBTYPES.get((cap.get("type", 0), cap.get("subtype", 0)))) is not None:
                    yield found
