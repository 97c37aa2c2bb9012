# SPDX-License-Identifier: MIT
"""The JSON bodies of the stream's frames, with bounds on every field: the peer is hostile until shown otherwise."""

from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from vfioemu.migration.plan import PAGE, OnMismatch

MAX_PAGES: Final = 1 << 36
"""Of one block: 256 TiB."""
MAX_BLOCKS: Final = 64
MAX_DEVICES: Final = 256
MAX_CPUS: Final = 1024
MAX_STREAMS: Final = 16
MAX_CHUNKS: Final = 4096
"""In one DIFFER frame: those of 64 GiB."""

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
        streams: connections that pages come on, this one included.
    """

    token: Token
    guest: Name
    verify: bool
    streams: Annotated[int, Meta(ge=1, le=MAX_STREAMS)] = 1
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


class Join(Message, frozen=True, kw_only=True):
    """A connection is for more pages of a migration that was accepted.

    Attributes:
        token: of the migration.
        index: which of its streams this is, from 1; the connection of HELLO is 0.
    """

    token: Token
    index: Annotated[int, Meta(ge=1, lt=MAX_STREAMS)]


class Mark(Message, frozen=True, kw_only=True):
    """BARRIER: what follows on this stream is of a later round; `number` counts from 0."""

    number: Count


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


class DeviceView(Message, frozen=True, kw_only=True):
    """Something that a stopped device shows, as texts, to be held against what it shows on the other side.

    Attributes:
        what: config space, the MSI-X table, the memory of a region, ...
        values: text by the place or the name that it is of.
        why: nothing could be read, and this is why.
    """

    what: Name
    values: Annotated[dict[Name, Annotated[str, Meta(max_length=100)]], Meta(max_length=4096)] = {}
    why: Annotated[str, Meta(max_length=400)] = ""


class DeviceLedger(Message, frozen=True, kw_only=True):
    """What a stopped device is: its state as it gives it when it is asked, and what it shows.

    Attributes:
        state: digest of its state, without pre-copy; empty if there is none to compare with.
        size: bytes of its state.
        said: bytes that MIG_DATA_SIZE has told of; None if it tells nothing.
        promised: bytes of which it has spoken in pre-copy, the last time.
        came: bytes that have come since.
        why: why there is no digest.
        views: what it shows.
    """

    name: Name
    state: Annotated[str, Meta(max_length=64)] = ""
    size: Count = 0
    said: Count | None = None
    promised: Count = 0
    came: Count = 0
    why: Annotated[str, Meta(max_length=400)] = ""
    views: Annotated[list[DeviceView], Meta(max_length=64)] = []


class Ledger(Message, frozen=True, kw_only=True):
    """Devices, in the order of SETUP; the last frame of them is marked."""

    devices: Annotated[list[DeviceLedger], Meta(max_length=MAX_DEVICES)]
    last: bool = True


class Handshake(Message, frozen=True, kw_only=True):
    """PREPARE, READY, COMMIT, QUERY, STARTED, RELEASED: the token says which migration is meant."""

    token: Token


class Fate(Handshake, frozen=True, kw_only=True):
    """STARTED: it runs; or it has run, and the process that ran it is dead.

    Attributes:
        early: writes there after the comparison and before the start; only if the guest moves all the same.
    """

    ended: bool = False
    early: Count = 0


class Problem(Message, frozen=True, kw_only=True):
    """ABORT, REFUSED, PROBLEM: why; and, if a call to a daemon failed, which one, for whom and with which errno."""

    reason: Annotated[str, Meta(max_length=100)]
    detail: Text = ""
    token: Annotated[str, Meta(max_length=32)] = ""
    errno: Annotated[int, Meta(ge=0, le=4095)] | None = None
    ioctl: Annotated[str, Meta(max_length=100)] | None = None
    device: Annotated[str, Meta(max_length=200)] | None = None


class Welcome(Message, frozen=True, kw_only=True):
    """The destination understands HELLO."""

    version: Annotated[str, Meta(max_length=100)]


class Differ(Message, frozen=True, kw_only=True):
    """Which chunks of pages have another digest at the destination.

    Attributes:
        chunks: (block, number of the chunk), ascending; the source sends the sums of their pages.
        more: how many other chunks differ. Their pages are not told apart, and all count as different.
    """

    chunks: Annotated[list[tuple[Count, Count]], Meta(max_length=MAX_CHUNKS)]
    more: Count = 0


class PageMismatch(Message, frozen=True, kw_only=True):
    """A page that is not what the source has; `content` (base64 of 4096 bytes) for the first few only."""

    block: Count
    page: Count
    content: Annotated[str, Meta(max_length=6000)] = ""


class Likeness(StrEnum):
    """What a comparison says of two things."""

    SAME = "same"
    DIFFERS = "differs"
    NOT_COMPARED = "not_compared"


class DevicePart(Message, frozen=True, kw_only=True):
    """What was found of a part of a device: its state, or something that it shows.

    Attributes:
        detail: what differs, or why it was not compared.
    """

    what: Name
    result: Likeness
    detail: Text = ""


class DeviceVerdict(Message, frozen=True, kw_only=True):
    """What was found of a device: the first part is its state."""

    name: Name
    parts: Annotated[list[DevicePart], Meta(min_length=1, max_length=256)]

    @property
    def result(self) -> Likeness:
        """It differs if any part does; it was compared only if its state was."""
        if any(part.result is Likeness.DIFFERS for part in self.parts):
            return Likeness.DIFFERS
        return self.parts[0].result

    @property
    def detail(self) -> str:
        """What differs, or why it was not compared; empty if it is the same."""
        result = self.result
        if result is Likeness.SAME:
            return ""
        return "; ".join(f"{part.what}: {part.detail}" for part in self.parts if part.result is result)


class Checked(Message, frozen=True, kw_only=True):
    """What the comparison of all pages and devices found at the destination.

    Attributes:
        pages: how many were compared.
        mismatches: the first of the pages that differ.
        mismatched_pages: how many differ in all.
        verdicts: every device, in the order of SETUP.
        seconds: how long it took.
        early: writes of CPUs and devices there, where nothing runs yet.
        early_writes: the first of them.
        ledger: why those of devices are not counted; "" if they are.
    """

    pages: Count
    mismatched_pages: Count
    mismatches: Annotated[list[PageMismatch], Meta(max_length=64)]
    verdicts: Annotated[list[DeviceVerdict], Meta(max_length=MAX_DEVICES)]
    seconds: float
    early: Count = 0
    early_writes: Annotated[list[Text], Meta(max_length=16)] = []
    ledger: Text = ""

    @property
    def devices(self) -> int:
        """How many devices were compared."""
        return len(self.verdicts) - len(self.devices_not_compared)

    @property
    def mismatched_devices(self) -> dict[str, str]:
        """Devices that differ, and what of them does."""
        return self._told(Likeness.DIFFERS)

    @property
    def devices_not_compared(self) -> dict[str, str]:
        """Devices of which nobody can say whether they are the same, and why."""
        return self._told(Likeness.NOT_COMPARED)

    @property
    def unproven(self) -> int:
        """Pages and devices of which nothing shows that they are the same, and writes there before the start."""
        unlike = sum(verdict.result is not Likeness.SAME for verdict in self.verdicts)
        return self.mismatched_pages + unlike + self.early

    def _told(self, result: Likeness) -> dict[str, str]:
        return {verdict.name: verdict.detail for verdict in self.verdicts if verdict.result is result}
