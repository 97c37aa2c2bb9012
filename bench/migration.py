# SPDX-License-Identifier: MIT
"""Migrations over a UNIX socket, between two daemons, against one thread that copies what they have to move.

The clock runs from the connection to STARTED: set-up, bulk round, stop, final sync, device state, hand-over. The device is idle; source
and destination are processes of their own. Where a row says so, the destination's memory has never been touched, and the floor
copies into memory that has not either; else both are populated before the clock starts. What is measured:

full            no page is zero
half            half of the pages are zero, at random: as many runs as there can be
sparse          16 GiB, 95 % zero. The floor is one copy of what is not zero, and one walk over the holes (SEEK_DATA, SEEK_HOLE)
verification    8 GiB, 75 % zero: with everything compared, against the same without; and how long the guest stood still
streams         1 GiB on four connections, against one
scattered       every other page of 64 MiB into a socket, in frames, against one send() for each page
"""

import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import IO, Final

import trio

from bench.harness import ROUNDS, Row, compare, interleave
from vfioemu import client
from vfioemu.migration.address import Address
from vfioemu.migration.destination import Destination
from vfioemu.migration.guest import Guest
from vfioemu.migration.guestspec import ContainerSpec, DeviceSpec, GuestSpec, MemorySpec
from vfioemu.migration.plan import PAGE, Limits
from vfioemu.migration.result import Result
from vfioemu.migration.source import Source
from vfioemu.migration.vfio import open_guest
from vfioemu.native.move import PagesOut
from vfioemu.native.runs import Runs
from vfioemu.testing.daemon import daemon_process, device_name, machine_of
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_RUNNING

GROUP: Final = 12
FRAME: Final = 4096
"""Pages of a RAM frame."""
REPEATS: Final = 3
"""Rounds of the large guests, which take longer."""
DOWNTIME: Final = 0.3
"""Seconds; what `--downtime` is if the user does not say it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A guest: bytes of RAM, and how many of 100 pages are zero."""

    size: int
    zero: int

    def spec(self) -> GuestSpec:
        """Make the guest, with one device that does nothing."""
        device = DeviceSpec(name="dma0", group=GROUP, device=device_name(GROUP))
        return GuestSpec(
            memory=[MemorySpec(name="ram", size=self.size, zero=self.zero, text=0, random=0)],
            container=[ContainerSpec(name="c0", device=[device])],
        )


GIB: Final = 1 << 30
FULL: Final = Shape(GIB, 0)
HALF: Final = Shape(GIB, 50)
SPARSE: Final = Shape(16 * GIB, 95)
LARGE: Final = Shape(8 * GIB, 75)


class Bench:
    """A guest, and a destination process that takes it again and again."""

    def __init__(self, guest: Guest, uri: str, ready: IO[bytes]) -> None:
        self.guest = guest
        self._uri = uri
        self._ready = ready

    async def migrate(self, *, verify: bool = False, streams: int = 1) -> Result:
        """Migrate, and have the guest back for the next time."""
        self._ready.readline()
        address = Address.parse(self._uri, insecure=True)
        limits = Limits(downtime=DOWNTIME)
        result = await Source(self.guest, address, limits, verify=verify, streams=streams).migrate()
        if result.code:
            raise RuntimeError(str(result.finish))
        for device in self.guest.devices.values():
            await device.stop_logging()
            await device.set_state(VFIO_DEVICE_STATE_RUNNING)
        self.guest.cpus.resume()
        return result


def seconds(result: Result) -> float:
    """From the beginning to STARTED."""
    timeline = result.engine.timeline
    assert timeline.started is not None
    return timeline.started - timeline.began


