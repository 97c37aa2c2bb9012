# SPDX-License-Identifier: MIT
"""A small guest for chaos: its daemon is a few lines of Python that can hang, die and fail at any call."""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from vfioemu.client import Memory
from vfioemu.migration.chaos.gate import Gate
from vfioemu.migration.cpus import Cpus, Pattern, Workload
from vfioemu.migration.device_writes import DeviceCount, DeviceWrite, TakenPages
from vfioemu.migration.guest import Guest, GuestDevice, GuestDriver
from vfioemu.migration.guestspec import ProgramSpec
from vfioemu.migration.messages import DeviceView
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock, fill
from vfioemu.migration.vfio import close_memory
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.uapi import constants as u

NPAGES: Final = 16
"""Of each of its two blocks: a frame of pages is moved at once, without a worker thread."""
HALF: Final = NPAGES // 2
"""The first half of each block is never written: what a link does to those pages is not mended by sending them again."""
_HIGH: Final = 1 << 32
_ACTIVE: Final = (u.VFIO_DEVICE_STATE_RUNNING, u.VFIO_DEVICE_STATE_PRE_COPY)
_PRE_COPY: Final = (u.VFIO_DEVICE_STATE_PRE_COPY, u.VFIO_DEVICE_STATE_PRE_COPY_P2P)


class Host:
    """The daemon of one side.

    Attributes:
        before: is waited for before each call.
        called: told of each call before it is served.
        dead: it was killed: each call fails, as on a connection that has broken.
        failing: the errno of the next call; 0: it works.
        gate: closed while it is stopped: nothing is answered.
    """

    def __init__(self) -> None:
        self.before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.called: Callable[[str], None] = lambda what: None
        self.dead = False
        self.failing = 0
        self.gate = Gate()

    async def call(self, what: str) -> None:
        """Serve a call, or not."""
        await self.before()
        self.called(what)
        await self.gate.passed()
        number, self.failing = self.failing, 0
        if self.dead:
            number = errno.EPIPE
        if number:
            raise OSError(number, os.strerror(number))


class Device:
    """A device that writes one page after the other, logs that, and has a register that says how many."""

    def __init__(self, host: Host, block: RamBlock, *, running: bool) -> None:
        self.name = "dma0"
        self.migration = u.VFIO_MIGRATION_STOP_COPY | u.VFIO_MIGRATION_P2P | u.VFIO_MIGRATION_PRE_COPY
        self.logging = True
        self.state = u.VFIO_DEVICE_STATE_RUNNING
        self.tracking = False
        self._host = host
        self._block = block
        self._running = running
        self._log = DirtyBitmap(block.npages)
        self._noted = DirtyBitmap(block.npages)
        self._count = 0
        self._seq = 0
        self._out = b""
        self._in = b""

    async def run(self) -> None:
        """Write, in states in which it may."""
        while True:
            await trio.sleep(0.02)
            if self._running and self.state in _ACTIVE and not self._host.dead:
                self._seq += 1
                page = HALF + self._seq * 7 % HALF
                self._block.view[page * PAGE : page * PAGE + 8] = self._seq.to_bytes(8, "little")
                self._count += 1
                self._noted.mark(page)
                if self.tracking:
                    self._log.mark(page)

    async def get_state(self) -> int:
        """VFIO_DEVICE_STATE_*."""
        await self._host.call("get_state")
        return self.state

    async def set_state(self, state: int) -> None:
        """MIG_DEVICE_STATE."""
        await self._host.call(f"set_state {state}")
        before, self.state = self.state, state
        if state == u.VFIO_DEVICE_STATE_PRE_COPY:
            self._out = b"early" * 100
        elif state == u.VFIO_DEVICE_STATE_STOP_COPY:
            self._out += self._seq.to_bytes(8, "little")
        elif before == u.VFIO_DEVICE_STATE_RESUMING:
            self._seq = int.from_bytes(self._in[-8:], "little")
            self._running = True

    async def reset(self) -> None:
        """DEVICE_RESET."""
        await self._host.call("reset")
        self.state = u.VFIO_DEVICE_STATE_RUNNING

    async def read_state(self, size: int) -> bytes | None:
        """Read the saving fd."""
        await self._host.call("read_state")
        data, self._out = self._out[:size], self._out[size:]
        return data if data or self.state == u.VFIO_DEVICE_STATE_STOP_COPY else None

    async def read_own(self, size: int) -> bytes | None:
        """Read the saving fd."""
        return await self.read_state(size)

    async def views(self) -> list[DeviceView]:
        """Show nothing that would differ."""
        return [DeviceView(what="face", values={"name": self.name})]

    async def write_state(self, data: bytes | bytearray) -> None:
        """Write the resuming fd."""
        await self._host.call("write_state")
        self._in += data

    async def pending(self) -> int:
        """PRECOPY_INFO."""
        return len(self._out) if self.state in _PRE_COPY else 0

    async def stop_copy_size(self) -> int:
        """MIG_DATA_SIZE."""
        await self._host.call("stop_copy_size")
        return 8

    async def start_logging(self, ranges: Sequence[tuple[int, int]]) -> None:
        """DMA_LOGGING_START."""
        del ranges
        await self._host.call("start_logging")
        self.tracking = True

    async def stop_logging(self) -> None:
        """DMA_LOGGING_STOP."""
        await self._host.call("stop_logging")
        self.tracking = False

    async def report(self, iova: int, size: int, bitmap: bytearray) -> None:
        """DMA_LOGGING_REPORT."""
        del size
        await self._host.call("report")
        if iova == self._block.base:
            self._log.harvest_or(bitmap, 0, self._block.npages)

    @property
    def driver(self) -> GuestDriver:
        """It is its own driver."""
        return self

    async def program(self, program: ProgramSpec, base: int, size: int, seed: int) -> None:
        """Do nothing: it is programmed already."""

    async def begin(self, seed: int) -> None:
        """Do nothing: it has begun."""

    async def registers(self) -> dict[str, str]:
        """Read its register."""
        return {"SEQ": hex(self._seq)}

    async def writes(self) -> int:
        """Count its writes."""
        return self._seq

    async def writer(self) -> int | None:
        """Return None: it leaves no stamps."""
        return None

    def take_noted(self) -> tuple[int, bytes]:
        """Count its writes, and take the pages that it has written, as a daemon's ledger has them."""
        bits = bytearray(self._block.bitmap_size)
        self._noted.harvest_clean(bits)
        return self._count, bytes(bits)

    def close(self) -> None:
        """Free its bitmaps."""
        self._log.close()
        self._noted.close()


