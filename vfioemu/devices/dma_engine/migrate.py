# SPDX-License-Identifier: MIT
"""The state of a dma-engine on its way: records, each with its length and a checksum.

======  ====  ====================================================================
offset  size  field
======  ====  ====================================================================
0       4     magic, ``VFED``
4       2     version, 3
6       2     kind, see below
8       2     type of the device, which must be that of the destination
10      2     reserved, 0
12      4     length of what follows, without the checksum
16      n     contents
16+n    4     CRC-32 of all before it
======  ====  ====================================================================

====  ================================================================================================================
kind  contents
====  ================================================================================================================
1     64-bit numbers: the registers, while the device runs; again whenever they have changed since
2     the registers, counters and generator, IRQ_STATUS, the level of INTx, pending bits of MSI-X; the last record
3     config space, as the PCI layer has it; once, from a device with the option `config`, which must be the destination's
4     memory of a BAR: 32 bits which BAR, 32 bits 0, 64 bits where in it, then bytes; what is in no record is zeros
5     what the function is: vendor, device, and of six BARs kind and size; once, and the destination's must be the same
6     a command that was put off in a P2P state: the command, and three arguments
====  ================================================================================================================

The record of registers that counts is the last one; pre-copy only warms up the other side, and finds out early what the
other side refuses.
"""

import errno
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.streams import ResumingStream, SavingStream
from vfioemu.devices.dma_engine.registers import STATE, Registers
from vfioemu.devices.dma_engine.writer import COUNTERS
from vfioemu.devices.pci import Function
from vfioemu.devices.pci.hardware.registers import BAR_COUNT

LIMIT: Final = 1 << 20
"""Bytes that a resuming device takes besides the memory of its BARs: more is ENOMEM."""
NUMBERS: Final = COUNTERS + 3
"""Numbers behind the registers in the last record: the writer's, IRQ_STATUS, the level of INTx, pending bits."""
_HEADER: Final = struct.Struct("<4sHHHHI")
_MEMORY: Final = struct.Struct("<IIQ")
_CRC: Final = struct.Struct("<I")
_IDENTITY: Final = struct.Struct("<HH")
_BAR_SHAPE: Final = struct.Struct("<8sQ")
_MAGIC: Final = b"VFED"
_VERSION: Final = 3
_REGISTERS: Final = 1
_FINAL: Final = 2
_PCI: Final = 3
_BAR: Final = 4
_SHAPE: Final = 5
_PUT_OFF: Final = 6
_COMMAND: Final = struct.Struct("<4Q")
_LENGTHS: Final = {
    _REGISTERS: 8 * len(STATE),
    _FINAL: 8 * (len(STATE) + NUMBERS),
    _PUT_OFF: _COMMAND.size,
}
OVERHEAD: Final = _HEADER.size + _CRC.size
REGISTERS_SIZE: Final = OVERHEAD + _LENGTHS[_REGISTERS]
FINAL_SIZE: Final = OVERHEAD + _LENGTHS[_FINAL]


@dataclass(slots=True)
class State:
    """A device that stands still.

    Attributes:
        shape: what the function is; see `shape`.
        registers: as Registers.dump() gives them.
        numbers: the writer's, IRQ_STATUS, the level of INTx, pending bits.
        pci: of the PCI layer; nothing unless config space travels.
        memory: (BAR, where in it, bytes).
        put_off: commands with their arguments.
    """

    shape: bytes = b""
    registers: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    pci: bytes = b""
    memory: list[tuple[int, int, bytes]] = field(default_factory=list)
    put_off: list[tuple[int, int, int, int]] = field(default_factory=list)

    def build(self, device_type: int) -> bytes:
        """Build the records that follow pre-copy."""
        numbers = self.registers + self.numbers
        parts = [_record(_SHAPE, device_type, self.shape)]
        if self.pci:
            parts.append(_record(_PCI, device_type, self.pci))
        for bar, offset, data in self.memory:
            parts.append(_record(_BAR, device_type, _MEMORY.pack(bar, 0, offset) + data))
        parts += (_record(_PUT_OFF, device_type, _COMMAND.pack(*command)) for command in self.put_off)
        parts.append(_record(_FINAL, device_type, struct.pack(f"<{len(numbers)}Q", *numbers)))
        return b"".join(parts)


