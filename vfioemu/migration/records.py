# SPDX-License-Identifier: MIT
"""The records of a hand-over as bytes: one line each, which is whole or torn.

A line is the CRC-32 of the rest as eight hex digits, a blank, and JSON. A writer that dies leaves a part of its last line, or
(after a crash of the machine) zeros in its place: what is behind the last good line is as if it had never been written. A bad
line *before* a good one was not left by a writer of ours: such a log says nothing.
"""

import zlib
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

MOST_BYTES: Final = 64 << 10
"""Of one log; a hand-over writes six records at most, each below 9 KiB."""


class Record(StrEnum):
    """What a side has written down, and is bound to from then on."""

    BEGUN = "begun"
    """Both: there is such a migration, and this process takes part in it."""
    READY = "ready"
    """Destination: everything is loaded. A destination that dies has lost it with its memory, and refuses afterwards."""
    COMMIT = "commit"
    """Source: the destination may be told to start; only its answer decides from now on."""
    STARTED = "started"
    """Destination: the guest is started next. After this nobody is told that it never ran here, unless REFUSED follows."""
    REFUSED = "refused"
    """Destination: the guest never runs here, and never has."""
    RESUMED = "resumed"
    """Source: the destination has refused, and the guest runs on here."""
    RELEASED = "released"
    """Source: the destination has the guest."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record.

    Attributes:
        when: seconds since the epoch, for people.
        uri: of the destination; in BEGUN of a source.
        guest: its name; in BEGUN.
        pid: who wrote; for people.
        why: a reason in words; in REFUSED.
    """

    record: Record
    when: float = 0.0
    uri: Annotated[str, Meta(max_length=1000)] = ""
    guest: Annotated[str, Meta(max_length=200)] = ""
    pid: int = 0
    why: Annotated[str, Meta(max_length=1000)] = ""


class DamagedError(ValueError):
    """A log that no writer of ours has left."""


def encode(entry: Entry) -> bytes:
    """Encode a record as a line."""
    body = msgspec.json.encode(entry)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(data: bytes) -> tuple[list[Entry], int]:
    """Decode a log: the records, and how many bytes they take; what is behind them is torn.

    Raises:
        DamagedError: a bad line stands before a good one, or the log is longer than MOST_BYTES.
    """
    if len(data) > MOST_BYTES:
        raise DamagedError(f"{len(data)} bytes, a log has at most {MOST_BYTES}")
    entries: list[Entry] = []
    size, torn = 0, False
    for line in data.splitlines(keepends=True):
        entry = _parse(line)
        if entry is None:
            torn = True
        elif torn:
            raise DamagedError(f"the line at byte {size} is no record, and a record follows")
        else:
            entries.append(entry)
            size += len(line)
    return entries, size


def _parse(line: bytes) -> Entry | None:
    if len(line) < 10 or not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    body = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(body):
        return None
    try:
        return msgspec.json.decode(body, type=Entry)
    except msgspec.DecodeError:
        return None  # of a later release, or of nobody
