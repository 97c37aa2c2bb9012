# SPDX-License-Identifier: MIT
"""A dma-engine as a card: its registers, what their driver makes it do, and what of it is state."""

import hashlib
import struct
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from msgspec import UNSET

from vfioemu.abi import dma_engine as u
from vfioemu.abi.dma_engine import Command, Register
from vfioemu.core.base.effects import MaybeSteps, Steps
from vfioemu.core.base.limits import U64_MAX
from vfioemu.devices.dma_engine.commands import Commands
from vfioemu.devices.dma_engine.engine import Engine
from vfioemu.devices.dma_engine.function import describe
from vfioemu.devices.dma_engine.journal import Journal
from vfioemu.devices.dma_engine.memory import BIG_BAR, BarMemory
from vfioemu.devices.dma_engine.options import Options
from vfioemu.devices.dma_engine.registers import Registers
from vfioemu.devices.dma_engine.vectors import Vectors
from vfioemu.devices.dma_engine.writer import Writer
from vfioemu.devices.pci import PciHardware
from vfioemu.devices.pci.vfio_pci import names
from vfioemu.native.dma import Op


class EngineCard(PciHardware):
    """The card.

    Args:
        options: what was said of it.

    Attributes:
        running: the migration state lets it write by itself.
        registers, writer, journal, vectors, engine, memory, commands: its parts.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(describe(options.big_bar))
        self._options = options
        self.registers = Registers(options.pin_mode, options.pin_modes)
        self.memory = BarMemory(options.big_bar, self)
        operation = Op.WRITE if options.type == 1 else Op.HARDWARE_WRITE
        self.writer = Writer(self.registers, operation, options.lie, self.memory)
        self.journal = Journal() if options.journal else None
        self.vectors = Vectors(self)
        self.engine = Engine(self, options, self.registers, self.writer, self.journal, self.vectors)
        self.commands = Commands(self, self.registers, self.engine)
        self.running = True
        self._result = 0

    @property
    def may_dma(self) -> bool:
        """It is a bus master. An mdev's parent need not be, unless the machine's owner wants that."""
        checked = self._options.bus_master
        if checked is UNSET:
            checked = names.parse(self.host.name) is not None
        return not checked or self.bus_master

    # --- life ---

    def function_opened(self) -> None:
        """Empty the journal, which is kept from one open of the device to the next."""
        if self.journal is not None:
            self.journal.clear()

    def reset_function(self) -> Steps[None]:
        """Reset the card to what it is after power on; the DMA log goes on."""
        self.registers.reset()
        self.writer.reset()
        name = self.host.name.encode()
        default = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        self.writer.device_id = default if self._options.id is UNSET else self._options.id
        self.engine.reset()
        self.vectors.reset()
        self.memory.clear()
        self.commands.put_off.clear()
        self._result = 0
        self.running = True
        yield from self.host.unpin_range(0, U64_MAX + 1)

    def work(self, now: float) -> Steps[float | None]:
        """Do what was put off, or the writes that are due; says when the next ones are."""
        result = yield from self.commands.go_on()
        if result is not None:
            self._result = result
            return now
        return (yield from self.engine.work(now))

    def inspect(self, what: str, arguments: Mapping[str, object]) -> object:
        """Return ``registers`` (values by name) or ``writes`` (the journal, see `Journal.tell`); KeyError for anything else."""
        if what == "registers":
            return {register.name: self._read(register) for register in Register}
        if what == "writes" and self.journal is not None:
            first, limit = arguments.get("first", 0), arguments.get("limit", U64_MAX)
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

    # --- BARs ---

    def read_registers(self, offset: int, size: int) -> bytes:
        """Read registers in any pieces; those that do not exist are zero."""
        word = offset & ~7
        if offset + size <= word + 8:
            return self._read(word).to_bytes(8, "little")[offset - word : offset - word + size]
        words = [self._read(at) for at in range(word, offset + size, 8)]
        return struct.pack(f"<{len(words)}Q", *words)[offset - word :][:size]

    def read_bar(self, bar: int, offset: int, size: int) -> bytes:
        """Read `size` bytes of a BAR: registers, in any pieces, or memory; zeros where neither is."""
        if bar == 0 and offset < u.REGISTERS_SIZE:
            return self.read_registers(offset, size)
        return self.bar_memory(bar).read(offset, size) if bar in (0, BIG_BAR) else bytes(size)

    def _read(self, offset: int) -> int:
        register = _BY_OFFSET.get(offset)
        if register is None:
            return 0
        live = self._LIVE.get(register)
        return self.registers[register] if live is None else live(self)

    _LIVE: ClassVar[Mapping[Register, Callable[["EngineCard"], int]]] = {
        Register.ID: lambda self: u.ENGINE_ID,
        Register.DEVICE_ID: lambda self: self.writer.device_id,
        Register.RESULT: lambda self: self._result & U64_MAX,
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
        Register.ACTIVE: lambda self: int(self.registers.running and self.running),
    }

    def write_bar(self, bar: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write to a register or to the memory of a BAR; drop what goes to neither."""
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
            self.engine.pace.restart()
        if was_running and not self.registers[Register.CONTROL]:
            yield from self.host.active(self.engine.release(), dma=False)

    def _execute(self, command: int, arguments: tuple[int, int, int]) -> Steps[None]:
        self._result = yield from self.commands.execute(command, arguments)


_BY_OFFSET: Final[Mapping[int, Register]] = {int(register): register for register in Register}