def stop_size(shape: int, pci: int, memory: Iterable[int], put_off: int) -> int:
    """Compute the bytes that `State.build` gives for parts of those sizes, and so many commands."""
    config = OVERHEAD + pci if pci else 0
    chunks = sum(OVERHEAD + _MEMORY.size + size for size in memory)
    return OVERHEAD + shape + config + chunks + put_off * (OVERHEAD + _COMMAND.size) + FINAL_SIZE


def shape(function: Function) -> bytes:
    """Pack ids and BARs of a function, as far as its state depends on them."""
    bars = (function.bars.get(index) for index in range(BAR_COUNT))
    parts = [_BAR_SHAPE.pack(bar.kind.encode(), bar.size) if bar else bytes(_BAR_SHAPE.size) for bar in bars]
    return _IDENTITY.pack(function.vendor, function.device) + b"".join(parts)


def refuse_shape(saved: bytes, own: bytes) -> None:
    """Refuse the state of another function: EINVAL."""
    if saved == own:
        return
    if len(saved) != len(own) or saved[: _IDENTITY.size] != own[: _IDENTITY.size]:
        raise IoctlError(
            errno.EINVAL, f"the state of another function: {saved[:32].hex()}, not {own[:32].hex()}"
        )
    for index in range(BAR_COUNT):
        at = _IDENTITY.size + index * _BAR_SHAPE.size
        there, here = (_BAR_SHAPE.unpack_from(one, at) for one in (saved, own))
        if there != here:
            raise IoctlError(errno.EINVAL, f"BAR {index}: {_tell(*there)} in the state, {_tell(*here)} here")


def _tell(kind: bytes, size: int) -> str:
    return f"{size:#x} bytes ({kind.rstrip(bytes(1)).decode(errors='replace')})" if size else "none"


def _record(kind: int, device_type: int, body: bytes) -> bytes:
    data = _HEADER.pack(_MAGIC, _VERSION, kind, device_type, 0, len(body)) + body
    return data + _CRC.pack(zlib.crc32(data))


def parse(data: bytes, device_type: int) -> State:
    """Read a whole stream: any number of records, exactly one last one, and one that says what the function is.

    Raises:
        IoctlError: EINVAL for anything else.
    """
    state = State()
    at = 0
    while True:
        kind, body, at = _parse_record(data, at, device_type)
        if kind == _PCI and not state.pci:
            state.pci = body
        elif kind == _SHAPE and not state.shape:
            state.shape = body
        elif kind == _BAR and len(body) > _MEMORY.size:
            bar, reserved, offset = _MEMORY.unpack_from(body)
            if reserved:
                raise IoctlError(errno.EINVAL, f"reserved is {reserved:#x} in a record of memory")
            state.memory.append((bar, offset, body[_MEMORY.size :]))
        elif len(body) != _LENGTHS.get(kind):
            raise IoctlError(errno.EINVAL, f"a record of kind {kind} with {len(body)} bytes before {at}")
        if kind == _PUT_OFF:
            state.put_off.append(_COMMAND.unpack(body))
        if kind == _FINAL:
            break
    if at != len(data) or not state.shape:
        raise IoctlError(
            errno.EINVAL, f"{len(data) - at} bytes after the last record, {len(state.shape)} of the function"
        )
    numbers = struct.unpack(f"<{len(body) // 8}Q", body)
    state.registers, state.numbers = numbers[: len(STATE)], numbers[len(STATE) :]
    return state


