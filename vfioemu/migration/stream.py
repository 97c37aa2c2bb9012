# SPDX-License-Identifier: MIT
"""The migration stream: bytes <-> frames. No sockets here; transport.py moves the bytes.

    both sides send    preamble    "VFEM", u16 major, u16 minor, u32 must
                       nonce and proof (greeting.py)
    then frames of     header      u16 type, u16 flags, u32 body bytes, u32 bulk bytes, u64 seq, u32 crc
                       body        JSON or a packed table, by type
                       bulk        raw bytes (pages, device state); not covered by this crc

All integers are little-endian. `must` has a bit for each feature without which the stream cannot be understood; a
peer that sees one it does not know refuses. A higher minor version only adds JSON keys, which a reader ignores. `seq`
counts from 0 in each direction. `crc` is CRC-32 of the header without it and of the body. The state of a device has a
CRC-32 of its own in the body of its frame; pages have their own checksums (SUMS), because they may be torn while the guest
runs and are sent again then.

The peer is hostile until shown otherwise: a header is checked against the limits of its type before a byte is
allocated, JSON is decoded into typed messages with bounded fields, every page number is checked against the blocks.
What is wrong raises `StreamError`, and nothing else.

Pages that are all zero are named in ZERO frames and cost 16 bytes a run. RAM and ZERO frames carry runs, never single
pages: u64 first page, u64 number of pages.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias, TypeVar

import msgspec

from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.messages import Message
from vfioemu.migration.plan import Reason
from vfioemu.native.runs import RUN_SIZE, Runs
from vfioemu.native.sums import SUM_SIZE
from vfioemu.printable import printable

MAGIC: Final = b"VFEM"
MAJOR: Final = 2
MINOR: Final = 0
MUST: Final = 0
"""Features that a peer has to know; there is none yet."""

PREAMBLE: Final = struct.Struct("<4sHHI")
HEADER: Final = struct.Struct("<HHIIQ")
CRC: Final = struct.Struct("<I")
HEADER_SIZE: Final = HEADER.size + CRC.size

MAX_JSON: Final = 1 << 20
MAX_RUNS: Final = 4096
MAX_RAM: Final = 64 << 20
"""Bytes of pages in one RAM frame."""
MAX_STATE: Final = 1 << 20
"""Bytes of device state in one frame."""
MAX_SUMS: Final = 1 << 16
"""Sums in one SUMS or PAGE_SUMS frame."""
MAX_DETAIL: Final = 1000
"""Characters of a reason in words."""

_TABLE: Final = struct.Struct("<II")
_SUMS: Final = struct.Struct("<IIQ")
_STATE: Final = struct.Struct("<IIII")


class StreamError(Exception):
    """The stream cannot be used any more.

    Args:
        reason: PEER_LOST, STREAM_CORRUPT, VERSION, or what the peer gave as its reason.
        detail: one sentence; it may have words of the peer in it, and is made printable.
        errno: of a call to a daemon that failed, at either side.
        call: which one that was.
    """

    def __init__(
        self, reason: Reason, detail: str, errno: int | None = None, call: FailedCall | None = None
    ) -> None:
        detail = printable(detail, MAX_DETAIL)
        super().__init__(reason, detail, errno, call)
        self.reason = reason
        self.detail = detail
        self.errno = errno
        self.call = call

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def corrupt(detail: str) -> StreamError:
    """Make the error for a peer that has sent what makes no sense."""
    return StreamError(Reason.STREAM_CORRUPT, detail)


def lost(error: OSError | str) -> StreamError:
    """Make the error for a connection that is of no use any more."""
    return StreamError(Reason.PEER_LOST, error if isinstance(error, str) else f"connection: {error.strerror}")


class FrameType(IntEnum):
    """Frames from the source are below 32, frames from the destination from 32 on, frames from both from 64 on."""

    HELLO = 1
    SETUP = 2
    ROUND = 3
    RAM = 4
    ZERO = 5
    DEVICE = 6
    CPUS = 7
    SUMS = 8
    LEDGER = 9
    PREPARE = 10
    COMMIT = 11
    ABORT = 12
    QUERY = 13
    RELEASED = 14
    PAGE_SUMS = 15
    JOIN = 16
    BARRIER = 17
    WELCOME = 32
    ACCEPTED = 33
    READY = 34
    STARTED = 35
    REFUSED = 36
    PROBLEM = 37
    CHECKED = 38
    DIFFER = 39
    ALIVE = 64
    """From either side, whenever it has nothing to say: who is idle is not silent. It has no body."""


_BODY_LIMIT: Final = {
    FrameType.RAM: _TABLE.size + MAX_RUNS * RUN_SIZE,
    FrameType.ZERO: _TABLE.size + MAX_RUNS * RUN_SIZE,
    FrameType.SUMS: _SUMS.size + MAX_SUMS * SUM_SIZE,
    FrameType.PAGE_SUMS: _SUMS.size + MAX_SUMS * SUM_SIZE,
    FrameType.DEVICE: _STATE.size,
    FrameType.ALIVE: 0,
}
_BULK_LIMIT: Final = {FrameType.RAM: MAX_RAM, FrameType.DEVICE: MAX_STATE}

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Header:
    """A checked frame header."""

    type: FrameType
    flags: int
    body: int
    bulk: int
    seq: int


def preamble() -> bytes:
    """Return the first bytes of either direction."""
    return PREAMBLE.pack(MAGIC, MAJOR, MINOR, MUST)


def check_preamble(data: bytes) -> int:
    """Refuse what is no stream of ours, or one from the future; returns the peer's minor version."""
    magic, major, minor, must = PREAMBLE.unpack(data)
    if magic != MAGIC:
        raise corrupt(f"this is no migration stream: it begins with {magic!r}")
    if major != MAJOR:
        raise StreamError(Reason.VERSION, f"the peer speaks stream version {major}, we speak {MAJOR}")
    if must & ~MUST:
        raise StreamError(Reason.VERSION, f"the peer needs features {must & ~MUST:#x}, which we do not have")
    return int(minor)


