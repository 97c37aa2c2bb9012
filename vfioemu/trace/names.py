# SPDX-License-Identifier: MIT
"""Format numbers as their names in <linux/vfio.h>, short, in full, or not at all; unknown ones stay numbers."""

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
"""Enums whose short names nobody would recognise."""
_OPEN: Final = frozenset({PciIrq, PciRegion, Extension})
"""Enums with more values than names: a device's own regions, arguments of CHECK_EXTENSION."""
_DIRECTIONS: Final = ("_IOC_NONE", "_IOC_WRITE", "_IOC_READ", "_IOC_READ|_IOC_WRITE")
_UNSERVED: Final = {(row.kind, row.number): row.name for row in UNSERVED}


class Style(Enum):
    """The styles of strace's -X."""

    RAW = "raw"
    ABBREV = "abbrev"
    VERBOSE = "verbose"


def number(value: int) -> str:
    """Format in hex, like an address; 0 stays 0."""
    return f"{value:#x}" if value else "0"


def member_name(member: IntEnum | IntFlag, style: Style) -> str:
    """Format one member."""
    if style is Style.VERBOSE or type(member) in _ALWAYS_IN_FULL:
        return c_name(member)
    return member.name or number(member)


@functools.cache
def _bits(cls: type[IntFlag], style: Style) -> tuple[tuple[int, str], ...]:
    """Return the bits of a class with their names; cached, as iterating an enum takes most of a line's time."""
    return tuple((int(member), member_name(member, style)) for member in cls)


def flags(cls: type[IntFlag], value: int, style: Style) -> str:
    """Format flags: ``READ|WRITE|0xf0 /* VFIO_DMA_MAP_FLAG_??? */``."""
    if style is Style.RAW:
        return number(value)
    parts, left = _split(cls, value, style)
    return "|".join([*parts, *_unknown(left, PREFIXES.get(cls, ""))]) or "0"


def _split(cls: type[IntFlag], value: int, style: Style) -> tuple[list[str], int]:
    """Return the names of the known bits, and the remaining bits."""
    parts = []
    for bit, name in _bits(cls, style):
        if bit & value:
            parts.append(name)
            value &= ~bit
    return parts, value


def enum(cls: type[IntEnum], value: int, style: Style) -> str:
    """Format a member's name; for an unknown number, the number and the prefix of its enum."""
    if style is Style.RAW:
        return str(value)
    try:
        return member_name(cls(value), style)
    except ValueError:
        return str(value) if cls in _OPEN else "|".join(_unknown(value, PREFIXES.get(cls, ""))) or "0"


def feature_flags(value: int, style: Style) -> str:
    """Format the flags of VFIO_DEVICE_FEATURE: operations, and the number of a feature."""
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
    """Return the name of an ioctl on a kind of fd; strace's _IOC() for an unknown number."""
    row = lookup(kind, cmd)
    if row is not None:
        return row.name
    return _UNSERVED.get((kind, cmd)) or (
        f"_IOC({_DIRECTIONS[cmd >> 30 & 3]}, {number(cmd >> 8 & 0xFF)}, {number(cmd & 0xFF)}, "
        f"{number(cmd >> 16 & 0x3FFF)})"
    )


def file_label(kind: FdKind, which: str) -> str:
    """Return the label after the number of an fd: ``container``, ``group 1``, ``dma-engine0``, ``dma-engine0 data``."""
    if not which or kind is FdKind.CONTAINER:
        return str(kind)
    return {FdKind.GROUP: f"group {which}", FdKind.DATA: f"{which} data"}.get(kind, which)


def errno_name(value: int) -> str:
    """Return the name of an errno: EINVAL for 22."""
    return errno.errorcode.get(value, str(value))


def errno_text(name: str) -> str:
    """Return the text of an errno: ``Invalid argument`` for EINVAL; "" for an unknown name."""
    value = getattr(errno, name, None) if name.startswith("E") else None
    return os.strerror(value) if isinstance(value, int) else ""


def quoted(text: str) -> str:
    r"""Quote a string as strace prints bytes, with octal escapes."""
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
    """Make text safe to stand between ``/*`` and ``*/``, on one line."""
    clean = "".join(
        char if char.isprintable() else f"\\{ord(char):o}"
        for char in text.encode("utf-8", "replace").decode()
    )
    return clean.replace("*/", "* /")
