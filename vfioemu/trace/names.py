# SPDX-License-Identifier: MIT
"""Numbers as their names in <linux/vfio.h>, short, in full, or not at all; anything that has none stays a number."""

import errno
import functools
import os
from enum import Enum, IntEnum, IntFlag
from typing import Final

from vfioemu.uapi.constants import VFIO_DEVICE_FEATURE_MASK
from vfioemu.uapi.features import FEATURES
from vfioemu.uapi.flags import PREFIXES, Extension, FeatureFlag, PciIrq, PciRegion, c_name
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import UNSERVED, lookup

_ALWAYS_IN_FULL: Final = frozenset({Extension, PciIrq, PciRegion})
"""What nobody would recognise by its short name."""
_OPEN: Final = frozenset({PciIrq, PciRegion, Extension})
"""Enums with further values that have no names: a device's own regions, what CHECK_EXTENSION is asked about."""
_DIRECTIONS: Final = ("_IOC_NONE", "_IOC_WRITE", "_IOC_READ", "_IOC_READ|_IOC_WRITE")
_UNSERVED: Final = {(row.kind, row.number): row.name for row in UNSERVED}


class Style(Enum):
    """strace's -X."""

    RAW = "raw"
    ABBREV = "abbrev"
    VERBOSE = "verbose"


def number(value: int) -> str:
    """In hex, as addresses are; 0 is 0."""
    return f"{value:#x}" if value else "0"


def member_name(member: IntEnum | IntFlag, style: Style) -> str:
    """One member."""
    if style is Style.VERBOSE or type(member) in _ALWAYS_IN_FULL:
        return c_name(member)
    return member.name or number(member)


@functools.cache
def _bits(cls: type[IntFlag], style: Style) -> tuple[tuple[int, str], ...]:
    """The bits of a class with their names: to ask an enum again and again takes most of a line's time."""
    return tuple((int(member), member_name(member, style)) for member in cls)


def flags(cls: type[IntFlag], value: int, style: Style) -> str:
    """``READ|WRITE|0xf0 /* VFIO_DMA_MAP_FLAG_??? */``."""
    if style is Style.RAW:
        return number(value)
    parts, left = _split(cls, value, style)
    return "|".join([*parts, *_unknown(left, PREFIXES.get(cls, ""))]) or "0"


def _split(cls: type[IntFlag], value: int, style: Style) -> tuple[list[str], int]:
    """The names of the bits that have one, and the other bits."""
    parts = []
    for bit, name in _bits(cls, style):
        if bit & value:
            parts.append(name)
            value &= ~bit
    return parts, value


def enum(cls: type[IntEnum], value: int, style: Style) -> str:
    """The member's name, or the number and what it would have been one of."""
    if style is Style.RAW:
        return str(value)
    try:
        return member_name(cls(value), style)
    except ValueError:
        return str(value) if cls in _OPEN else "|".join(_unknown(value, PREFIXES.get(cls, ""))) or "0"


def feature_flags(value: int, style: Style) -> str:
    """The flags of VFIO_DEVICE_FEATURE: operations, and the number of a feature."""
    if style is Style.RAW:
        return number(value)
    prefix = PREFIXES[FeatureFlag]
    feature = value & VFIO_DEVICE_FEATURE_MASK
    parts, left = _split(FeatureFlag, value - feature, style)
    row = FEATURES.get(feature)
    if row is None:
        parts.append(f"{number(feature)} /* {prefix}??? */")
    else:
        parts.append(row.c_name if style is Style.VERBOSE else row.name)
    return "|".join([*parts, *_unknown(left, prefix)])


def _unknown(value: int, prefix: str) -> list[str]:
    return [f"{number(value)} /* {prefix}??? */"] if value else []


def ioctl_name(kind: FdKind, cmd: int) -> str:
    """The name of an ioctl on that kind of fd; strace's _IOC() for a number that means nothing there."""
    row = lookup(kind, cmd)
    if row is not None:
        return row.name
    return _UNSERVED.get((kind, cmd)) or (
        f"_IOC({_DIRECTIONS[cmd >> 30 & 3]}, {number(cmd >> 8 & 0xFF)}, {number(cmd & 0xFF)}, "
        f"{number(cmd >> 16 & 0x3FFF)})"
    )


def file_label(kind: FdKind, which: str) -> str:
    """What stands behind the number of an fd: ``container``, ``group 1``, ``dma-engine0``, ``dma-engine0 data``."""
    if not which or kind is FdKind.CONTAINER:
        return str(kind)
    return {FdKind.GROUP: f"group {which}", FdKind.DATA: f"{which} data"}.get(kind, which)


def errno_name(value: int) -> str:
    """EINVAL for 22."""
    return errno.errorcode.get(value, str(value))


def errno_text(name: str) -> str:
    """``Invalid argument`` for EINVAL; nothing for what is no errno."""
    value = getattr(errno, name, None) if name.startswith("E") else None
    return os.strerror(value) if isinstance(value, int) else ""


def quoted(text: str) -> str:
    r"""A string as strace prints bytes: in quotes, with octal escapes."""
    out = []
    for n, char in enumerate(text):
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif " " <= char <= "~":
            out.append(char)
        elif ord(char) > 0xFF:
            out.append(f"\\u{ord(char):04x}")
        else:
            digit = text[n + 1 : n + 2].isdigit()
            out.append(f"\\{ord(char):03o}" if digit else f"\\{ord(char):o}")
    return f'"{"".join(out)}"'


_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\f": "\\f"}


def comment(text: str) -> str:
    """Text that can stand between ``/*`` and ``*/``, on one line."""
    clean = "".join(
        char if char.isprintable() else f"\\{ord(char):o}"
        for char in text.encode("utf-8", "replace").decode()
    )
    return clean.replace("*/", "* /")