class Container:
    """A container that tracks nothing itself."""

    def __init__(self, device: Device) -> None:
        self.name = "c0"
        self.dirty_pages = False
        self.devices: Sequence[GuestDevice] = [device]

    async def start_dirty(self) -> None:
        """DIRTY_PAGES START."""

    async def stop_dirty(self) -> None:
        """DIRTY_PAGES STOP."""

    async def dirty_bitmap(self, iova: int, size: int, bitmap: bytearray) -> None:
        """DIRTY_PAGES GET_BITMAP."""


class Writes:
    """The daemon's ledger of one device: exact, for it never writes when it may not."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._before = 0

    async def begin(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Note all writes from now on."""
        del ranges
        self._before, _ = self._device.take_noted()

    async def take(self) -> tuple[Mapping[str, DeviceCount], list[TakenPages]]:
        """Count the writes, and take the pages."""
        count, bits = self._device.take_noted()
        name = self._device.name
        return {name: DeviceCount(count - self._before, 0)}, [TakenPages(name, 1, 0, bits)]

    async def writes(self, device: str, since: int, *, stopped: bool) -> list[DeviceWrite]:
        """Return late writes; there are none."""
        del device, since, stopped
        return []

    async def end(self) -> None:
        """Note nothing any more."""


@asynccontextmanager
async def small_guest(host: Host, *, running: bool) -> AsyncIterator[Guest]:
    """Run a guest of two blocks, a CPU and a device, or an empty shell of it."""
    ram, memories = [], []
    for name, base in (("low", 0), ("high", _HIGH)):
        memory = Memory(NPAGES * PAGE)
        memories.append(memory)
        ram.append(RamBlock(name, base, NPAGES, memory))
        if running:
            fill(memory.view, name, (30, 30, 30))
    work = Workload(block=ram[0], first=HALF, npages=HALF, rate=100.0, pattern=Pattern.SWEEP, seed=1)
    device = Device(host, ram[1], running=running)
    guest = Guest("chaos", ram, Cpus([work], running=running), [Container(device)], Writes(device))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guest.cpus.run)
            nursery.start_soon(device.run)
            yield guest
            nursery.cancel_scope.cancel()
    finally:
        guest.close()
        device.close()
        for memory in memories:
            close_memory(memory)
