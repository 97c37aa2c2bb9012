# SPDX-License-Identifier: MIT
"""The dma-engine itself: registers and commands, autonomous writing, logging, migration."""

import errno
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from vfioemu.core.dma_logging import DirtySink, LogRange
from vfioemu.core.effects import Steps
from vfioemu.core.errors import IoctlError
from vfioemu.core.irqs import Irq
from vfioemu.core.migration import (
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
from vfioemu.core.model import ABSENT, READ_WRITE, DeviceModel, Region
from vfioemu.devices.dma_engine import log
from vfioemu.devices.dma_engine.migrate import FINAL_SIZE, EngineResuming, EngineSaving
from vfioemu.devices.dma_engine.options import Options
from vfioemu.devices.dma_engine.pace import Pace
from vfioemu.devices.dma_engine.pins import HeldPages, UsedPages
from vfioemu.devices.dma_engine.registers import Registers
from vfioemu.devices.dma_engine.writer import Writer
from vfioemu.kernel.dma import Op
from vfioemu.kernel.log import DirtyLog
from vfioemu.uapi import constants as c
from vfioemu.uapi.dma_engine import BAR_SIZE, ENGINE_ID, MAX_WRITE, Command, PinMode, Register

MAX_AT_ONCE: Final = 256
"""Writes in one call of `work`, which holds up everybody else: what is due beyond waits for the next."""
_U64: Final = (1 << 64) - 1
_PRECOPYING: Final = frozenset({PRE_COPY, PRE_COPY_P2P})


class DmaEngine(DeviceModel):
    """The device; see the package."""

    OPTIONS: ClassVar[Mapping[str, str]] = Options.HELP

    can_reset = True

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options)
        self.options = Options.parse(options)
        self.migration_flags = self.options.migration
        self.has_dma_logging = self.options.logging
        self.registers = Registers(self.options.pins, self.options.pin_modes)
        operation = Op.WRITE if self.options.type == 1 else Op.HARDWARE_WRITE
        self.writer = Writer(self.registers, operation, self.options.lie)
        self.held = HeldPages()
        self._used = UsedPages()
        self._pinning = False
        self._pace = Pace()
        self._result = 0
        self._log: DirtyLog | None = None
        self._running = True
        self._saving: EngineSaving | None = None
        self._resuming: EngineResuming | None = None
        self._config = _CONFIG

    @property
    def has_dma_unmap(self) -> bool:
        """Type 2 cannot pin."""
        return self.options.type != 2

    def regions(self) -> Sequence[Region]:
        """BAR 0 and the config space."""
        return _REGIONS

    def irqs(self) -> Sequence[Irq]:
        """INTx, which is never raised, and one MSI."""
        return _IRQS

    # --- life ---

    def open_device(self) -> None:
        """As after power on."""
        self._power_on()

    def close_device(self) -> None:
        """Nothing of it is kept; the core takes the pins back."""
        self._power_on()

    def reset(self) -> Steps[None]:
        """As after power on; the log goes on."""
        self._power_on()
        return self.host.unpin_range(0, _U64)

    def _power_on(self) -> None:
        self.registers.reset()
        self.writer.reset()
        name = self.host.name.encode()
        default = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        self.writer.device_id = default if self.options.id is None else self.options.id
        self.held.clear()
        self._used.clear()
        self._pinning = not self.options.pins_late
        self._pace.restart()
        self._result = 0
        self._running = True
        self._saving = None
        self._resuming = None

    def dma_unmap(self, iova: int, size: int) -> Steps[None]:
        """Give back what is pinned there."""
        self.held.forget(iova, size)
        return self.host.unpin_range(iova, size)

    # --- writing ---

    def work(self, now: float) -> Steps[float | None]:
        """Do the writes that are due; says when the next ones are."""
        registers = self.registers
        if not registers.running:
            return None
        rate, limit = registers[Register.RATE], registers[Register.LIMIT]
        count = self._pace.due(now, rate, MAX_AT_ONCE)
        if limit:
            count = min(count, max(0, limit - self.writer.seq))
        yield from self.held.during(self._write(count))
        self._pace.done(count)
        if limit and self.writer.seq >= limit:
            registers.stop()
            yield from self._release()
        if not registers[Register.CONTROL]:
            return None
        return self._pace.next(now, rate, registers[Register.BATCH])

    def _write(self, count: int) -> Steps[int]:
        """Write `count` pages of the area, in batches; returns how many reached memory."""
        registers, writer = self.registers, self.writer
        before = writer.writes
        while count > 0:
            size = min(count, registers[Register.BATCH])
            mode = registers[Register.PIN_MODE]
            if mode == PinMode.WINDOW:
                size = min(size, registers[Register.PIN_PAGES])
            pages = writer.next_pages(size)
            if mode != PinMode.NONE and self._pinning:
                pages = yield from self._prepare(pages)
            elif self.options.type == 3:
                self._used.mark(pages)
            count -= size
            writer.failed += size - len(pages)
            if not pages:
                continue
            batch = writer.batch(pages)
            try:
                done = yield from self.host.dma_batch(batch, self._log)
            except IoctlError:
                done = 0  # the container as a whole does not let it: a vaddr is invalid
            irqs_before = writer.writes
            writer.account(batch, done)
            yield from self._interrupt(irqs_before)
            if mode == PinMode.WINDOW and self._pinning:
                yield from self.held.trim(self.host, registers[Register.PIN_PAGES])
        return writer.writes - before

    def _prepare(self, pages: list[int]) -> Steps[list[int]]:
        """Pin what is to be written; returns what may be. Before its first pin, the device pins what it has used."""
        if self._used:  # after its first pin a group is dirty where it is pinned, and nowhere else
            yield from self.held.acquire_used(self.host, self._used)
        if self.options.hide_page is None:
            return (yield from self.held.acquire(self.host, pages))
        shown = [page for page in pages if page != self.options.hide_page]
        ready = set((yield from self.held.acquire(self.host, shown)))
        return [page for page in pages if page in ready or page == self.options.hide_page]

    def _begin_to_pin(self) -> Steps[int]:
        """From now on pages are pinned before they are written, and those that have been are pinned at once."""
        self._pinning = True
        if self.registers[Register.PIN_MODE] != PinMode.NONE:
            yield from self.held.acquire_used(self.host, self._used)
        return len(self.held)

    def _release(self) -> Steps[int]:
        """The device is idle: it needs no pins of its own."""
        count = len(self.held)
        yield from self.held.trim(self.host, 0)
        return count

    def _interrupt(self, before: int) -> Steps[None]:
        every = self.registers[Register.IRQ_EVERY]
        if every:
            for _ in range(self.writer.writes // every - before // every):
                self.writer.irqs += 1
                yield from self.host.signal_irq(c.VFIO_PCI_MSI_IRQ_INDEX, 0)

    # --- regions ---

    def read_region(self, index: int, offset: int, size: int) -> bytes:
        """Registers, in any pieces."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return self._config[offset : offset + size]
        word = offset & ~7
        if offset + size <= word + 8:
            return self._read(word).to_bytes(8, "little")[offset - word : offset - word + size]
        words = [self._read(at) for at in range(word, offset + size, 8)]
        return struct.pack(f"<{len(words)}Q", *words)[offset - word :][:size]

    def _read(self, offset: int) -> int:
        register = _BY_OFFSET.get(offset)
        if register is None:
            return 0
        live = self._LIVE.get(register)
        return self.registers[register] if live is None else live(self)

    _LIVE: ClassVar[Mapping[Register, Callable[["DmaEngine"], int]]] = {
        Register.ID: lambda self: ENGINE_ID,
        Register.DEVICE_ID: lambda self: self.writer.device_id,
        Register.RESULT: lambda self: self._result & _U64,
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

    def accept_write(self, index: int, offset: int, size: int) -> int:
        """Only whole registers and halves; the config space takes anything without looking."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return 0
        if not (size == 4 and offset % 4 == 0) and (not size or size % 8 or offset % 8):
            raise IoctlError(errno.EINVAL, f"a write of {size} bytes at {offset:#x}")
        return size

    def write_region(self, index: int, offset: int, data: bytes) -> Steps[None]:
        """Set registers, one after the other."""
        if index == c.VFIO_PCI_CONFIG_REGION_INDEX:
            return
        for register, value in self.registers.writes(offset, data):
            was_running = self.registers.running
            self.registers.set(register, value)
            if register == Register.COMMAND:
                self._result = yield from self._command(value)
            elif register == Register.SEED:
                self.writer.random = value
            elif register == Register.RATE or (register == Register.CONTROL and not was_running):
                self._pace.restart()
            if was_running and not self.registers[Register.CONTROL]:
                yield from self.host.active(self._release())
        self.host.wake()

    # --- commands ---

    def _command(self, command: int) -> Steps[int]:
        arguments = [self.registers[register] for register in (Register.ARG0, Register.ARG1, Register.ARG2)]
        try:
            if command == Command.WRITE:
                return (yield from self._command_write(arguments[0]))
            if command == Command.PIN:
                yield from self._active(self.held.during(self._begin_to_pin()))
                return (
                    yield from self.host.pin(arguments[0], _int32(arguments[1]), arguments[2] & 0xFFFFFFFF)
                )
            if command == Command.UNPIN:
                return (yield from self.host.unpin(arguments[0], min(arguments[1], (1 << 63) - 1)))
            if command == Command.UNPIN_ALL:
                return (yield from self._active(self._unpin_all()))
        except IoctlError as error:
            return -error.errno
        return -errno.EINVAL

    def _command_write(self, count: int) -> Steps[int]:
        if count > MAX_WRITE:
            raise IoctlError(errno.EINVAL, f"{count} writes at once, at most {MAX_WRITE}")
        self.registers.refuse_idle()
        return (yield from self._active(self.held.during(self._write(count))))

    def _unpin_all(self) -> Steps[int]:
        before = self.host.npinned
        self.held.clear()
        yield from self.host.unpin_range(0, _U64)
        return before

    def _active(self, steps: Steps[int]) -> Steps[int]:
        """Do something that excludes `work`; EBUSY while the device is stopped."""
        result = yield from self.host.active(steps)
        if result is None:
            raise IoctlError(errno.EBUSY, "the device is stopped")
        return result

    # --- DMA logging ---

    def log_start(self, page_size: int, ranges: Sequence[LogRange]) -> int:
        """Log with the page size nearest to the one asked for, 4 KiB to 2 MiB."""
        if self._log is not None:
            raise IoctlError(errno.EINVAL, "logging already")
        self._log = log.start(page_size, ranges)
        return 1 << self._log.pgshift

    def log_stop(self) -> None:
        """Forget it."""
        self._log = None

    def log_report(self, iova: int, length: int, sink: DirtySink) -> None:
        """Report and forget."""
        if self._log is None:
            raise IoctlError(errno.EINVAL, "not logging")
        log.report(self._log, iova, length, sink)

    # --- migration ---

    def arc(self, current: int, target: int) -> Steps[SavingStream | ResumingStream | None]:
        """Begin, switch and end sessions; the core sees to it that nothing is written meanwhile."""
        stream: SavingStream | ResumingStream | None = None
        if target in _PRECOPYING and current not in _PRECOPYING:
            stream = self._saving = self._save(precopy=True)
            if not self._pinning:
                yield from self.held.during(self._begin_to_pin())
        elif current == STOP and target == STOP_COPY:
            stream = self._saving = self._save(precopy=False)
        elif current in _PRECOPYING and target == STOP_COPY:
            if self._saving is not None:
                self._saving.stop()
        elif current == STOP and target == RESUMING:
            stream = self._resuming = EngineResuming()
        elif current == RESUMING:
            self._load()
        was_running, self._running = self._running, target in RUNNING_STATES
        if self._running and not was_running:
            self._pace.restart()
            self.host.wake()
        return stream

    def _save(self, *, precopy: bool) -> EngineSaving:
        return EngineSaving(self.registers, self.writer, self.options.type, precopy=precopy)

    def _load(self) -> None:
        """Take over what was written; a device that cannot is lost until it is reset."""
        resuming, self._resuming = self._resuming, None
        if resuming is None:
            return
        try:
            state = resuming.state(self.options.type)
            self.registers.load(state.registers)
        except IoctlError as error:
            raise StateLost(errno.EINVAL, error.why) from error
        self.writer.load(state.counters)

    def stop_copy_size(self) -> int:
        """The last record; what pre-copy has not told yet comes on top."""
        return FINAL_SIZE


def _int32(word: int) -> int:
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


_BY_OFFSET: Final[Mapping[int, Register]] = {int(register): register for register in Register}
_CONFIG: Final = bytes((0xFE, 0x1A, 0x01, 0x0D, 0x02, 0, 0x10, 0, 1, 0, 0, 0x08)).ljust(256, b"\0")
_REGIONS: Final = (
    Region(BAR_SIZE, READ_WRITE),
    *[ABSENT] * 6,
    Region(len(_CONFIG), READ_WRITE),
    ABSENT,
)
_MSI_FLAGS: Final = c.VFIO_IRQ_INFO_EVENTFD | c.VFIO_IRQ_INFO_NORESIZE
_IRQS: Final = (Irq(1), Irq(1, _MSI_FLAGS), *[Irq(0, _MSI_FLAGS)] * 3)
