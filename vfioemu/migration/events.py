# SPDX-License-Identifier: MIT
"""What a migration tells while it runs: `--json` prints these one per line, and the display is made of nothing else.

Schema 1; `protocol/migration-events.schema.json` is generated from these types
(`schema()`), and a test holds the file against them. `t` is seconds on the sender's monotonic clock since its
start, `seq` counts from 0.
"""

import errno
from typing import Any, Literal, TypeAlias

import msgspec

from vfioemu.migration.actions import Outcome
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.journal import Fate
from vfioemu.migration.messages import Likeness
from vfioemu.migration.plan import Reason
from vfioemu.schema import json_schema

SCHEMA = 1

Side: TypeAlias = Literal["source", "destination"]
Runs: TypeAlias = Literal["source", "destination", "nobody", "unknown"]


class Told(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What every event has."""

    schema: int = SCHEMA
    t: float = 0.0
    seq: int = 0
    side: Side = "source"


class GuestDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device in `hello`."""

    name: str
    container: str
    tracker: str
    migration: list[str]


class Hello(Told, frozen=True, kw_only=True, tag="hello"):
    """Who migrates what to where."""

    version: str
    guest: str
    uri: str
    ram_bytes: int
    cpus: int
    devices: list[GuestDevice]
    verify: bool
    bandwidth: int = 0
    downtime: float = 0.0


class Listening(Told, frozen=True, kw_only=True, tag="listening"):
    """The destination is ready for a connection."""

    uri: str


class Blocked(Told, frozen=True, kw_only=True, tag="blocker"):
    """A reason why the migration does not begin."""

    reason: Reason
    detail: str


class Warned(Told, frozen=True, kw_only=True, tag="warning"):
    """Something that the user should know."""

    detail: str


class Phase(Told, frozen=True, kw_only=True, tag="phase"):
    """The migration has come to another phase."""

    phase: str


class Synced(Told, frozen=True, kw_only=True, tag="sync"):
    """The dirty logs were read."""

    pages: int
    dirtied: int
    device_bytes: int
    final: bool


class Round(Told, frozen=True, kw_only=True, tag="round"):
    """A pre-copy round is over."""

    number: int
    pages: int
    dirtied: int
    ram_bytes: int
    device_bytes: int
    seconds: float
    bandwidth: float
    remaining: int
    threshold: float


class Progress(Told, frozen=True, kw_only=True, tag="progress"):
    """How it is going; worth nothing any more when the next one comes."""

    number: int
    remaining: int
    sent: int
    bandwidth: float
    threshold: float
    cpu_writes: int


class Throttled(Told, frozen=True, kw_only=True, tag="throttle"):
    """The CPUs are kept from running for another share of the time, from 0 to less than 1."""

    share: float


class Device(Told, frozen=True, kw_only=True, tag="device"):
    """A device has changed its state."""

    device: str
    state: str


class Owner(Told, frozen=True, kw_only=True, tag="owner"):
    """Who runs the guest; between two of these nobody does."""

    owner: Side


class LostWrite(Told, frozen=True, kw_only=True, tag="lost_write"):
    """A write that the source's memory has and the destination's has not.

    Attributes:
        origin: device or CPU.
        write: its sequence number.
        held: what is there instead.
    """

    origin: str
    write: int | None
    iova: int
    block: str
    page: int
    held: str


class ComparedPart(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a part of a device: its state, or something that it shows.

    Attributes:
        detail: what differs, or why it was not compared.
    """

    what: str
    result: Likeness
    detail: str = ""


class ComparedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a device: it was compared only if its state was."""

    device: str
    result: Likeness
    detail: str
    parts: list[ComparedPart]


class Verified(Told, frozen=True, kw_only=True, tag="verify"):
    """The comparison of every page and device.

    Attributes:
        devices: what was found of each device.
        early: writes at the destination, where nothing ran yet.
        early_writes: the first of them, as text.
        ledger: why those of devices are not counted there; "" if they are.
    """

    pages: int
    mismatched_pages: int
    devices: list[ComparedDevice]
    lost_writes: int
    seconds: float
    early: int = 0
    early_writes: list[str] = []
    ledger: str = ""


class LateWrite(Told, frozen=True, kw_only=True, tag="late_write"):
    """A write that came after the guest had been told to stand still, or at the destination before it was started.

    Attributes:
        moment: at which reading of the ledger it was found.
        origin: device or CPU; "a device" if only the page is known.
        write: its sequence number; null if only the page is known.
        block: of RAM; "" for an address outside of it.
        npages: pages that it touched.
        after: seconds from the pause of the CPUs; null if they were not paused, or only the page is known.
    """

    moment: str
    origin: str
    write: int | None
    iova: int
    block: str
    page: int
    npages: int
    after: float | None


class LedgerRead(Told, frozen=True, kw_only=True, tag="ledger"):
    """The ledger of writes was read.

    Attributes:
        moment: when.
        late: how many writes should not have been; those that are known by name were told before.
        resummed: pages that were summed anew, because they were written and not sent since.
        not_compared: why the writes of devices are not in it; "" if they are.
    """

    moment: str
    late: int
    resummed: int
    not_compared: str = ""


class Audited(Told, frozen=True, kw_only=True, tag="audit"):
    """The source, which has given the guest up, has held its memory against the checksums of what it sent.

    Attributes:
        pages: how many were summed; holes are not.
        different: how many are not what was sent.
        unexplained: how many of these no late write explains.
        first: some of them, as text.
    """

    pages: int
    different: int
    unexplained: int
    seconds: float
    first: list[str] = []


class Alive(Told, frozen=True, kw_only=True, tag="alive"):
    """What the guest has done since its owner runs it."""

    seconds: float
    cpu_writes: int
    dma_writes: dict[str, int]


class Resolved(Told, frozen=True, kw_only=True, tag="resolved"):
    """What became of an earlier migration: `--resolve`.

    Attributes:
        token: the migration's.
        fate: `moved`, the destination runs it; `ended`, the destination was told to start it, and has died since; `not_moved`, the
            destination has never run it and never will; `in_doubt`, nobody answers who knows; `running`, its client lives.
        detail: why nobody knows.
    """

    token: str
    guest: str
    uri: str
    fate: Fate
    detail: str = ""


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """IO virtual addresses."""

    iova: int
    size: int


class End(Told, frozen=True, kw_only=True, tag="end"):
    """The end.

    Attributes:
        code: the exit code.
        reason: why it did not go as it should; None if it did.
        errno: of the call that failed, errno_name its name.
        ioctl: that call; of VFIO_DEVICE_FEATURE the feature; `read` and `write` are of a data fd or a region.
        device: that it was for, as the guest file calls it.
        range: that it was about.
        rounds: pre-copy rounds, the bulk round among them.
        outage: seconds in which the guest stood still, from the pause of its CPUs to the destination's STARTED, or until
            it ran here again; null if it never stood still, or if nobody knows whether it runs.
        outage_parts: what they were spent on, in order; they add up to it. Without `outage`, what is known.
        downtime: the limit that the user has set for it, in seconds.
        above_limit: it was longer than that.
        source_runs: each device of the source has answered that it runs, and each CPU has moved.
        runs: who runs the guest now, as far as this side knows: a destination knows no more than whether it does.
        lost_devices: those that do not run, when they should.
        why_lost: what the first of them did instead.
    """

    code: int
    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    errno: int | None = None
    errno_name: str | None = None
    ioctl: str | None = None
    device: str | None = None
    range: Range | None = None
    rounds: int = 0
    ram_bytes: int = 0
    zero_pages: int = 0
    device_bytes: int = 0
    seconds: float = 0.0
    outage: float | None = None
    outage_parts: dict[str, float] = {}
    downtime: float = 0.0
    above_limit: bool | None = None
    source_runs: bool = False
    runs: Runs = "unknown"
    lost_devices: list[str] = []
    why_lost: str = ""


def failure(number: int | None, call: FailedCall | None) -> dict[str, Any]:
    """Return the fields of `End` that tell of a call that failed; none, if none did."""
    if number is None:
        return {}
    call = call or FailedCall()
    where = None if call.iova is None or call.size is None else Range(iova=call.iova, size=call.size)
    return {
        "errno": number,
        "errno_name": errno.errorcode.get(number),
        "ioctl": call.ioctl,
        "device": call.device,
        "range": where,
    }


Event: TypeAlias = (
    Hello
    | Listening
    | Blocked
    | Warned
    | Phase
    | Synced
    | Round
    | Progress
    | Throttled
    | Device
    | Owner
    | LostWrite
    | Verified
    | LateWrite
    | LedgerRead
    | Audited
    | Alive
    | Resolved
    | End
)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of `--json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vfioemu migration event",
        **json_schema(Event),
    }
