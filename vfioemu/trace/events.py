# SPDX-License-Identifier: MIT
"""The events of a trace, one JSON object per line. The text form is made from these alone.

`errno` and `why` are null when a call succeeded; `fd` is null when the daemon was not told its number. Trees in `arg` and `out`
are those of decode.py. The JSON Schema is protocol/trace-events.schema.json, made by ``python -m vfioemu.trace.events``.
"""

import sys
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from vfioemu.printable import printable_json
from vfioemu.schema import json_schema
from vfioemu.uapi.kinds import FdKind

Seconds: TypeAlias = Annotated[float, Meta(description="since 1970")]
Number: TypeAlias = Annotated[int, Meta(description="0 to 2^64-1, or a negative result")]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Fields of all events."""

    t: Seconds = 0.0


class Call(Event, frozen=True, kw_only=True):
    """Fields of all calls.

    Attributes:
        pid: the caller.
        fd: the fd, as the caller numbers it.
        kind: the kind of the fd.
        file: which file of that kind: a group's number, a device's symbol.
        ret: the system call's result; -1 with an errno.
        dur_us: microseconds from receipt to reply, including requests to the caller.
    """

    pid: int = 0
    fd: int | None = None
    kind: FdKind | None = None
    file: str = ""
    ret: int = 0
    errno: str | None = None
    why: str | None = None
    dur_us: int = 0


class Ioctl(Call, frozen=True, kw_only=True, tag="ioctl"):
    """ioctl(2)."""

    ioctl: str
    cmd: int
    arg: Any = None
    out: Any = None


class Transfer(Call, frozen=True, kw_only=True, tag="transfer"):
    """read(2) and its relatives. `data` holds the first bytes, one character per byte.

    Attributes:
        op: read, write, pread64 or pwrite64.
        region: (index, offset in it), for a device.
    """

    op: str
    size: Number
    offset: Number | None = None
    data: str | None = None
    region: tuple[int, int] | None = None


class Mmap(Call, frozen=True, kw_only=True, tag="mmap"):
    """mmap(2); `ret` is 0, as only the caller knows the address."""

    size: Number
    prot: int
    shared: bool
    offset: Number
    region: tuple[int, int] | None = None


class Open(Call, frozen=True, kw_only=True, tag="open"):
    """open(2)."""

    path: str


class Close(Call, frozen=True, kw_only=True, tag="close"):
    """The last reference to a file was closed, in any process. `mappings` were removed with it."""

    mappings: int = 0


class Dirtied(Event, frozen=True, kw_only=True, tag="dirtied"):
    """A device wrote guest memory.

    Attributes:
        count: number of writes or pins.
        ranges: the first of them: (iova, size).
        how: the way of the writes.
    """

    device: str
    count: int
    ranges: list[tuple[int, int]]
    how: str = ""


class State(Event, frozen=True, kw_only=True, tag="state"):
    """A device changed its migration state: one arc."""

    device: str
    old: int
    new: int


class Interrupt(Event, frozen=True, kw_only=True, tag="irq"):
    """A device raised an interrupt; `eventfd` is false if no eventfd is set for it."""

    device: str
    index: int
    vector: int
    eventfd: bool


class Disconnected(Event, frozen=True, kw_only=True, tag="disconnected"):
    """A client disconnected; mappings that it had not removed were removed."""

    pid: int
    comm: str = ""
    mappings: int = 0


class Remark(Event, frozen=True, kw_only=True, tag="remark"):
    """An event that no call shows and that the program may not know about.

    Attributes:
        pid: the process that caused it.
        about: its class: "discarded", "unmapped", "not kept", "memlock", "file", "lost".
        text: a description.
    """

    pid: int
    about: str
    text: str


class Lost(Event, frozen=True, kw_only=True, tag="lost"):
    """The reader was too slow: `count` events are missing here."""

    count: int


AnyEvent: TypeAlias = (
    Ioctl | Transfer | Mmap | Open | Close | Dirtied | State | Interrupt | Disconnected | Remark | Lost
)

CALLS: Final = (Ioctl, Transfer, Mmap, Open, Close)

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    """Encode one line of JSON, without its newline."""
    return printable_json(_ENCODER.encode(event))


def decode(line: bytes | str) -> AnyEvent:
    """Decode a line.

    Raises:
        ValueError: it is not an event; the text says why.
    """
    try:
        event: AnyEvent = _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from None
    return event


def schema() -> bytes:
    """Return the JSON Schema of a line, as it is committed."""
    text = msgspec.json.encode(json_schema(AnyEvent))
    return msgspec.json.format(text, indent=1) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(schema())
