# SPDX-License-Identifier: MIT
"""What a daemon that traces by itself was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vfioemu.trace.decode import DEFAULT_LIMIT

Format: TypeAlias = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Where a trace goes and what is in it.

    Attributes:
        path: a file, which is emptied first; None for stderr.
        format: strace's grammar, or one JSON object a line.
        expressions: see filter.py; an event is shown if all of them want it.
        limit: elements of arrays, and ranges of bitmaps.
    """

    path: Path | None = None
    format: Format = "text"
    expressions: tuple[str, ...] = ()
    limit: int = DEFAULT_LIMIT
