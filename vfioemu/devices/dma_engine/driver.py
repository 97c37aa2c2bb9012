# SPDX-License-Identifier: MIT
"""The driver of a dma-engine: vfio-pci with DMA logging and migration, as a variant driver of Linux adds them."""

import errno
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from vfioemu.abi import dma_engine as u
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
from vfioemu.devices.dma_engine.card import EngineCard
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
from vfioemu.devices.options import OptionTable
from vfioemu.devices.pci import VfioPci

_PRECOPYING: Final = frozenset({PRE_COPY, PRE_COPY_P2P})


class DmaEngine(VfioPci):
    """A scriptable DMA device: area or ring, pattern, rate, pins and interrupts by registers; logs its DMA, migrates."""

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(Options)

    @staticmethod
    def memory_size(options: Mapping[str, object]) -> int:
        """Return the bytes of memory behind its BARs, to see whether there is room; 0 for a `big-bar` that is no number."""
        size = options.get("big-bar", 0)
        return size if isinstance(size, int) else 0

    def __init__(self, options: Mapping[str, object]) -> None:
        self.options = Options.parse(options)
        self.card = EngineCard(self.options)
        super().__init__(options, self.card)
        self.migration_flags = self.options.migration_flags
        self.has_dma_logging = self.options.logging
        self._registers_answer = False
        self._saving: EngineSaving | None = None
        self._resuming: EngineResuming | None = None

    @property
    def has_dma_unmap(self) -> bool:
        """Type 2 cannot pin."""
        return self.options.type != 2

    # --- life ---

    def close_device(self) -> Steps[None]:
        """Drop what is left of a migration, too."""
        self._forget_sessions()
        yield from super().close_device()

    def try_reset_function(self) -> Steps[None]:
        """Drop what is left of a migration, too."""
        self._forget_sessions()
        yield from super().try_reset_function()

    def _forget_sessions(self) -> None:
        self._saving = None
        self._resuming = None

    def dma_unmap(self, iova: int, size: int) -> Steps[None]:
        """Give back what is pinned there."""
        self.card.engine.held.forget(iova, size)
        return self.host.unpin_range(iova, size)

    def inspect(self, what: str, arguments: Mapping[str, object]) -> object:
        """See `EngineCard.inspect`."""
        return self.card.inspect(what, arguments)

    # --- regions ---

    def read_region(self, index: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read as the layer below does, but shorter for registers, which clients read all the time."""
        if index == 0 and offset + size <= u.REGISTERS_SIZE and self._registers_answer and self.awake:
            return self.card.read_registers(offset, size)
        return super().read_region(index, offset, size)

    def command_written(self) -> Steps[None]:
        """Note whether the BARs answer: COMMAND was written."""
        self._registers_answer = self.hardware.memory_enabled
        yield from super().command_written()

    def clip_access(self, index: int, offset: int, size: int, *, write: bool) -> int:
        """Refuse a write to registers unless it is of whole ones, or of one half (EINVAL); else clip as the layer below."""
        if write and index == 0 and offset < u.REGISTERS_SIZE:
            half = size == 4 and offset % 4 == 0
            if not half and (not size or offset % 8 or size % 8):
                raise IoctlError(errno.EINVAL, f"a write of {size} bytes to the registers at {offset:#x}")
        return super().clip_access(index, offset, size, write=write)

    def reads_show(self, index: int) -> bool:
        """Tell that no register changes when it is read."""
        return False

    # --- DMA logging ---

    def log_start(self, page_size: int, ranges: Sequence[LogRange]) -> int:
        """Log with the page size nearest to the one asked for, 4 KiB to 2 MiB."""
        if self.options.logging_errno:
            raise IoctlError(
                self.options.logging_errno, f"page_size {page_size:#x}: option fail-logging-start is set"
            )
        if self.card.engine.log is not None:
            raise IoctlError(errno.EINVAL, f"page_size {page_size:#x}: the device logs already")
        self.card.engine.log = log.start(page_size, ranges)
        return 1 << self.card.engine.log.pgshift

    def log_stop(self) -> None:
        """Forget it."""
        self.card.engine.log = None

    def log_report(self, iova: int, length: int, sink: DirtySink) -> Steps[None]:
        """Report and forget."""
        if self.card.engine.log is None:
            raise IoctlError(
                errno.EINVAL, f"iova {iova:#x}: the device does not log, DMA_LOGGING_START comes first"
            )
        return log.report(self.card.engine.log, iova, length, sink)

    # --- migration ---

    def arc(self, current: int, target: int) -> Steps[SavingStream | ResumingStream | None]:
        """Begin, switch and end sessions; the core sees to it that nothing is written meanwhile."""
        stream: SavingStream | ResumingStream | None = None
        if target in _PRECOPYING and current not in _PRECOPYING:
            stream = self._saving = self._save(precopy=True)
            if not self.card.engine.pinning:
                yield from self.card.engine.begin_to_pin()
        elif current == STOP and target == STOP_COPY:
            stream = self._saving = self._save(precopy=False)
        elif current in _PRECOPYING and target == STOP_COPY:
            if self._saving is not None:
                self._saving.stop()
        elif current == STOP and target == RESUMING:
            stream = self._resuming = EngineResuming(LIMIT + 2 * self.options.big_bar)
        elif current == RESUMING:
            yield from self._load()
        was_running, self.card.running = self.card.running, target in RUNNING_STATES - P2P_STATES
        if self.card.running and not was_running:
            self.card.engine.pace.restart()
            self.host.wake()
        return stream

    def _save(self, *, precopy: bool) -> EngineSaving:
        return EngineSaving(self.card.registers, self._state, self.options.type, precopy=precopy)

    def _state(self) -> State:
        numbers = (
            *self.card.writer.dump(),
            self.card.vectors.status,
            int(self.interrupts.line),
            self.interrupts.messages.pending,
        )
        return State(
            shape(self.hardware.function),
            self.card.registers.dump(),
            numbers,
            self.save_pci() if self.options.config else b"",
            list(self.card.memory.chunks()),
            list(self.card.commands.put_off),
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
            self.card.registers.load(state.registers)
            self.card.vectors.load(status)
        except IoctlError as error:
            raise StateLost(errno.EINVAL, error.why) from error
        if state.pci:
            yield from self.load_pci(state.pci)
        else:
            yield from self.interrupts.set_line(bool(line))
        self.interrupts.messages.pending = pending
        yield from self.interrupts.deliver()
        self.card.writer.load(tuple(counters))
        self.card.memory.load(state.memory)
        self.card.commands.put_off.extend(state.put_off)

    def _check(self, state: State, line: int, pending: int) -> None:
        """Refuse the state of a device of another shape, whatever is in it, and what no device can have saved."""
        refuse_shape(state.shape, shape(self.hardware.function))
        if bool(state.pci) != self.options.config:
            has = "has" if state.pci else "has not"
            raise IoctlError(errno.EINVAL, f"the state {has} config space: option config must be the same")
        self.card.memory.check(state.memory, errno.EINVAL)
        if line > 1 or pending >> u.MSIX_VECTORS or len(state.put_off) > u.MAX_PUT_OFF:
            raise IoctlError(
                errno.EINVAL,
                f"INTx {line}, pending {pending:#x}, {len(state.put_off)} commands that were put off",
            )

    def stop_copy_size(self) -> int:
        """Return the bytes that follow when the device stops now, without those of pre-copy that have not been read."""
        config = self.pci_state_size if self.options.config else 0
        chunks = (len(data) for _, _, data in self.card.memory.chunks())
        return stop_size(len(shape(self.hardware.function)), config, chunks, len(self.card.commands.put_off))
