# SPDX-License-Identifier: MIT
"""The dma-engine itself: a PCI function, its BARs, logging and migration."""

import errno
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from msgspec import UNSET

from vfioemu.core.base.effects import MaybeSteps, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange
from vfioemu.core.model.streams import (
    P2P_STATES,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING_STATES,
    STOP,
    STOP_COPY,
    ResumingStream,
    SavingStream,
    StateLost,
)
from vfioemu.devices.dma_engine import log
from vfioemu.devices.dma_engine.activity import Activity
from vfioemu.devices.dma_engine.commands import Commands
from vfioemu.devices.dma_engine.function import describe
from vfioemu.devices.dma_engine.journal import Journal
from vfioemu.devices.dma_engine.memory import BIG_BAR, BarMemory
from vfioemu.devices.dma_engine.migrate import (
    LIMIT,
    EngineResuming,
    EngineSaving,
    State,
    refuse_shape,
    shape,
    stop_size,
)
from vfioemu.devices.dma_engine.options import Options
from vfioemu.devices.dma_engine.registers import Registers
from vfioemu.devices.dma_engine.vectors import Vectors
from vfioemu.devices.dma_engine.writer import Writer
from vfioemu.devices.options import OptionTable
from vfioemu.devices.pci import PciFunction, names
from vfioemu.native.dma import Op
from vfioemu.native.log import DirtyLog
from vfioemu.uapi import dma_engine as u
from vfioemu.uapi.dma_engine import Command, Register

_U64: Final = (1 << 64) - 1
_PRECOPYING: Final = frozenset({PRE_COPY, PRE_COPY_P2P})


