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
