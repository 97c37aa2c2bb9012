# SPDX-License-Identifier: MIT
"""Parse and format numbers of bytes, in powers of 1024."""

import re
from fractions import Fraction
from typing import Final

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


class SizeError(ValueError):
    """The text is not a size."""


def parse_size(text: int | str) -> int:
    """Parse a number of bytes, or text as ``"64 MiB"``, ``"64M"``, ``"1.5g"``.

    Raises:
        SizeError: the text is not a size.
    """
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise SizeError(f"{text[:60]!r} is not a size; try 64MiB")
    return int(Fraction(match[1]) * _UNITS[match[2].lower()])


def format_size(count: float) -> str:
    """Format a number of bytes with one decimal: ``64.0 MiB``, ``512 B``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