class DmaEngine(PciFunction):
    """A scriptable DMA device: area or ring, pattern, rate, pins and interrupts by registers; logs its DMA, migrates."""

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(Options)

    @staticmethod
    def memory_size(options: Mapping[str, object]) -> int:
        """Bytes of memory behind its BARs, for who looks whether there is room; what is no option of ours has none."""
        size = options.get("big-bar", 0)
        return size if isinstance(size, int) else 0

    def __init__(self, options: Mapping[str, object]) -> None:
        self.options = Options.parse(options)
        super().__init__(options, describe(self.options.big_bar))
        self.migration_flags = self.options.migration_flags
        self.has_dma_logging = self.options.logging
        self.registers = Registers(self.options.pin_mode, self.options.pin_modes)
        operation = Op.WRITE if self.options.type == 1 else Op.HARDWARE_WRITE
        self.writer = Writer(self.registers, operation, self.options.lie, self._ring)
        self.journal = Journal() if self.options.journal else None
        self.vectors = Vectors(self.interrupt, self.set_intx)
        self.activity = Activity(self, self.options, self.registers, self.writer, self.journal)
        self.log: DirtyLog | None = None
        self.memory = BarMemory(self.options.big_bar, self.bar_memory)
        self._commands = Commands(
            lambda: self.host,
            self.registers,
            self.activity,
            lambda: self.may_dma,
            self._raise,
            self.raise_vector,
        )
        self._registers_answer = False
        self._result = 0
        self._running = True
        self._saving: EngineSaving | None = None
        self._resuming: EngineResuming | None = None

    @property
    def has_dma_unmap(self) -> bool:
        """Type 2 cannot pin."""
        return self.options.type != 2

    @property
    def may_dma(self) -> bool:
        """It is a bus master. An mdev's parent need not be, unless the machine's owner wants that."""
        checked = self.options.bus_master
        if checked is UNSET:
            checked = names.parse(self.host.name) is not None
        return not checked or self.bus_master

    @property
    def sends_messages(self) -> bool:
        """As for its DMA."""
        return self.may_dma

    # --- life ---

    def function_opened(self) -> None:
        """The journal is that of the last session until now."""
        if self.journal is not None:
            self.journal.clear()

    def reset_function(self) -> Steps[None]:
        """As after power on; the DMA log goes on."""
        self.registers.reset()
        self.writer.reset()
        name = self.host.name.encode()
        default = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        self.writer.device_id = default if self.options.id is UNSET else self.options.id
        self.activity.reset()
        self.vectors.reset()
        self.memory.clear()
        self._commands.put_off.clear()
        self._result = 0
        self._running = True
        self._saving = None
        self._resuming = None
        yield from self.host.unpin_range(0, _U64 + 1)

    def dma_unmap(self, iova: int, size: int) -> Steps[None]:
        """Give back what is pinned there."""
        self.activity.held.forget(iova, size)
        return self.host.unpin_range(iova, size)

    def work(self, now: float) -> Steps[float | None]:
        """Do what was put off, or the writes that are due; says when the next ones are."""
        result = yield from self._commands.go_on()
        if result is not None:
            self._result = result
            return now
        return (yield from self.activity.work(now))

    def inspect(self, what: str, arguments: Mapping[str, object]) -> object:
        """``registers``: their values by name. ``writes``: the journal, see `Journal.tell`."""
        if what == "registers":
            return {register.name: self._read(register) for register in Register}
        if what == "writes" and self.journal is not None:
            first, limit = arguments.get("first", 0), arguments.get("limit", _U64)
            if not isinstance(first, int) or not isinstance(limit, int):
                raise ValueError("first and limit are numbers")
            writes, following = self.journal.tell(first, limit)
            return {
                "device_id": self.writer.device_id,
                "seq": self.writer.seq,
                "total": len(self.journal),
                "writes": writes,
                "next": following,
            }
        raise KeyError(what)

    # --- interrupts ---

    def raise_vector(self) -> Steps[None]:
        """Raise IRQ_VECTOR."""
        return self._raise(self.registers[Register.IRQ_VECTOR])

    def _raise(self, vector: int) -> Steps[None]:
        self.writer.irqs += 1
        return self.vectors.raise_vector(vector)

    # --- BARs ---

    def _ring(self, count: int) -> Sequence[int]:
        size = 8 * min(count, u.RING_ENTRIES)
        return struct.unpack(f"<{size // 8}Q", self.bar_memory(0).read(u.RING_OFFSET, size))

    def read_region(self, index: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """What the layer below does, with less ado for registers, which clients read all the time."""
        if index == 0 and offset + size <= u.REGISTERS_SIZE and self._registers_answer and self.awake:
            return self._read_registers(offset, size)
        return super().read_region(index, offset, size)

    def command_written(self) -> Steps[None]:
        """Whether the BARs answer has changed, maybe."""
        self._registers_answer = self.memory_enabled
        yield from super().command_written()

    def _read_registers(self, offset: int, size: int) -> bytes:
        word = offset & ~7
        if offset + size <= word + 8:
            return self._read(word).to_bytes(8, "little")[offset - word : offset - word + size]
        words = [self._read(at) for at in range(word, offset + size, 8)]
        return struct.pack(f"<{len(words)}Q", *words)[offset - word :][:size]

    def read_bar(self, bar: int, offset: int, size: int) -> bytes:
        """Registers, in any pieces, and memory."""
        if bar == 0 and offset < u.REGISTERS_SIZE:
            return self._read_registers(offset, size)
        return self.bar_memory(bar).read(offset, size) if bar in (0, BIG_BAR) else bytes(size)

    def _read(self, offset: int) -> int:
        register = _BY_OFFSET.get(offset)
        if register is None:
            return 0
        live = self._LIVE.get(register)
        return self.registers[register] if live is None else live(self)

    _LIVE: ClassVar[Mapping[Register, Callable[["DmaEngine"], int]]] = {
        Register.ID: lambda self: u.ENGINE_ID,
        Register.DEVICE_ID: lambda self: self.writer.device_id,
        Register.RESULT: lambda self: self._result & _U64,
        Register.IRQ_STATUS: lambda self: self.vectors.status,
        Register.DOORBELL: lambda self: 0,
        Register.SEQ: lambda self: self.writer.seq,
        Register.WRITES: lambda self: self.writer.writes,
        Register.BYTES: lambda self: self.writer.bytes,
        Register.FAILED: lambda self: self.writer.failed,
        Register.HIDDEN: lambda self: self.writer.hidden,
        Register.PINNED: lambda self: self.host.npinned,
        Register.IRQS: lambda self: self.writer.irqs,
        Register.LAST_IOVA: lambda self: self.writer.last_iova,
        Register.ACTIVE: lambda self: int(self.registers.running and self._running),
    }

    def clip_access(self, index: int, offset: int, size: int, *, write: bool) -> int:
        """Registers are written as a whole or by halves."""
        if write and index == 0 and offset < u.REGISTERS_SIZE:
            half = size == 4 and offset % 4 == 0
            if not half and (not size or offset % 8 or size % 8):
                raise IoctlError(errno.EINVAL, f"a write of {size} bytes to the registers at {offset:#x}")
        return super().clip_access(index, offset, size, write=write)

    def reads_show(self, index: int) -> bool:
        """No register changes when it is read."""
        del index
        return False

    def write_bar(self, bar: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Registers, and memory."""
        if bar == 0 and offset < u.REGISTERS_SIZE:
            return self._write_register(offset, data)
        if bar in (0, BIG_BAR):
            self.bar_memory(bar).write(offset, data)
        return None

    def _write_register(self, offset: int, data: bytes) -> Steps[None]:
        register = _BY_OFFSET.get(offset & ~7)
        if register is None:
            return
        value = self.registers.merged(register, offset & 7, data)
        low = offset & 7 == 0
        if register == Register.IRQ_STATUS:
            yield from self.vectors.acknowledge(value)
        elif register == Register.DOORBELL and low:
            yield from self._execute(Command.WRITE | u.COMMAND_INTERRUPT, (value, 0, 0))
        elif register in self.registers:
            yield from self._set(register, value, low=low)
        self.host.wake()

    def _set(self, register: Register, value: int, *, low: bool) -> Steps[None]:
        was_running = self.registers.running
        self.registers.set(register, value)
        if register == Register.COMMAND and low:
            arguments = (
                self.registers[Register.ARG0],
                self.registers[Register.ARG1],
                self.registers[Register.ARG2],
            )
            yield from self._execute(value, arguments)
        elif register == Register.SEED:
            self.writer.random = value
        elif register == Register.RATE or (register == Register.CONTROL and not was_running):
            self.activity.pace.restart()
        if was_running and not self.registers[Register.CONTROL]:
            yield from self.host.active(self.activity.release(), dma=False)

    def _execute(self, command: int, arguments: tuple[int, int, int]) -> Steps[None]:
        self._result = yield from self._commands.execute(command, arguments)

    # --- DMA logging ---

    def log_start(self, page_size: int, ranges: Sequence[LogRange]) -> int:
        """Log with the page size nearest to the one asked for, 4 KiB to 2 MiB."""
        if self.options.logging_errno:
            raise IoctlError(
                self.options.logging_errno, f"page_size {page_size:#x}: option fail-logging-start is set"
            )
        if self.log is not None:
            raise IoctlError(errno.EINVAL, f"page_size {page_size:#x}: the device logs already")
        self.log = log.start(page_size, ranges)
        return 1 << self.log.pgshift

    def log_stop(self) -> None:
        """Forget it."""
        self.log = None

    def log_report(self, iova: int, length: int, sink: DirtySink) -> Steps[None]:
        """Report and forget."""
        if self.log is None:
            raise IoctlError(
                errno.EINVAL, f"iova {iova:#x}: the device does not log, DMA_LOGGING_START comes first"
            )
        return log.report(self.log, iova, length, sink)

    # --- migration ---

    def arc(self, current: int, target: int) -> Steps[SavingStream | ResumingStream | None]:
        """Begin, switch and end sessions; the core sees to it that nothing is written meanwhile."""
        stream: SavingStream | ResumingStream | None = None
        if target in _PRECOPYING and current not in _PRECOPYING:
            stream = self._saving = self._save(precopy=True)
            if not self.activity.pinning:
                yield from self.activity.begin_to_pin()
        elif current == STOP and target == STOP_COPY:
            stream = self._saving = self._save(precopy=False)
        elif current in _PRECOPYING and target == STOP_COPY:
            if self._saving is not None:
                self._saving.stop()
        elif current == STOP and target == RESUMING:
            stream = self._resuming = EngineResuming(LIMIT + 2 * self.options.big_bar)
        elif current == RESUMING:
            yield from self._load()
        was_running, self._running = self._running, target in RUNNING_STATES - P2P_STATES
        if self._running and not was_running:
            self.activity.pace.restart()
            self.host.wake()
        return stream

    def _save(self, *, precopy: bool) -> EngineSaving:
        return EngineSaving(self.registers, self._state, self.options.type, precopy=precopy)

    def _state(self) -> State:
        numbers = (
            *self.writer.dump(),
            self.vectors.status,
            int(self.interrupts.line),
            self.interrupts.messages.pending,
        )
        return State(
            shape(self.function),
            self.registers.dump(),
            numbers,
            self.save_pci() if self.options.config else b"",
            list(self.memory.chunks()),
            list(self._commands.put_off),
        )

    def _load(self) -> Steps[None]:
        """Take over what was written; a device that cannot is lost until it is reset."""
        resuming, self._resuming = self._resuming, None
        if resuming is None:
            return
        try:
            state = resuming.state(self.options.type)
            *counters, status, line, pending = state.numbers
            self._check(state, line, pending)
            self.registers.load(state.registers)
            self.vectors.load(status)
        except IoctlError as error:
            raise StateLost(errno.EINVAL, error.why) from error
        if state.pci:
            yield from self.load_pci(state.pci)
        else:
            yield from self.interrupts.set_line(bool(line))
        self.interrupts.messages.pending = pending
        yield from self.interrupts.deliver()
        self.writer.load(tuple(counters))
        self.memory.load(state.memory)
        self._commands.put_off.extend(state.put_off)

    def _check(self, state: State, line: int, pending: int) -> None:
        """Refuse the state of a device of another shape, whatever is in it, and what no device can have saved."""
        refuse_shape(state.shape, shape(self.function))
        if bool(state.pci) != self.options.config:
            has = "has" if state.pci else "has not"
            raise IoctlError(errno.EINVAL, f"the state {has} config space: option config must be the same")
        self.memory.check(state.memory, errno.EINVAL)
        if line > 1 or pending >> u.MSIX_VECTORS or len(state.put_off) > u.MAX_PUT_OFF:
            raise IoctlError(
                errno.EINVAL,
                f"INTx {line}, pending {pending:#x}, {len(state.put_off)} commands that were put off",
            )

    def stop_copy_size(self) -> int:
        """What comes when the device has stopped, as it is now; what pre-copy has not told yet comes on top."""
        config = self.pci_state_size if self.options.config else 0
        chunks = (len(data) for _, _, data in self.memory.chunks())
        return stop_size(len(shape(self.function)), config, chunks, len(self._commands.put_off))


_BY_OFFSET: Final[Mapping[int, Register]] = {int(register): register for register in Register}
