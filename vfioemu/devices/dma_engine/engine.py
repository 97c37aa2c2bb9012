# SPDX-License-Identifier: MIT
"""The DMA of a dma-engine: writes at a rate or when it is told to, and copies. It pins what it has to."""

import errno
from typing import Final

from msgspec import UNSET

from vfioemu.abi.dma_engine import MAX_BATCH, PinMode, Register
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_MASK, PAGE_SIZE
from vfioemu.core.base.slices import Slices
from vfioemu.core.model.host import Host
from vfioemu.devices.dma_engine.journal import Journal
from vfioemu.devices.dma_engine.options import Options
from vfioemu.devices.dma_engine.pace import Pace
from vfioemu.devices.dma_engine.pins import HeldPages, UsedPages
from vfioemu.devices.dma_engine.registers import Registers
from vfioemu.devices.dma_engine.vectors import Vectors
from vfioemu.devices.dma_engine.writer import Writer
from vfioemu.devices.pci import PciHardware
from vfioemu.native.dma import DmaBatch, Op, Status
from vfioemu.native.log import DirtyLog

_WORK: Final = 16
"""Units of work (see `Slices`) of one write."""
MAX_AT_ONCE: Final = 256
"""Writes in one call of `work`, which holds up everybody else: what is due beyond waits for the next."""


