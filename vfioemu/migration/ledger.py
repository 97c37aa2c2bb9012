# SPDX-License-Identifier: MIT
"""The ledger of a migration: every write of CPUs and devices into RAM, noted outside of the uAPI that is being verified.

Dirty tracking says what was written, and a verification of it that asks dirty tracking proves nothing. So each write is
noted a second time: a CPU's beside its log (cpu_ledger.py), a device's in the daemon, below all models (daemon_ledger.py). From
that follow two proofs.

A lost dirty bit. Each sync first takes the ledger, and then reads the dirty logs. A page that the ledger has and the logs do not
have is a suspect, until a later sync finds it dirty. What is suspect when the guest stands still is summed anew from memory: if a
bit was lost, that sum is not the sum of what was sent. (Suspects are few: a write between the two readings makes one, too.)

A late write. After the guest has been told to stand still nobody may write. The ledger is read after the final sync, just
before COMMIT and after STARTED, and whatever it has then is named: who, where, which write, how long after the stop.

A ledger that cannot be kept is not compared, and `not_compared` says why; that is no reason to end a migration.
"""

import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from vfioemu.migration.cpu_ledger import CpuLedger
from vfioemu.migration.device_writes import DeviceCount, DeviceWrite, DeviceWrites, LedgerError
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.stream import Run
from vfioemu.native.bitmap import DirtyBitmap

T = TypeVar("T")

MAX_NAMED: Final = 64
"""Late writes that are named in one reading; the others are counted."""


