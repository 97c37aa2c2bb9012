# SPDX-License-Identifier: MIT
"""The writes of a dma-engine: which page is next, and the stamp that goes there. All of this state migrates."""

from collections.abc import Callable
from typing import Final

from vfioemu.abi.dma_engine import (
    AREA_END,
    MAX_BATCH,
    STAMP_LAYOUT,
    STAMP_MAGIC,
    STAMP_SIZE,
    Pattern,
    Register,
)
from vfioemu.core.base.limits import PAGE_SIZE, U64_MAX
from vfioemu.devices.dma_engine.memory import BarMemory
from vfioemu.devices.dma_engine.registers import Registers
from vfioemu.native.dma import DmaBatch, Op, Status

_MULTIPLIER: Final = 6364136223846793005
_INCREMENT: Final = 1442695040888963407
_BYTES: Final = tuple(bytes([byte]) for byte in range(256))


class Writer:
    """The generator of writes.

    Args:
        registers: what the driver has set.
        operation: how the device writes.
        lie: says which writes (sequence number, page) leave no mark; None for a device that does not lie.
        memory: where the ring table is.

    Attributes:
        operation: the same.
        buffer: what is written from, 1 MiB.
        device_id: of the stamps.
        seq: the last sequence number.
        writes, bytes, failed, hidden, irqs, last_iova: the counters of BAR 0.
        cursor: the next page of the sequential pattern.
        random: state of the generator, a 64-bit linear congruential one.
    """

    def __init__(
        self,
        registers: Registers,
        operation: Op,
        lie: Callable[[int, int], bool] | None,
        memory: BarMemory,
    ) -> None:
        self._registers = registers
        self.operation = operation
        self._lie = lie
        self._memory = memory
        self.buffer = bytearray(MAX_BATCH * PAGE_SIZE)
        self._batch = DmaBatch(self.buffer, MAX_BATCH)
        self.device_id = 0
        self.reset()

    def reset(self) -> None:
        """Reset counters and generator to what they are after power on."""
        self.seq = 0
        self.writes = 0
        self.bytes = 0
        self.failed = 0
        self.hidden = 0
        self.irqs = 0
        self.last_iova = 0
        self.cursor = 0
        self.random = self._registers[Register.SEED]

    def next_pages(self, count: int) -> list[int]:
        """Return the IOVAs of the next `count` pages; entries of the ring that name no page are left out."""
        base = self._registers[Register.BASE]
        npages = self._registers[Register.SIZE] // PAGE_SIZE
        pattern = self._registers[Register.PATTERN]
        if pattern == Pattern.SEQUENTIAL:
            first = self.cursor
            self.cursor = (first + count) % npages
            return [base + (first + i) % npages * PAGE_SIZE for i in range(count)]
        if pattern == Pattern.RING:
            entries = self._memory.ring(npages)
            first = self.cursor
            self.cursor = (first + count) % npages
            wanted = (entries[(first + i) % npages] for i in range(count))
            return [page for page in wanted if page % PAGE_SIZE == 0 and page < AREA_END]
        hot = min(self._registers[Register.HOT_PAGES], npages)
        state = self.random
        pages = []
        for _ in range(count):
            state = (state * _MULTIPLIER + _INCREMENT) & U64_MAX
            number = state >> 20
            if pattern == Pattern.HOT and (state >> 8) % 10:
                pages.append(base + number % hot * PAGE_SIZE)
            else:
                pages.append(base + number % npages * PAGE_SIZE)
        self.random = state
        return pages

    def batch(self, pages: list[int]) -> DmaBatch:
        """Build the writes to `pages`, stamped and numbered."""
        size = self._registers[Register.WRITE_SIZE]
        offset = self._registers[Register.OFFSET]
        fill = size - STAMP_SIZE
        batch = self._batch
        local = batch.local
        batch.clear()
        operation, lie = self.operation, self._lie
        seq = self.seq
        at = 0
        for page in pages:
            seq += 1
            iova = page + offset
            STAMP_LAYOUT.pack_into(local, at, STAMP_MAGIC, self.device_id, seq, iova)
            local[at + STAMP_SIZE : at + size] = _BYTES[seq & 0xFF] * fill
            hidden = lie is not None and lie(seq, page)
            batch.add(Op.HIDDEN_WRITE if hidden else operation, iova, size, at)
            at += size
        self.seq = seq
        return batch

    def account(self, batch: DmaBatch, done: int) -> None:
        """Count what became of a batch."""
        size = self._registers[Register.WRITE_SIZE]
        self.writes += done
        self.bytes += done * size
        self.failed += len(batch) - done
        if done:
            self.last_iova = batch[len(batch) - 1].iova
        if self._lie is not None:
            self.hidden += sum(dma.op == Op.HIDDEN_WRITE and dma.status == Status.DONE for dma in batch)

    def dump(self) -> tuple[int, ...]:
        """Return the state that migrates, `COUNTERS` numbers."""
        return (
            self.device_id,
            self.seq,
            self.writes,
            self.bytes,
            self.failed,
            self.hidden,
            self.irqs,
            self.last_iova,
            self.cursor,
            self.random,
        )

    def load(self, values: tuple[int, ...]) -> None:
        """Go on where another one stopped."""
        (
            self.device_id,
            self.seq,
            self.writes,
            self.bytes,
            self.failed,
            self.hidden,
            self.irqs,
            self.last_iova,
            self.cursor,
            self.random,
        ) = values


COUNTERS: Final = 10
"""Numbers that `Writer.dump` gives."""
