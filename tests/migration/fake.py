# SPDX-License-Identifier: MIT
"""A guest whose devices are a few lines of Python: for tests of the drivers, without a daemon."""

import errno
import json
import time
from contextlib import asynccontextmanager

import trio

from tests.stamps import Stamp
from vfioemu.abi.dma_engine import STAMP_SIZE
from vfioemu.client import Memory
from vfioemu.migration.cpus import Cpus, Pattern, Workload
from vfioemu.migration.device_writes import DeviceCount, DeviceWrite, TakenPages
from vfioemu.migration.guest import Guest
from vfioemu.migration.messages import DeviceView
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock, fill
from vfioemu.migration.vfio import close_memory
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.uapi import constants as u

HIGH = 1 << 32
SAVING = (u.VFIO_DEVICE_STATE_PRE_COPY, u.VFIO_DEVICE_STATE_PRE_COPY_P2P, u.VFIO_DEVICE_STATE_STOP_COPY)
ACTIVE = (u.VFIO_DEVICE_STATE_RUNNING, u.VFIO_DEVICE_STATE_PRE_COPY)
RUNNING = (*ACTIVE, u.VFIO_DEVICE_STATE_RUNNING_P2P, u.VFIO_DEVICE_STATE_PRE_COPY_P2P)
DEVICE_ID = 500


class FakeDevice:
    """Writes stamped pages into the last block while it runs.

    Args:
        area: how many pages of the block it writes, one after the other.
        hide_page: writes to this page leave no mark in the log.
        fail: (method, errno): that method fails.
    """

    def __init__(
        self,
        name,
        block,
        *,
        migration=7,
        logging=True,
        rate=3000,
        area=None,
        hide_page=None,
        fail=None,
        running=True,
    ):
        self.name = name
        self.migration = migration
        self.logging = logging
        self.block = block
        self.rate = rate
        self.area = area or block.npages
        self.hide_page = hide_page
        self.fail = fail or {}
        self.state = u.VFIO_DEVICE_STATE_RUNNING
        self.log = DirtyBitmap(block.npages)
        self.tracking = False
        self.seq = 0
        self.running = running
        self.outbox = b""
        self.inbox = b""
        self.calls = []
        self.ledger = None

    def _call(self, name, *args):
        self.calls.append((name, *args))
        if name in self.fail:
            raise OSError(self.fail[name], "injected")

    async def run(self):
        while True:
            await trio.sleep(0.005)
            if self.running and self.state in ACTIVE:
                for _ in range(max(1, int(self.rate * 0.005))):
                    self.write()

    def write(self, page=None):
        """Write the next page, or one that no register tells of, in any state; its log and its ledger hear of it."""
        seq = self.seq + 1
        if page is None:
            self.seq = seq
            page = seq * 7 % self.area
        stamp = Stamp(DEVICE_ID, seq, self.block.base + page * PAGE).build()
        self.block.view[page * PAGE : page * PAGE + STAMP_SIZE] = stamp
        if self.tracking and page != self.hide_page:
            self.log.mark(page)
        if self.ledger is not None:
            self.ledger.note(page, stopped=self.state not in RUNNING)

    async def get_state(self):
        return self.state

    async def set_state(self, state):
        self._call("set_state", state)
        old, self.state = self.state, state
        registers = json.dumps({"seq": self.seq}).encode()
        if state == u.VFIO_DEVICE_STATE_PRE_COPY:
            self.outbox = b"early" * 1000
        elif state == u.VFIO_DEVICE_STATE_STOP_COPY:
            self.outbox += registers
        elif old == u.VFIO_DEVICE_STATE_RESUMING:
            self.seq = json.loads(self.inbox.replace(b"early", b""))["seq"]
            self.running = True

    async def reset(self):
        self._call("reset")
        self.state = u.VFIO_DEVICE_STATE_RUNNING

    async def read_state(self, size):
        self._call("read_state")
        data, self.outbox = self.outbox[:size], self.outbox[size:]
        if not data and self.state != u.VFIO_DEVICE_STATE_STOP_COPY:
            return None
        return data

    async def read_own(self, size):
        return await self.read_state(size)

    async def views(self):
        return [DeviceView(what="face", values={"name": self.name})]

    async def write_state(self, data):
        self._call("write_state")
        self.inbox += data

    async def pending(self):
        return len(self.outbox) if self.state in SAVING[:2] else 0

    async def stop_copy_size(self):
        return 100

    async def start_logging(self, ranges):
        self._call("start_logging", tuple(ranges))
        self.tracking = True

    async def stop_logging(self):
        self._call("stop_logging")
        self.tracking = False

    async def report(self, iova, size, bitmap):
        self._call("report")
        if iova == self.block.base:
            self.log.harvest_or(bitmap, 0, self.block.npages)

    @property
    def driver(self):
        """It is its own driver."""
        return self

    async def begin(self, seed):
        pass

    async def registers(self):
        return {"SEQ": hex(self.seq), "DEVICE_ID": hex(DEVICE_ID)}

    async def writer(self):
        return DEVICE_ID

    async def writes(self):
        return self.seq


