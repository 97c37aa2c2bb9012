# SPDX-License-Identifier: MIT
"""What tells two states of a program apart, also of one that is written as a generator: where it stands, and what it knows there."""

from collections.abc import Generator, Iterator
from enum import Enum
from typing import Any

from vfioemu.migration.chaos.disk import Disk
from vfioemu.migration.engine import Engine
from vfioemu.migration.handover import Handover
from vfioemu.migration.records import DamagedError, decode


def of_engine(engine: Engine | None) -> object:
    """Return the state of an engine: its fields, and the place in each of its generators."""
    return None if engine is None else (_fields(engine), tuple(_places(engine._flow)))  # noqa: SLF001


def of_handover(handover: Handover | None) -> object:
    """Return the state of a destination's half."""
    if handover is None:
        return None
    logs = handover._logs.items()  # noqa: SLF001
    return _fields(handover), tuple((token, tuple(log.records)) for token, log in logs)


def of_disk(disk: Disk) -> object:
    """Return what is on a disk: records, not the times in them, and whether something is torn behind them."""
    found: list[object] = []
    for name, data, owner in disk.state():
        try:
            entries, size = decode(data)
        except DamagedError:
            found.append((name, data, owner))
        else:
            found.append((name, tuple(entry.record for entry in entries), size < len(data), owner))
    return tuple(found)


def _fields(thing: object) -> tuple[tuple[str, object], ...]:
    """Return the fields that are plain values, or dictionaries of them."""
    found = []
    for name, value in vars(thing).items():
        if _plain(value):
            found.append((name, value))
        elif isinstance(value, dict) and all(map(_plain, value.values())):
            found.append((name, tuple(value.items())))
    return tuple(found)


def _places(generator: Generator[Any, Any, Any]) -> Iterator[tuple[object, ...]]:
    flow: Any = generator
    while flow is not None and flow.gi_frame is not None:
        frame = flow.gi_frame
        known = tuple((name, value) for name, value in frame.f_locals.items() if _plain(value))
        yield flow.__name__, frame.f_lasti, known
        flow = flow.gi_yieldfrom


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | Enum)