def _parse_record(data: bytes, at: int, device_type: int) -> tuple[int, bytes, int]:
    if len(data) < at + _HEADER.size:
        raise IoctlError(errno.EINVAL, f"the stream ends at {len(data)}, in a header")
    magic, version, kind, type_, reserved, length = _HEADER.unpack_from(data, at)
    if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
        raise IoctlError(errno.EINVAL, f"no record of version {_VERSION} at {at}")
    if type_ != device_type:
        raise IoctlError(errno.EINVAL, f"a state of type {type_} for a device of type {device_type}")
    end = at + _HEADER.size + length
    if len(data) < end + _CRC.size:
        raise IoctlError(errno.EINVAL, f"the stream ends at {len(data)}, in a record that ends at {end}")
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[at:end]):
        raise IoctlError(errno.EINVAL, f"the checksum of the record at {at} is wrong")
    return kind, data[at + _HEADER.size : end], end + _CRC.size


class EngineSaving(SavingStream):
    """The stream of a source.

    Args:
        registers: of the device.
        final: what follows pre-copy; asked for when the device has stopped.
        device_type: 1, 2 or 3.
        precopy: whether the device runs still.
    """

    def __init__(
        self, registers: Registers, final: Callable[[], State], device_type: int, *, precopy: bool
    ) -> None:
        self._registers = registers
        self._final = final
        self._type = device_type
        self._precopy = precopy
        self._generation = -1
        self._initial = True
        self._pending = b""
        self._at = 0
        if precopy:
            self._refill()
        else:
            self._append_final()

    def stop(self) -> None:
        """Append the rest, since the device has stopped."""
        self._precopy = False
        self._append_final()

    def peek(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; ENOMSG while the registers are as they were told."""
        if self._precopy and not self._left:
            if not self._changed:
                raise IoctlError(errno.ENOMSG, "the registers have not changed")
            self._refill()
        return self._pending[self._at : self._at + size]

    def advance(self, size: int) -> None:
        """Consume."""
        self._at += size
        if not self._left:
            self._initial = False

    def precopy_info(self) -> tuple[int, int]:
        """Return the bytes that are left as (initial, dirty): the first record is initial; EINVAL once the device has stopped."""
        if not self._precopy:
            raise IoctlError(errno.EINVAL, "the device is not in pre-copy")
        left = self._left
        later = REGISTERS_SIZE if self._changed else 0
        return (left, later) if self._initial else (0, left + later)

    def ready(self) -> bool:
        """Tell whether there is something to read: pre-copy may have nothing for now."""
        return not self._precopy or self._left > 0 or self._changed

    @property
    def _left(self) -> int:
        return len(self._pending) - self._at

    @property
    def _changed(self) -> bool:
        return self._generation != self._registers.generation

    def _refill(self) -> None:
        self._generation = self._registers.generation
        numbers = self._registers.dump()
        self._at = 0
        self._pending = _record(_REGISTERS, self._type, struct.pack(f"<{len(numbers)}Q", *numbers))

    def _append_final(self) -> None:
        self._pending = self._pending[self._at :] + self._final().build(self._type)
        self._at = 0


class EngineResuming(ResumingStream):
    """The stream of a destination.

    Args:
        limit: how many bytes it takes.
    """

    def __init__(self, limit: int) -> None:
        self._data = bytearray()
        self._limit = limit

    def reserve(self, size: int) -> None:
        """Refuse what goes beyond the limit: ENOMEM."""
        if len(self._data) + size > self._limit:
            raise IoctlError(errno.ENOMEM, f"the device takes {self._limit} bytes")

    def append(self, data: bytes) -> None:
        """Keep it; whether it makes sense is seen when RESUMING is left."""
        self._data += data

    def state(self, device_type: int) -> State:
        """Parse the bytes that were written; EINVAL if they are not a whole stream for a device of this type."""
        return parse(bytes(self._data), device_type)