def frame(type: FrameType, seq: int, body: bytes = b"", bulk: int = 0) -> bytes:
    """Header and body of a frame, whose `bulk` bytes follow."""
    head = HEADER.pack(type, 0, len(body), bulk, seq)
    return head + CRC.pack(zlib.crc32(body, zlib.crc32(head))) + body


def parse_header(data: bytes | memoryview, seq: int) -> Header:
    """Check a header as far as it goes without its body; `seq` is what it has to be."""
    number, flags, body, bulk, got = HEADER.unpack_from(data)
    try:
        kind = FrameType(number)
    except ValueError:
        raise corrupt(f"unknown frame type {number}") from None
    if got != seq:
        raise corrupt(f"{kind.name} frame has seq {got}, expected {seq}")
    if flags:
        raise corrupt(f"{kind.name} frame has unknown flags {flags:#x}")
    if body > _BODY_LIMIT.get(kind, MAX_JSON):
        raise corrupt(f"{kind.name} frame of {body} bytes is too long")
    if bulk > _BULK_LIMIT.get(kind, 0):
        raise corrupt(f"{kind.name} frame with {bulk} raw bytes is too long")
    return Header(kind, flags, body, bulk, got)


def check_body(head: bytes | memoryview, body: bytes) -> None:
    """Hold the body against the crc in its header."""
    if CRC.unpack_from(head, HEADER.size)[0] != zlib.crc32(body, zlib.crc32(head[: HEADER.size])):
        raise corrupt("checksum of a frame is wrong")


def encode(message: Message) -> bytes:
    """Encode a message as the body of a frame."""
    return msgspec.json.encode(message)


def decode(body: bytes, type: type[M]) -> M:
    """Decode the message in a body."""
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise corrupt(f"{type.__name__}: {error}") from None


Run: TypeAlias = tuple[int, int]
"""First page and number of pages."""


def pack_runs(block: int, runs: Runs | Iterable[Run]) -> bytes:
    """Pack the body of a RAM or ZERO frame."""
    runs = Runs.of(runs)
    return _TABLE.pack(block, len(runs)) + runs.data


def unpack_runs(body: bytes, npages: Sequence[int]) -> tuple[int, Runs]:
    """Block and runs of a RAM or ZERO frame, ascending, all of them inside the block.

    Args:
        body: the body.
        npages: the size of each block.
    """
    if len(body) < _TABLE.size:
        raise corrupt("a table of runs is cut off")
    block, count = _TABLE.unpack_from(body)
    if block >= len(npages):
        raise corrupt(f"block {block} of {len(npages)}")
    if len(body) != _TABLE.size + count * RUN_SIZE:
        raise corrupt(f"{count} runs do not take {len(body)} bytes")
    runs = Runs(memoryview(body)[_TABLE.size :])
    try:
        runs.pages(npages[block])
    except ValueError as error:
        raise corrupt(f"block {block}: {error}") from None
    return block, runs


