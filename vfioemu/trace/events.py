# SPDX-License-Identifier: MIT
"""What happens, one event a line: the machine form of a trace. The text is made from these and from nothing else.

`errno` and `why` are null when a call has succeeded; `fd` is null when the daemon was not told its number. Trees in `arg` and `out`
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
    """What all have."""

    t: Seconds = 0.0


class Call(Event, frozen=True, kw_only=True):
    """What all calls have.

    Attributes:
        pid: who calls.
        fd: on which fd, as the caller numbers it.
        kind: what that is.
        file: which one of its kind: a group's number, a device's symbol.
        ret: what the system call returned; -1 with an errno.
        dur_us: from the daemon's getting it to its answering it, what the caller had to be asked included.
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
    """read(2) and its relatives. `data` is how it begins, one character a byte.

    Attributes:
        op: which: read, write, pread64, pwrite64.
        region: (index, offset in it), for a device.
    """

    op: str
    size: Number
    offset: Number | None = None
    data: str | None = None
    region: tuple[int, int] | None = None


class Mmap(Call, frozen=True, kw_only=True, tag="mmap"):
    """mmap(2); `ret` is 0, since only the caller knows the address."""

    size: Number
    prot: int
    shared: bool
    offset: Number
    region: tuple[int, int] | None = None


class Open(Call, frozen=True, kw_only=True, tag="open"):
    """open(2)."""

    path: str


class Close(Call, frozen=True, kw_only=True, tag="close"):
    """The last reference to a file is gone, in whatever process. `mappings` went with it."""

    mappings: int = 0


class Dirtied(Event, frozen=True, kw_only=True, tag="dirtied"):
    """A device has written guest memory.

    Attributes:
        count: how many writes or pins it were.
        ranges: the first of them: (iova, size).
        how: which way they took.
    """

    device: str
    count: int
    ranges: list[tuple[int, int]]
    how: str = ""


class State(Event, frozen=True, kw_only=True, tag="state"):
    """A device went from one migration state to another: one arc."""

    device: str
    old: int
    new: int


class Interrupt(Event, frozen=True, kw_only=True, tag="irq"):
    """A device raised an interrupt; `eventfd` says whether anybody can hear it."""

    device: str
    index: int
    vector: int
    eventfd: bool


class Disconnected(Event, frozen=True, kw_only=True, tag="disconnected"):
    """A client is gone, and with it mappings that it had not removed."""

    pid: int
    comm: str = ""
    mappings: int = 0


class Remark(Event, frozen=True, kw_only=True, tag="remark"):
    """Something happens that no call shows, and that its program may not know.

    Attributes:
        pid: whose doing it is.
        about: what kind of thing: "discarded", "unmapped", "not kept", "memlock", "file", "lost".
        text: what, in words.
    """

    pid: int
    about: str
    text: str


class Lost(Event, frozen=True, kw_only=True, tag="lost"):
    """The reader was too slow: so many events are missing here."""

    count: int


AnyEvent: TypeAlias = (
    Ioctl | Transfer | Mmap | Open | Close | Dirtied | State | Interrupt | Disconnected | Remark | Lost
)

CALLS: Final = (Ioctl, Transfer, Mmap, Open, Close)

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    """One line of JSON, without its end."""
    return printable_json(_ENCODER.encode(event))


def decode(line: bytes | str) -> AnyEvent:
    """The event of a line.

    Raises:
        ValueError: it is none; the text says why.
    """
    try:
        event: AnyEvent = _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from None
    return event


def schema() -> bytes:
    """JSON Schema of a line, as it is committed."""
    text = msgspec.json.encode(json_schema(AnyEvent))
    return msgspec.json.format(text, indent=1) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(schema())
