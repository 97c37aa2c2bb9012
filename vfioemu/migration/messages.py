# SPDX-License-Identifier: MIT
"""The JSON bodies of the stream's frames, with bounds on every field: the peer is hostile until shown otherwise."""

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from vfioemu.migration.plan import PAGE, OnMismatch

MAX_PAGES: Final = 1 << 36
"""Of one block: 256 TiB."""
MAX_BLOCKS: Final = 64
MAX_DEVICES: Final = 256
MAX_CPUS: Final = 1024

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
Text: TypeAlias = Annotated[str, Meta(max_length=4000)]
Token: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON body of a frame."""


class Hello(Message, frozen=True, kw_only=True):
    """Who comes, and what with.

    Attributes:
        token: random; names this attempt in the hand-over and in QUERY.
        on_mismatch: what becomes of the guest if it is not the same here.
    """

    token: Token
    guest: Name
    verify: bool
    on_mismatch: OnMismatch = OnMismatch.ABORT
    page_size: Count = PAGE


class BlockGeometry(Message, frozen=True, kw_only=True):
    """A RAM block; frames refer to it by its place in SETUP."""

    name: Name
    base: Count
    npages: Annotated[int, Meta(ge=1, le=MAX_PAGES)]


class DeviceGeometry(Message, frozen=True, kw_only=True):
    """A device; frames refer to it by its place in SETUP."""

    name: Name
    migration: Count


class Setup(Message, frozen=True, kw_only=True):
    """The shape of the guest; the destination's has to be the same."""

    blocks: Annotated[list[BlockGeometry], Meta(min_length=1, max_length=MAX_BLOCKS)]
    devices: Annotated[list[DeviceGeometry], Meta(max_length=MAX_DEVICES)]
    cpus: Annotated[int, Meta(ge=0, le=MAX_CPUS)] = 0


class RoundMark(Message, frozen=True, kw_only=True):
    """A round begins; for display only."""

    number: Count
    pages: Count
    final: bool = False


class CpuState(Message, frozen=True, kw_only=True):
    """One virtual CPU: its registers, as far as a dirtier has any."""

    seq: Count
    rng: Annotated[str, Meta(pattern="^[0-9a-f]{1,16}$")]
    cursor: Count
    pages: Count


class Cpus(Message, frozen=True, kw_only=True):
    """All virtual CPUs, in order."""

    cpus: Annotated[list[CpuState], Meta(max_length=MAX_CPUS)]


class DeviceLedger(Message, frozen=True, kw_only=True):
    """What a stopped device shows in its registers: name -> value, and a digest of all of them.

    Values are hexadecimal text, because JSON numbers do not hold 64 bits everywhere.
    """

    name: Name
    registers: Annotated[dict[Name, Annotated[str, Meta(max_length=40)]], Meta(max_length=1000)]
    digest: Annotated[str, Meta(max_length=128)]


class Ledger(Message, frozen=True, kw_only=True):
    """All devices."""

    devices: Annotated[list[DeviceLedger], Meta(max_length=MAX_DEVICES)]


class Handshake(Message, frozen=True, kw_only=True):
    """PREPARE, READY, COMMIT, QUERY, STARTED, RELEASED: the token says which migration is meant."""

    token: Token


class Fate(Handshake, frozen=True, kw_only=True):
    """STARTED: it runs; or it has run, and the process that ran it is dead."""

    ended: bool = False


class Problem(Message, frozen=True, kw_only=True):
    """ABORT, REFUSED, PROBLEM: why."""

    reason: Annotated[str, Meta(max_length=100)]
    detail: Text = ""
    token: Annotated[str, Meta(max_length=32)] = ""


class Welcome(Message, frozen=True, kw_only=True):
    """The destination understands HELLO."""

    version: Annotated[str, Meta(max_length=100)]


class PageMismatch(Message, frozen=True, kw_only=True):
    """A page that is not what the source has; `content` (base64 of 4096 bytes) for the first few only."""

    block: Count
    page: Count
    content: Annotated[str, Meta(max_length=6000)] = ""


class Checked(Message, frozen=True, kw_only=True):
    """What the comparison of all pages and devices found at the destination.

    Attributes:
        pages: how many were compared.
        mismatches: the first of the pages that differ.
        mismatched_pages: how many differ in all.
        devices: how many were compared.
        devices_not_compared: names of those that were not, because the guest knows none of their registers.
        mismatched_devices: names of devices whose registers differ, with what differs.
        seconds: how long it took.
    """

    pages: Count
    mismatched_pages: Count
    mismatches: Annotated[list[PageMismatch], Meta(max_length=64)]
    devices: Count
    devices_not_compared: Annotated[list[Name], Meta(max_length=MAX_DEVICES)] = []
    mismatched_devices: Annotated[dict[Name, Text], Meta(max_length=MAX_DEVICES)]
    seconds: float

    @property
    def unproven(self) -> int:
        """Pages and devices of which nothing shows that they are the same."""
        return self.mismatched_pages + len(self.mismatched_devices)