@dataclass(frozen=True, slots=True)
class Written:
    """A write that should not have been.

    Attributes:
        origin: device or CPU; "a device" if only the page is known.
        seq: which of its writes; None if only the page is known.
        iova: where.
        block: name of the RAM block; "" for an address outside of RAM.
        page: of the block.
        npages: pages that it touched.
        after: seconds from the pause of the CPUs; None if they were not paused, or only the page is known.
    """

    origin: str
    seq: int | None
    iova: int
    block: str
    page: int
    npages: int = 1
    after: float | None = None

    def __str__(self) -> str:
        which = "" if self.seq is None else f" write {self.seq}"
        where = f"{self.block} page {self.page}" if self.block else "outside of RAM"
        when = "" if self.after is None else f", {self.after * 1000:.1f} ms after the CPUs were paused"
        return f"{self.origin}{which} iova {self.iova:#x} ({where}){when}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of the ledger has found.

    Attributes:
        late: the writes that should not have been, those that are named.
        count: how many there are.
        pages: for each block the runs of pages that were written and not sent since; their sums are not known.
    """

    late: Sequence[Written]
    count: int
    pages: Sequence[list[Run]]


class Ledger:
    """The ledger of one migration, on one side.

    Args:
        ram: the RAM blocks of the guest.
        devices: the ledger of its devices; None if nobody keeps one.
        names: the names of its devices.

    Attributes:
        not_compared: why the writes of devices are not compared; "" if they are.
    """

    def __init__(self, ram: Sequence[RamBlock], devices: DeviceWrites | None, names: Sequence[str]) -> None:
        self.not_compared = ""
        self._ram = ram
        self._devices = devices if names else None
        if devices is None and names:
            self.not_compared = "nobody keeps a ledger of what they write"
        self._suspects: list[DirtyBitmap] = []
        self._cpu_seen = [0] * len(ram)
        self._device_seen: dict[str, DeviceCount] = {}
        self._paused: float | None = None

    @property
    def begun(self) -> bool:
        """Writes are noted."""
        return bool(self._suspects)

    async def begin(self) -> None:
        """Note all writes from now on."""
        for block in self._ram:
            block.ledger = CpuLedger(block.npages)
            self._suspects.append(DirtyBitmap(block.npages))
        devices = self._devices
        if devices is not None:
            await self._ask(devices.begin([(block.base, block.size) for block in self._ram]))

    async def before_sync(self) -> None:
        """Take the ledger: what was written until now has to be in the dirty logs that are read next."""
        if self.begun:
            await self._take()

    def after_sync(self) -> None:
        """Forget the pages that are going to be sent: they are summed then."""
        for block, suspects in zip(self._ram, self._suspects, strict=False):
            if suspects.count():
                suspects.clear_bits(block.pending.marked())

    def paused(self) -> None:
        """Note that the CPUs have been paused: whatever they write from now on is late."""
        self._paused = time.monotonic()
        for index, block in enumerate(self._ram):
            if block.ledger is not None:
                self._cpu_seen[index] = block.ledger.count

    async def read(self, *, stopped: bool = True) -> Reading:
        """Find what was written since the last reading, and should not have been.

        Args:
            stopped: the devices have run, and are stopped now; False: they have never run.
        """
        if not self.begun:
            return Reading((), 0, [[] for _ in self._ram])
        suspect = [suspects.take_runs() for suspects in self._suspects]
        counts = await self._take()
        late, count = self._late_cpus()
        for name, now in counts.items():
            seen = self._device_seen.get(name, DeviceCount(0, 0))
            self._device_seen[name] = now
            new = now.stopped - seen.stopped if stopped else now.writes - seen.writes
            if new:
                count += new
                late += await self._named(name, seen.writes, stopped=stopped)
        # Nobody was to write since the last reading, or since the final sync; a write that is not over yet has no number.
        fresh = [suspects.take_runs() for suspects in self._suspects]
        if count == len(late):
            unnamed = self._unnamed(fresh, late)
            late, count = late + unnamed, count + len(unnamed)
        return Reading(late[:MAX_NAMED], count, [old + new for old, new in zip(suspect, fresh, strict=True)])

    def _unnamed(self, fresh: Sequence[list[Run]], late: Sequence[Written]) -> list[Written]:
        named = {(w.block, page) for w in late for page in range(w.page, w.page + w.npages)}
        return [
            Written("a device", None, block.base + first * PAGE, block.name, first, length)
            for block, runs in zip(self._ram, fresh, strict=True)
            for first, length in runs[:MAX_NAMED]
            if not all((block.name, page) in named for page in range(first, first + length))
        ]

    async def end(self) -> None:
        """Note nothing any more."""
        for block in self._ram:
            if block.ledger is not None:
                block.ledger.close()
                block.ledger = None
        for suspects in self._suspects:
            suspects.close()
        self._suspects = []
        if self._devices is not None:
            await self._devices.end()
            self._devices = None

    async def _take(self) -> Mapping[str, DeviceCount]:
        for block, suspects in zip(self._ram, self._suspects, strict=True):
            if block.ledger is not None:
                out = bytearray(block.bitmap_size)
                block.ledger.bits.harvest_clean(out)
                suspects.merge(out, 0, block.npages)
        if self._devices is None:
            return {}
        taken = await self._ask(self._devices.take())
        if taken is None:
            return {}
        counts, pages = taken
        for page in pages:
            suspects = self._suspects[page.block]
            room = min(len(page.bits) * 8, suspects.nbits() - page.first)
            suspects.merge(page.bits, page.first, room)
        return counts

    async def _ask(self, call: Awaitable[T]) -> T | None:
        """Ask the daemon; after a failure or a cut nothing that it says is complete any more."""
        asked = False
        why = "it was interrupted"
        try:
            answer = await call
            asked = True
        except LedgerError as error:
            why = str(error)
            return None
        finally:
            if not asked:
                self.not_compared = why
                devices, self._devices = self._devices, None
                if devices is not None:
                    await devices.end()
        return answer

    def _late_cpus(self) -> tuple[list[Written], int]:
        late: list[Written] = []
        count = 0
        for index, block in enumerate(self._ram):
            if block.ledger is None:
                continue
            count += block.ledger.count - self._cpu_seen[index]
            late += [
                Written(
                    write.cpu,
                    write.seq,
                    block.base + write.page * PAGE,
                    block.name,
                    write.page,
                    after=self._since_pause(write.when),
                )
                for write in block.ledger.since(self._cpu_seen[index])
            ]
            self._cpu_seen[index] = block.ledger.count
        return late, count

    async def _named(self, device: str, since: int, *, stopped: bool) -> list[Written]:
        if self._devices is None:
            return []
        writes = await self._ask(self._devices.writes(device, since, stopped=stopped)) or []
        return [self._written(write) for write in writes]

    def _written(self, write: DeviceWrite) -> Written:
        after = self._since_pause(write.when)
        for block in self._ram:
            if block.base <= write.iova < block.base + block.size:
                page = (write.iova - block.base) // PAGE
                last = (write.iova + write.size - 1 - block.base) // PAGE
                return Written(
                    write.device, write.seq, write.iova, block.name, page, last - page + 1, after=after
                )
        return Written(write.device, write.seq, write.iova, "", 0, 0, after=after)

    def _since_pause(self, when: float) -> float | None:
        return None if self._paused is None else when - self._paused
