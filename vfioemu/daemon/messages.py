# SPDX-License-Identifier: MIT
"""Arguments and results of the commands of the control socket; the protocol is in vfioemu/wire/control.py."""

from typing import Annotated, Any, Literal

import msgspec


class DeviceEntry(msgspec.Struct, frozen=True):
    """A device in `list`."""

    symbol: str
    name: str
    model: str
    group: int
    open: int
    pins: int
    mdev: bool
    sysfsdev: str


class GroupEntry(msgspec.Struct, frozen=True):
    """A group in `list`."""

    number: int
    iommu: bool
    viable: bool
    devices: list[str]


class ClientEntry(msgspec.Struct, frozen=True):
    """A session in `clients`."""

    session: int
    pid: int
    uid: int
    connections: int
    files: int
    shared_bytes: int
    locked_pages: int


class CallCount(msgspec.Struct, frozen=True):
    """Number of calls with one result; `errno` is empty for success."""

    call: str
    errno: str
    count: int


class Stats(msgspec.Struct, frozen=True):
    """Counters and gauges.

    Attributes:
        longest_round: the longest CPU time between two checks for clients that wait, in seconds.
        client_fds: the daemon's fds that exist for clients; the limit is `max_client_fds`.
    """

    calls: list[CallCount]
    refused_peers: int
    internal_errors: int
    sessions: int
    connections: int
    files: dict[str, int]
    locked_pages: int
    containers: dict[str, dict[str, int]]
    totals: dict[str, int]
    listeners: int = 0
    remarks: dict[str, int] = {}
    longest_round: float = 0.0
    client_fds: int = 0
    max_client_fds: int = 0
    ledgers: int = 0


class Listing(msgspec.Struct, frozen=True):
    """`list`."""

    profile: str
    root: str
    groups: list[GroupEntry]
    devices: list[DeviceEntry]
    parameters: dict[str, int]


class MdevType(msgspec.Struct, frozen=True):
    """A model that mediated devices can be made of."""

    id: str
    description: str
    options: dict[str, str]
    available: int


class NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Commands without arguments."""


class SetParameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`set-parameter`."""

    name: str
    value: int


class Inspect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`inspect`: internals of a device, named by symbol or name; its model documents what there is."""

    device: str
    what: str
    arguments: dict[str, Any] = {}


class MdevStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`mdev-start`: without a uuid, a random one is used."""

    type: str
    uuid: str | None = None
    options: dict[str, Any] = {}


class LedgerBegin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ledger-begin`: `ranges` are [iova, size] in bytes, whole pages of 4096."""

    devices: Annotated[list[str], msgspec.Meta(min_length=1, max_length=256)]
    ranges: Annotated[
        list[tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=1)]]],
        msgspec.Meta(min_length=1, max_length=64),
    ]


class LedgerBegun(msgspec.Struct, frozen=True):
    """The answer to `ledger-begin`.

    Attributes:
        daemon: the daemon's id, as its greeting on the other socket has it, in hexadecimal digits.
        devices: their symbols, in the order of the request.
    """

    daemon: str
    devices: list[str]


class LedgerCount(msgspec.Struct, frozen=True):
    """How many writes a device has made since its ledger was begun, and how many of them while it may not write."""

    device: str
    writes: int
    stopped: int


class LedgerPages(msgspec.Struct, frozen=True):
    """Pages that a device wrote: `bits` is base64 of whole 64-bit words, whose bit 0 is page `first` of a range."""

    device: str
    range: int
    first: int
    bits: str


class LedgerTaken(msgspec.Struct, frozen=True):
    """`ledger-take`; `more`: there are pages that did not fit."""

    devices: list[LedgerCount]
    pages: list[LedgerPages]
    more: bool


class LedgerWrites(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ledger-writes`: the last writes of a device after number `since`."""

    device: str
    since: Annotated[int, msgspec.Meta(ge=0)] = 0
    stopped: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1024


class LedgerWrite(msgspec.Struct, frozen=True):
    """One write; `when` is on the monotonic clock, in seconds."""

    seq: int
    iova: int
    size: int
    when: float
    stopped: bool


class DeviceRaise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`device-raise`: have a device raise its error interrupt (ERR), or its request to be given back (REQ)."""

    device: str
    what: Literal["error", "request"]


class MdevStop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`mdev-stop`."""

    uuid: str


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`trace`: after the answer the connection carries events (protocol/trace-events.schema.json) until the client sends a byte.

    `filters` are what `vfioemu trace -e` takes.
    """

    filters: Annotated[list[Annotated[str, msgspec.Meta(max_length=1024)]], msgspec.Meta(max_length=16)] = []
    limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 8