class FakeContainer:
    """A container that tracks nothing by itself unless told to, and then by lending its device's log."""

    def __init__(self, name, devices, *, dirty_pages=False):
        self.name = name
        self.devices = devices
        self.dirty_pages = dirty_pages

    async def start_dirty(self):
        for device in self.devices:
            device.tracking = True

    async def stop_dirty(self):
        for device in self.devices:
            device.tracking = False

    async def dirty_bitmap(self, iova, size, bitmap):
        bitmap[:] = bytes(len(bitmap))
        for device in self.devices:
            await device.report(iova, size, bitmap)


class FakeLedger:
    """The ledger that a daemon would keep of one device."""

    def __init__(self, device, index):
        self.device = device
        self.index = index
        self.noted = []
        self.bits = DirtyBitmap(device.block.npages)
        self.fail = {}

    def note(self, page, *, stopped):
        iova = self.device.block.base + page * PAGE
        write = DeviceWrite("dma0", len(self.noted) + 1, iova, STAMP_SIZE, time.monotonic())
        self.noted.append((stopped, write))
        self.bits.mark(page)

    def _call(self, name):
        if name in self.fail:
            raise self.fail[name]

    async def begin(self, ranges):
        self._call("begin")
        assert ranges[self.index] == (self.device.block.base, self.device.block.size)
        self.noted.clear()
        self.bits.clear()
        self.device.ledger = self

    async def take(self):
        self._call("take")
        bits = bytearray(self.device.block.bitmap_size)
        self.bits.harvest_clean(bits)
        count = DeviceCount(len(self.noted), sum(stopped for stopped, _ in self.noted))
        return {"dma0": count}, [TakenPages("dma0", self.index, 0, bytes(bits))]

    async def writes(self, device, since, *, stopped):
        self._call("writes")
        return [write for late, write in self.noted[since:] if late or not stopped]

    async def end(self):
        self.device.ledger = None


@asynccontextmanager
async def fake_guest(*, running, npages=1024, dirty_pages=False, cpu_rate=3000.0, cpus=2, **device):
    """A guest of two blocks with one device and two CPUs; they run if `running`."""
    ram, memories = [], []
    for name, base in (("low", 0), ("high", HIGH)):
        memory = Memory(npages * PAGE)
        memories.append(memory)
        ram.append(RamBlock(name, base, npages, memory))
        if running:
            fill(memory.view, name, (30, 30, 30))
    workloads = [
        Workload(block=ram[i % 2], first=i * 8, npages=npages - 16, rate=cpu_rate, pattern=pattern, seed=i)
        for i, pattern in zip(range(cpus), Pattern, strict=False)
    ]
    dev = FakeDevice("dma0", ram[1], running=running, **device)
    guest = Guest(
        "fake",
        ram,
        Cpus(workloads, running=running),
        [FakeContainer("c0", [dev], dirty_pages=dirty_pages)],
        FakeLedger(dev, 1),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest.cpus.run)
        nursery.start_soon(dev.run)
        yield guest
        nursery.cancel_scope.cancel()
    guest.close()
    dev.log.close()
    for memory in memories:
        close_memory(memory)


EIO = errno.EIO