def run() -> Iterator[Row]:
    """Measure all rows."""
    yield scattered()
    machine = machine_of([GROUP], model="dma-engine", options="")
    with daemon_process(machine) as a, daemon_process(machine) as b:
        places = str(a.socket_path), str(b.socket_path)
        with bench(FULL, places[1], warm=True) as there:
            yield trio.run(_copies, places[0], FULL, there, "1 GiB over UNIX vs memcpy", True, 0.6)
        with bench(FULL, places[1], warm=True) as there:
            yield trio.run(_streams, places[0], there)
        with bench(FULL, places[1], warm=False) as there:
            name = "1 GiB over UNIX vs memcpy, into cold memory"
            yield trio.run(_copies, places[0], FULL, there, name, False, None)
        with bench(HALF, places[1], warm=True) as there:
            name = "1 GiB, 50 % zero at random, vs memcpy of 1 GiB"
            yield trio.run(_copies, places[0], HALF, there, name, True, 0.3)
        with bench(SPARSE, places[1], warm=False) as there:
            yield trio.run(_sparse, places[0], there)
        with bench(LARGE, places[1], warm=False) as there:
            yield from trio.run(_verified, places[0], there)


@contextmanager
def bench(shape: Shape, daemon: str, *, warm: bool) -> Iterator[tuple[str, IO[bytes]]]:
    """Start a destination process for guests of a shape: its URI, and what it prints when it is ready."""
    with tempfile.TemporaryDirectory(prefix="vfe") as name:
        uri = f"unix:{name}/m"
        command = [sys.executable, "-m", "bench.migration", uri, daemon, str(int(warm))]
        with subprocess.Popen([*command, str(shape.size), str(shape.zero)], stdout=subprocess.PIPE) as peer:
            assert peer.stdout is not None
            try:
                yield uri, peer.stdout
            finally:
                peer.kill()


async def _copies(
    daemon: str, shape: Shape, there: tuple[str, IO[bytes]], name: str, warm: bool, goal: float | None
) -> Row:
    async with open_guest(daemon, shape.spec(), running=True) as guest:
        it = Bench(guest, *there)
        source = mmap.mmap(-1, shape.size)
        memoryview(source)[:] = guest.ram[0].view if not shape.zero else bytes(shape.size)
        buffer = mmap.mmap(-1, shape.size)
        memoryview(buffer)[:] = memoryview(source)
        floor, ours = [], []
        for number in range(ROUNDS + 1):
            taken = _copy(memoryview(source), memoryview(buffer) if warm else None)
            migrated = seconds(await it.migrate())
            if number:
                floor.append(taken)
                ours.append(migrated)
        buffer.close()
        return compare("migration", name, ours, floor, goal=goal, inverse=True)


async def _streams(daemon: str, there: tuple[str, IO[bytes]]) -> Row:
    async with open_guest(daemon, FULL.spec(), running=True) as guest:
        it = Bench(guest, *there)
        times: dict[int, list[float]] = {4: [], 1: []}
        for number in range(REPEATS + 1):
            for streams in times:
                taken = seconds(await it.migrate(streams=streams))
                if number:
                    times[streams].append(taken)
        return compare("migration", "1 GiB on 4 streams vs on 1", times[4], times[1], goal=1.0)


def _copy(source: memoryview, target: memoryview | None) -> float:
    cold = None if target is not None else mmap.mmap(-1, len(source))
    view = target if cold is None else memoryview(cold)
    assert view is not None
    began = time.perf_counter()
    view[:] = source
    taken = time.perf_counter() - began
    view.release()
    if cold is not None:
        cold.close()
    return taken


def _walk(fd: int) -> tuple[float, int]:
    """Walk over the holes of a file: the seconds, and the bytes that are there."""
    began = time.perf_counter()
    at = there = 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return time.perf_counter() - began, there
        end = os.lseek(fd, at, os.SEEK_HOLE)
        there += end - at
        at = end


