# SPDX-License-Identifier: MIT
"""Virtual CPUs: they do nothing but write stamped pages, which is all of a CPU that a migration can see.

A CPU is a task. Its state (sequence number, generator, cursor) moves with the guest, so that the destination goes on
with the write after the last one of the source. Pausing takes effect at once, because a CPU writes only between two
checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import trio

from vfioemu.migration.messages import CpuState
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.workload.stamps import cpu_slot, cpu_stamp

TICK: Final = 0.005
_STEPS: Final = 64
"""Pages that a CPU writes between two looks at the clock."""
_MASK: Final = (1 << 64) - 1


class Pattern(StrEnum):
    """Which page of its area a CPU writes next."""

    UNIFORM = "uniform"
    SWEEP = "sweep"
    HOT = "hot"
    """Nine of ten writes go to the first tenth of the area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one CPU does.

    Attributes:
        block: the RAM block that it writes.
        first: first page of its area.
        npages: size of its area.
        rate: pages per second.
    """

    block: RamBlock
    first: int
    npages: int
    rate: float
    pattern: Pattern
    seed: int


class VirtualCpu:
    """One CPU."""

    def __init__(self, index: int, workload: Workload) -> None:
        self.index = index
        self.name = f"cpu {index}"
        self.workload = workload
        self.seq = 0
        self.pages = 0
        self.turns = 0
        """How often it was let write; a slow one may not have to each time."""
        self._rng = (workload.seed * 0x9E37_79B9 + index) & _MASK
        self._cursor = 0

    @property
    def state(self) -> CpuState:
        """All that it needs to go on elsewhere."""
        return CpuState(seq=self.seq, rng=f"{self._rng:x}", cursor=self._cursor, pages=self.pages)

    @state.setter
    def state(self, state: CpuState) -> None:
        self.seq = state.seq
        self.pages = state.pages
        self._rng = int(state.rng, 16)
        self._cursor = state.cursor % self.workload.npages

    def step(self) -> None:
        """Write one page."""
        work = self.workload
        page = work.first + self._next()
        self.seq += 1
        self.pages += 1
        offset = page * PAGE
        stamp = cpu_stamp(self.index, self.seq, work.block.base + offset)
        work.block.write(offset + cpu_slot(self.index), stamp, self.name, self.seq)

    def _next(self) -> int:
        npages = self.workload.npages
        match self.workload.pattern:
            case Pattern.SWEEP:
                self._cursor = (self._cursor + 1) % npages
                return self._cursor
            case Pattern.HOT:
                hot = max(1, npages // 10)
                return self._random() % (hot if self._random() % 10 else npages)
            case Pattern.UNIFORM:
                return self._random() % npages

    def _random(self) -> int:
        """Splitmix64: a generator whose state is one number."""
        self._rng = (self._rng + 0x9E37_79B9_7F4A_7C15) & _MASK
        z = self._rng
        z = (z ^ z >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D0_49BB_1331_11EB & _MASK
        return z ^ z >> 31


class Cpus:
    """All CPUs of a guest.

    Attributes:
        running: they run, or would if `run()` did.
        throttle: the share of time, less than 1, in which they are kept from running.
    """

    MOMENT: Final = 1.0
    """Seconds in which each CPU has its turn if it runs at all; it has one every 5 ms."""

    def __init__(self, workloads: Sequence[Workload], *, running: bool) -> None:
        self.cpus = [VirtualCpu(index, workload) for index, workload in enumerate(workloads)]
        self.running = running
        self.throttle = 0.0
        self._resumed = trio.Event()
        if running:
            self._resumed.set()

    @property
    def writes(self) -> int:
        """Pages written so far, by all."""
        return sum(cpu.pages for cpu in self.cpus)

    def pause(self) -> None:
        """Nothing is written after this."""
        self.running = False
        self._resumed = trio.Event()

    def resume(self) -> None:
        """Go on."""
        self.running = True
        self._resumed.set()

    async def moved(self) -> bool:
        """Wait until each CPU has had its turn; False if one of them has not within a moment."""
        before = [cpu.turns for cpu in self.cpus]
        with trio.move_on_after(self.MOMENT):
            while not all(cpu.turns > turns for cpu, turns in zip(self.cpus, before, strict=True)):  # noqa: ASYNC110 - an event would have to be set at each turn, for nobody
                await trio.sleep(TICK)
            return True
        return False

    async def run(self) -> None:
        """Run all CPUs, for ever."""
        async with trio.open_nursery() as nursery:
            for cpu in self.cpus:
                nursery.start_soon(self._run, cpu)

    async def _run(self, cpu: VirtualCpu) -> None:
        last = trio.current_time()
        due = 0.0
        while True:
            await trio.sleep(TICK)
            if not self.running:
                await self._resumed.wait()
                last, due = trio.current_time(), 0.0
                continue
            now = trio.current_time()
            cpu.turns += 1
            # A CPU that was kept waiting catches up a little, not all of it: real ones do not either.
            rate = cpu.workload.rate * (1 - self.throttle)
            due = min(due + (now - last) * rate, rate * TICK * 10)
            last = now
            until = now + TICK  # whatever rate it has: others want to run, and signals to be seen
            while due >= 1 and trio.current_time() < until:
                for _ in range(min(int(due), _STEPS)):
                    cpu.step()
                    due -= 1
