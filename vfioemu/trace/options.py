# SPDX-License-Identifier: MIT
"""Options of a trace that a daemon writes by itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vfioemu.trace.decode import DEFAULT_LIMIT

Format: TypeAlias = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Destination and contents of a trace.

    Attributes:
        path: a file, truncated first; None for stderr.
        format: strace's grammar, or one JSON object per line.
        expressions: see filter.py; an event is shown if all of them select it.
        limit: most elements of arrays, and ranges of bitmaps.
    """

    path: Path | None = None
    format: Format = "text"
    expressions: tuple[str, ...] = ()
    limit: int = DEFAULT_LIMIT