class Engine:
    """The DMA of a device.

    Args:
        hardware: the card.
        options: of the device.
        registers: what its driver has set.
        writer: what it writes.
        journal: where it notes that, if anywhere.
        vectors: its interrupts.

    Attributes:
        log: where its DMA is logged, if anywhere.
        held: the pages that it has pinned for itself.
        pinning: it pins pages before it writes to them.
        pace: how many writes are due.
    """

    def __init__(
        self,
        hardware: PciHardware,
        options: Options,
        registers: Registers,
        writer: Writer,
        journal: Journal | None,
        vectors: Vectors,
    ) -> None:
        self._hardware = hardware
        self._vectors = vectors
        self.log: DirtyLog | None = None
        self._options = options
        self._registers = registers
        self._writer = writer
        self._journal = journal
        self._used = UsedPages()
        self._copied = DmaBatch(writer.buffer, MAX_BATCH + 1)
        self.held = HeldPages()
        self.pinning = False
        self.pace = Pace()

    @property
    def _host(self) -> Host:
        return self._hardware.host

    def reset(self) -> None:
        """Reset to the state after power on."""
        self.held.clear()
        self._used.clear()
        self.pinning = not self._options.pins_late
        self.pace.restart()

    def work(self, now: float) -> Steps[float | None]:
        """Do the writes that are due; says when the next ones are."""
        registers = self._registers
        if not registers.running:
            return None
        rate, limit = registers[Register.RATE], registers[Register.LIMIT]
        count = self.pace.due(now, rate, MAX_AT_ONCE)
        if limit:
            count = min(count, max(0, limit - self._writer.seq))
        yield from self.held.during(self._write(count))
        self.pace.done(count)
        if limit and self._writer.seq >= limit:
            registers.stop()
            yield from self.release()
        if not registers[Register.CONTROL]:
            return None
        return self.pace.next(now, rate, registers[Register.BATCH])

    def write(self, count: int) -> Steps[int]:
        """Write `count` pages of the area; returns how many reached memory."""
        return self.held.during(self._write(count))

    def _write(self, count: int) -> Steps[int]:
        registers, writer = self._registers, self._writer
        before = writer.writes
        slices = Slices()
        while count > 0:
            size = min(count, registers[Register.BATCH])
            if registers[Register.PIN_MODE] == PinMode.WINDOW:
                size = min(size, registers[Register.PIN_PAGES])
            count -= size
            if slices.done(size * _WORK):
                yield from slices.breathe()
            if not self._hardware.may_dma:
                writer.failed += size
                continue
            pages = yield from self._reach(writer.next_pages(size))
            writer.failed += size - len(pages)
            if not pages:
                continue
            batch = writer.batch(pages)
            try:
                done = yield from self._host.dma_batch(batch, self.log)
            except IoctlError:
                done = 0  # the container as a whole does not let it: a vaddr is invalid
            self._note_use(batch)
            if self._journal is not None:
                self._journal.note(batch, writer.seq - len(batch) + 1)
            written = writer.writes
            writer.account(batch, done)
            yield from self._interrupt(written)
            yield from self._trim()
        return writer.writes - before

    def _reach(self, pages: list[int]) -> Steps[list[int]]:
        """Pin what is to be written, if the device pins; returns what may be written."""
        if self._pins:
            return (yield from self._prepare(pages))
        return pages

    @property
    def _pins(self) -> bool:
        return self._registers[Register.PIN_MODE] != PinMode.NONE and self.pinning

    def _note_use(self, batch: DmaBatch) -> None:
        """Note the pages that a batch wrote, as long as a device that will count by its pins has none."""
        if self._options.type == 3 and not self._pins:
            self._used.mark(dma.iova & PAGE_MASK for dma in batch if dma.status == Status.DONE)

    def _prepare(self, pages: list[int]) -> Steps[list[int]]:
        """Pin the pages of a batch, and before the first pin those that the device has used; return those that may be written."""
        if self._used:  # after its first pin a group is dirty where it is pinned, and nowhere else
            yield from self.held.acquire_used(self._host, self._used)
        if self._options.hide_page is UNSET:
            return (yield from self.held.acquire(self._host, pages))
        shown = [page for page in pages if page != self._options.hide_page]
        ready = set((yield from self.held.acquire(self._host, shown)))
        return [page for page in pages if page in ready or page == self._options.hide_page]

    def _trim(self) -> Steps[None]:
        if self._registers[Register.PIN_MODE] == PinMode.WINDOW and self.pinning:
            yield from self.held.trim(self._host, self._registers[Register.PIN_PAGES])

    def _interrupt(self, before: int) -> Steps[None]:
        every = self._registers[Register.IRQ_EVERY]
        if every:
            for _ in range(self._writer.writes // every - before // every):
                yield from self.raise_vector()

    def raise_vector(self, vector: int | None = None) -> Steps[None]:
        """Raise a vector, and count that: by default IRQ_VECTOR."""
        self._writer.irqs += 1
        return self._vectors.raise_vector(self._registers[Register.IRQ_VECTOR] if vector is None else vector)

    def begin_to_pin(self) -> Steps[int]:
        """Begin to pin pages before they are written, and pin those at once that have been written."""
        return self.held.during(self._begin_to_pin())

    def _begin_to_pin(self) -> Steps[int]:
        self.pinning = True
        if self._registers[Register.PIN_MODE] != PinMode.NONE:
            yield from self.held.acquire_used(self._host, self._used)
        return len(self.held)

    def release(self) -> Steps[int]:
        """Give up all pins, as the device is idle; return how many there were."""
        count = len(self.held)
        yield from self.held.trim(self._host, 0)
        return count

    def copy(self, source: int, target: int, size: int) -> Steps[int]:
        """Copy at most 1 MiB of guest memory; returns `size`.

        Raises:
            IoctlError: EFAULT when a part of it is not there, or may not be written; a part may have been copied.
        """
        return self.held.during(self._copy(source, target, size))

    def _copy(self, source: int, target: int, size: int) -> Steps[int]:
        if not size:
            return 0
        yield from self._transfer(Op.READ, source, size)
        pages = list(range(target - target % PAGE_SIZE, target + size, PAGE_SIZE))
        ready = yield from self._reach(pages)
        if len(ready) < len(pages):
            raise IoctlError(errno.EFAULT, f"a page of {target:#x}+{size:#x} cannot be pinned")
        if self._journal is not None:
            self._journal.forget(pages)
        yield from self._transfer(self._writer.operation, target, size)
        yield from self._trim()
        return size

    def _transfer(self, operation: Op, iova: int, size: int) -> Steps[None]:
        """Move `size` bytes between the device's buffer and guest memory, page by page."""
        batch = self._copied
        batch.clear()
        at = 0
        while at < size:
            part = min(size - at, PAGE_SIZE - (iova + at) % PAGE_SIZE)
            batch.add(operation, iova + at, part, at)
            at += part
        done = yield from self._host.dma_batch(batch, self.log)
        if operation != Op.READ:
            self._note_use(batch)
        if done < len(batch):
            raise IoctlError(errno.EFAULT, f"{operation.name} of {iova:#x}+{size:#x}")
