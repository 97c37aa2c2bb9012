# SPDX-License-Identifier: MIT
"""How a dma-engine's state travels: records of registers and counters, each with its length and a checksum.

======  ====  ====================================================================
offset  size  field
======  ====  ====================================================================
0       4     magic, ``VFED``
4       2     version, 1
6       2     kind: 1 registers (pre-copy), 2 registers and counters (the last one)
8       2     type of the device, which must be that of the destination
10      2     reserved, 0
12      4     length of what follows, without the checksum
16      n     64-bit numbers
16+n    4     CRC-32 of all before it
======  ====  ====================================================================

While the device runs, a record of its registers is offered, and another whenever they have changed since. The record
that counts is the last one; pre-copy only warms up the other side, and finds out early what the other side refuses.
"""

import errno
import struct
import zlib
from typing import Final, NamedTuple

from vfioemu.core.errors import IoctlError
from vfioemu.core.migration import ResumingStream, SavingStream
from vfioemu.devices.dma_engine.registers import STATE, Registers
from vfioemu.devices.dma_engine.writer import COUNTERS, Writer

LIMIT: Final = 1 << 20
"""How much a resuming device takes: more is ENOMEM."""
_HEADER: Final = struct.Struct("<4sHHHHI")
_CRC: Final = struct.Struct("<I")
_MAGIC: Final = b"VFED"
_VERSION: Final = 1
_REGISTERS: Final = 1
_FINAL: Final = 2
_NUMBERS: Final = {_REGISTERS: len(STATE), _FINAL: len(STATE) + COUNTERS}


class State(NamedTuple):
    """What a stream brings."""

    registers: tuple[int, ...]
    counters: tuple[int, ...]


def record(kind: int, device_type: int, numbers: tuple[int, ...]) -> bytes:
    """One record."""
    body = struct.pack(f"<{len(numbers)}Q", *numbers)
    data = _HEADER.pack(_MAGIC, _VERSION, kind, device_type, 0, len(body)) + body
    return data + _CRC.pack(zlib.crc32(data))


REGISTERS_SIZE: Final = len(record(_REGISTERS, 0, (0,) * _NUMBERS[_REGISTERS]))
FINAL_SIZE: Final = len(record(_FINAL, 0, (0,) * _NUMBERS[_FINAL]))


def parse(data: bytes, device_type: int) -> State:
    """Read a whole stream: records of registers, then exactly one final one.

    Raises:
        IoctlError: EINVAL for anything else.
    """
    at = 0
    while True:
        kind, numbers, at = _parse_record(data, at, device_type)
        if kind == _FINAL:
            break
    if at != len(data):
        raise IoctlError(errno.EINVAL, f"{len(data) - at} bytes after the last record")
    return State(numbers[: len(STATE)], numbers[len(STATE) :])


def _parse_record(data: bytes, at: int, device_type: int) -> tuple[int, tuple[int, ...], int]:
    if len(data) < at + _HEADER.size:
        raise IoctlError(errno.EINVAL, f"the stream ends at {len(data)}, in a header")
    magic, version, kind, type_, reserved, length = _HEADER.unpack_from(data, at)
    if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
        raise IoctlError(errno.EINVAL, f"no record of version {_VERSION} at {at}")
    if type_ != device_type:
        raise IoctlError(errno.EINVAL, f"a state of type {type_} for a device of type {device_type}")
    if length != 8 * _NUMBERS.get(kind, -1):
        raise IoctlError(errno.EINVAL, f"a record of kind {kind} with {length} bytes at {at}")
    end = at + _HEADER.size + length
    if len(data) < end + _CRC.size:
        raise IoctlError(errno.EINVAL, f"the stream ends at {len(data)}, in a record that ends at {end}")
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[at:end]):
        raise IoctlError(errno.EINVAL, f"the checksum of the record at {at} is wrong")
    return kind, struct.unpack_from(f"<{length // 8}Q", data, at + _HEADER.size), end + _CRC.size


class EngineSaving(SavingStream):
    """The stream of a source."""

    def __init__(self, registers: Registers, writer: Writer, device_type: int, *, precopy: bool) -> None:
        self._registers = registers
        self._writer = writer
        self._type = device_type
        self._precopy = precopy
        self._generation = -1
        self._initial = True
        self._pending = b""
        if precopy:
            self._refill()
        else:
            self._append_final()

    def stop(self) -> None:
        """The device has stopped: what follows is the last record."""
        self._precopy = False
        self._append_final()

    def peek(self, size: int) -> bytes:
        """The next bytes; ENOMSG while the registers are as they were told."""
        if self._precopy and not self._pending:
            if not self._changed:
                raise IoctlError(errno.ENOMSG, "the registers have not changed")
            self._refill()
        return self._pending[:size]

    def advance(self, size: int) -> None:
        """Consume."""
        self._pending = self._pending[size:]
        if not self._pending:
            self._initial = False

    def precopy_info(self) -> tuple[int, int]:
        """The first record is initial, the others are dirty; EINVAL once the device has stopped."""
        if not self._precopy:
            raise IoctlError(errno.EINVAL, "the device is not in pre-copy")
        left = len(self._pending)
        later = REGISTERS_SIZE if self._changed else 0
        return (left, later) if self._initial else (0, left + later)

    def ready(self) -> bool:
        """Not when pre-copy has nothing for now."""
        return not self._precopy or bool(self._pending) or self._changed

    @property
    def _changed(self) -> bool:
        return self._generation != self._registers.generation

    def _refill(self) -> None:
        self._generation = self._registers.generation
        self._pending = record(_REGISTERS, self._type, self._registers.dump())

    def _append_final(self) -> None:
        self._pending += record(_FINAL, self._type, self._registers.dump() + self._writer.dump())


class EngineResuming(ResumingStream):
    """The stream of a destination."""

    def __init__(self) -> None:
        self._data = bytearray()

    def reserve(self, size: int) -> None:
        """ENOMEM beyond the limit."""
        if len(self._data) + size > LIMIT:
            raise IoctlError(errno.ENOMEM, f"the device takes {LIMIT} bytes")

    def append(self, data: bytes) -> None:
        """Keep it; whether it makes sense is seen when RESUMING is left."""
        self._data += data

    def state(self, device_type: int) -> State:
        """What was written; EINVAL if it is not a whole stream for a device of this type."""
        return parse(bytes(self._data), device_type)