async def _sparse(daemon: str, there: tuple[str, IO[bytes]]) -> Row:
    async with open_guest(daemon, SPARSE.spec(), running=True) as guest:
        it = Bench(guest, *there)
        floor, ours, size = [], [], 0
        for number in range(REPEATS + 1):
            walked, size = _walk(guest.ram[0].fd)
            source = mmap.mmap(-1, size)
            memoryview(source)[:] = b"\x01" * size
            copied = _copy(memoryview(source), None)
            source.close()
            result = await it.migrate()
            if number:
                floor.append(walked + copied)
                ours.append(result.engine.rounds[0].seconds)
        note = f"{size / SPARSE.size:.3f} of it is there, {_there(guest) / size:.3f} of that afterwards"
        return compare(
            "migration", "16 GiB, 95 % zero, bulk round vs memcpy and walk", ours, floor, goal=3.0, note=note
        )


def _there(guest: Guest) -> int:
    return sum(os.fstat(block.fd).st_blocks * 512 for block in guest.ram)


async def _verified(daemon: str, there: tuple[str, IO[bytes]]) -> list[Row]:
    async with open_guest(daemon, LARGE.spec(), running=True) as guest:
        it = Bench(guest, *there)
        times: dict[bool, list[float]] = {True: [], False: []}
        outages = []
        for number in range(REPEATS + 1):
            for verify in (True, False):
                result = await it.migrate(verify=verify)
                if number:
                    times[verify].append(seconds(result))
                if number and verify:
                    outages.append(result.engine.timeline.outage or 0.0)
        return [
            compare(
                "migration",
                "8 GiB, 75 % zero, with verification vs without",
                times[True],
                times[False],
                goal=1.15,
            ),
            compare(
                "migration",
                "its outage with verification vs the limit of 300 ms",
                outages,
                [DOWNTIME] * REPEATS,
                goal=1.0,
            ),
        ]


def scattered() -> Row:
    """Send every other page of 64 MiB: in frames as the source does, and each by a call."""
    npages = (64 << 20) // PAGE
    with client.Memory(npages * PAGE) as memory:
        memory.populate()
        pages = list(range(0, npages, 2))
        ours, theirs = socket.socketpair()
        with ours, subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=subprocess.DEVNULL) as reader:
            theirs.close()
            ours.setblocking(False)

            def frames() -> float:
                began = time.perf_counter()
                for at in range(0, len(pages), FRAME):
                    work = PagesOut(b"", memory.view, Runs.of([(page, 1) for page in pages[at : at + FRAME]]))
                    while not work.step(ours.fileno(), 1000):
                        pass
                    work.drop()
                return time.perf_counter() - began

            def calls() -> float:
                ours.setblocking(True)
                began = time.perf_counter()
                for page in pages:
                    ours.sendall(memory.view[page * PAGE : (page + 1) * PAGE])
                taken = time.perf_counter() - began
                ours.setblocking(False)
                return taken

            times = interleave({"frames": frames, "calls": calls})
            ours.shutdown(socket.SHUT_RDWR)
            reader.kill()
        return compare(
            "migration",
            "scattered pages in frames vs one send() each",
            times["frames"],
            times["calls"],
            goal=2.0,
            inverse=True,
        )


async def _serve(uri: str, daemon: str, warm: bool, shape: Shape) -> None:
    """Receive migrations in the destination process, one shell after the other."""

    @asynccontextmanager
    async def shell() -> AsyncIterator[Guest]:
        async with open_guest(daemon, shape.spec(), running=False) as guest:
            if warm:
                for block in guest.ram:
                    memory = block.memory
                    assert isinstance(memory, client.Memory)
                    memory.populate()
            print("ready", flush=True)
            yield guest

    while True:
        with Address.parse(uri, insecure=True).listen() as listener:
            async with Destination(shell, listener).arrival():
                pass


if __name__ == "__main__":
    arguments = sys.argv[1:]
    trio.run(
        _serve, arguments[0], arguments[1], arguments[2] == "1", Shape(int(arguments[3]), int(arguments[4]))
    )
