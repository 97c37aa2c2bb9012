# SPDX-License-Identifier: MIT
"""The ledger against every order of writes, lost marks, syncs and sends that Hypothesis likes.

What it promises: a page that is not what was sent when the guest stands still is one whose sum is taken anew. Planted ledgers that forget
are found, or this would prove nothing.
"""

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from vfioemu.client import Memory
from vfioemu.migration.device_writes import DeviceCount, TakenPages
from vfioemu.migration.ledger import Ledger
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.vfio import close_memory

PAGES = 6


@dataclass
class Device:
    """A device whose writes begin and end, and a daemon that notes both."""

    noted: set = field(default_factory=set)
    count: int = 0

    async def begin(self, ranges):
        assert ranges == [(0, PAGES * PAGE)]

    async def take(self):
        bits = sum(1 << page for page in self.noted)
        self.noted = set()
        return {"dma0": DeviceCount(self.count, 0)}, [TakenPages("dma0", 0, 0, bits.to_bytes(8, "little"))]

    async def writes(self, device, since, *, stopped):
        return []

    async def end(self):
        pass


class World:
    """One block, what its destination has of it, and a dirty log."""

    def __init__(self, memory, kind):
        self.block = RamBlock("ram", 0, PAGES, memory)
        self.device = Device()
        self.ledger = kind([self.block], self.device, ["dma0"])
        self.version = [0] * PAGES
        self.sent = [0] * PAGES
        self.log = 0
        self.open = []
        self.block.pending.fill()

    async def step(self, what, page, lost):
        match what:
            case "cpu":
                self.version[page] += 1
                self.block.write(page * PAGE, b"x", "cpu 0", 1)
                self.log |= 0 if lost else 1 << page
            case "begin":
                self.device.noted.add(page)
                self.open.append((page, lost))
            case "end":
                self.end_write()
            case "send":
                for first, length in self.block.pending.take(page + 1, 64):
                    for number in range(first, first + length):
                        self.sent[number] = self.version[number]
            case "take":
                await self.ledger.before_sync()
            case "sync":
                await self.ledger.before_sync()
                self.harvest()
            case _:
                self.harvest()

    def end_write(self):
        """A write lands; then it is marked, or not; then it is noted."""
        if self.open:
            page, lost = self.open.pop(0)
            self.version[page] += 1
            self.log |= 0 if lost else 1 << page
            self.device.noted.add(page)
            self.device.count += 1

    def harvest(self):
        self.block.pending.merge(self.log.to_bytes(8, "little"))
        self.log = 0
        self.ledger.after_sync()

    async def stop(self):
        """All writes end, and then there are none: the final sync, the last pages, the reading. The pages that it misses."""
        while self.open:
            self.end_write()
        self.ledger.paused()
        await self.step("sync", 0, False)
        await self.step("send", PAGES, False)
        reading = await self.ledger.read()
        known = {page for first, length in reading.pages[0] for page in range(first, first + length)}
        return {page for page in range(PAGES) if self.sent[page] != self.version[page]} - known


def missed(steps, kind=Ledger):
    """The pages that are not what was sent, and that nobody would look at."""

    async def run():
        memory = Memory(PAGES * PAGE)
        world = World(memory, kind)
        try:
            await world.ledger.begin()
            for step in steps:
                await world.step(*step)
            return await world.stop()
        finally:
            await world.ledger.end()
            world.block.close()
            close_memory(memory)

    return trio.run(run)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["cpu", "begin", "end", "send", "take", "sync", "harvest"]),
        st.integers(0, PAGES - 1),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_every_page_that_differs_when_the_guest_stands_is_looked_at(steps):
    assert missed(steps) == set()


class ForgetsSuspects(Ledger):
    """Takes a sync for a proof that nothing is missing."""

    def after_sync(self):
        for suspects in self._suspects:
            suspects.clear()


class ForgetsDevices(Ledger):
    """Reads what CPUs write."""

    async def _take(self):
        devices, self._devices = self._devices, None
        await super()._take()
        self._devices = devices
        return {}


class ForgetsTheEnd(Ledger):
    """Does not look again when the guest stands."""

    async def before_sync(self):
        if self._paused is None:
            await super().before_sync()

    async def _take(self):
        return await super()._take() if self._paused is None else {}


@pytest.mark.parametrize("kind", [ForgetsSuspects, ForgetsDevices, ForgetsTheEnd])
def test_ledger_that_forgets_is_found(kind):
    some = settings(deadline=None, database=None, phases=[Phase.generate], max_examples=500)
    found = find(STEPS, lambda steps: bool(missed(steps, kind)), settings=some)
    assert missed(found) == set(), "the honest one misses it as well"


def test_honest_writes_make_no_late_ones():
    async def run():
        memory = Memory(PAGES * PAGE)
        world = World(memory, Ledger)
        await world.ledger.begin()
        for step in [("cpu", 1, False), ("begin", 2, False), ("sync", 0, False), ("end", 0, False)]:
            await world.step(*step)
        world.ledger.paused()
        await world.step("sync", 0, False)
        reading = await world.ledger.read()
        await world.ledger.end()
        world.block.close()
        close_memory(memory)
        return reading

    reading = trio.run(run)
    assert (reading.count, list(reading.late), reading.pages) == (0, [], [[]])