def pack_sums(block: int, first: int, sums: bytes) -> bytes:
    """Pack the body of a SUMS or PAGE_SUMS frame: SUM_SIZE bytes for each chunk, or page, from `first` on."""
    return _SUMS.pack(block, len(sums) // SUM_SIZE, first) + sums


def unpack_sums(body: bytes, counts: Sequence[int]) -> tuple[int, int, memoryview]:
    """Block, first chunk or page, and sums of a SUMS or PAGE_SUMS frame.

    Args:
        body: the body.
        counts: how many chunks, or pages, each block has.
    """
    if len(body) < _SUMS.size:
        raise corrupt("a table of checksums is cut off")
    block, count, first = _SUMS.unpack_from(body)
    if block >= len(counts) or not count or first >= counts[block] or count > counts[block] - first:
        raise corrupt(f"checksums {first}+{count} of block {block}")
    if len(body) != _SUMS.size + count * SUM_SIZE:
        raise corrupt(f"{count} checksums do not take {len(body)} bytes")
    return block, first, memoryview(body)[_SUMS.size :]


LAST: Final = 1
"""Flag of a DEVICE frame: the state of this device is complete."""


@dataclass(frozen=True, slots=True)
class StateChunk:
    """The body of a DEVICE frame.

    Attributes:
        device: its place in SETUP.
        index: of the chunk, from 0.
        last: the state of the device is complete.
        crc: CRC-32 of the bulk.
    """

    device: int
    index: int
    last: bool
    crc: int

    def check(self, data: bytes | bytearray, name: str) -> None:
        """Hold the state that has come against its checksum; `name` is the device's, for the error."""
        if zlib.crc32(data) != self.crc:
            raise corrupt(
                f"the checksum of chunk {self.index} of the state of {name} is wrong ({len(data)} bytes)"
            )


def pack_state(device: int, index: int, flags: int, data: bytes = b"") -> bytes:
    """Pack the body of a DEVICE frame, whose bulk is `data`."""
    return _STATE.pack(device, index, flags, zlib.crc32(data))


def unpack_state(body: bytes) -> StateChunk:
    """Unpack the body of a DEVICE frame."""
    if len(body) != _STATE.size:
        raise corrupt("a DEVICE frame is cut off")
    device, index, flags, crc = _STATE.unpack(body)
    if flags & ~LAST:
        raise corrupt(f"unknown flags {flags:#x} of device state")
    return StateChunk(device, index, bool(flags & LAST), crc)


class Stage(IntEnum):
    """How far a destination has got; decides which frames may come."""

    NEW = 0
    GREETED = 1
    LOADING = 2
    VERIFYING = 3
    READY = 4
    OVER = 5


_LOAD: Final = {
    FrameType.ROUND: Stage.LOADING,
    FrameType.RAM: Stage.LOADING,
    FrameType.ZERO: Stage.LOADING,
    FrameType.DEVICE: Stage.LOADING,
    FrameType.CPUS: Stage.VERIFYING,
    FrameType.ABORT: Stage.OVER,
}
NEXT: Final[dict[Stage, dict[FrameType, Stage]]] = {
    Stage.NEW: {FrameType.HELLO: Stage.GREETED, FrameType.QUERY: Stage.OVER, FrameType.JOIN: Stage.LOADING},
    Stage.GREETED: {FrameType.SETUP: Stage.LOADING, FrameType.ABORT: Stage.OVER},
    Stage.LOADING: _LOAD,
    Stage.VERIFYING: {
        FrameType.SUMS: Stage.VERIFYING,
        FrameType.PAGE_SUMS: Stage.VERIFYING,
        FrameType.LEDGER: Stage.VERIFYING,
        FrameType.PREPARE: Stage.READY,
        FrameType.ABORT: Stage.OVER,
    },
    Stage.READY: {FrameType.COMMIT: Stage.OVER, FrameType.ABORT: Stage.OVER},
    Stage.OVER: {FrameType.RELEASED: Stage.OVER},
}
"""What may come when, as data: stage -> frame -> next stage. Pages after the CPUs' state would escape SUMS."""


def follow(stage: Stage, type: FrameType) -> Stage:
    """Return the stage after a frame; a frame out of order is an error."""
    after = NEXT[stage].get(type)
    if after is None:
        raise corrupt(f"{type.name} frame while {stage.name.lower()}")
    return after
