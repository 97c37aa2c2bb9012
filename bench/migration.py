# SPDX-License-Identifier: MIT
"""Migration of 1 GiB over a UNIX socket, between two daemons, against one thread that copies 1 GiB.

The clock runs from the connection to STARTED: set-up, bulk round, stop, final sync, device state, hand-over. RAM has
no zero pages, the device is idle, nothing is compared. Source and destination are processes of their own. In the first
row both RAMs are populated before the clock starts, and the floor copies between two such buffers; in the second one
the destination's memory has never been touched, and the floor copies into memory that has not either.
"""

import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import IO, Final

import trio

from bench.harness import ROUNDS, Row, compare
from vfioemu import client
from vfioemu.migration.address import Address
from vfioemu.migration.destination import Destination
from vfioemu.migration.guest import Guest
from vfioemu.migration.guestspec import ContainerSpec, DeviceSpec, GuestSpec, MemorySpec
from vfioemu.migration.plan import Limits
from vfioemu.migration.source import Source
from vfioemu.migration.vfio import open_guest
from vfioemu.testing.daemon import daemon_process, device_name, machine_of
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_RUNNING

SIZE: Final = 1 << 30
GROUP: Final = 12


def spec() -> GuestSpec:
    """1 GiB without a zero page, and one device that does nothing."""
    device = DeviceSpec(name="dma0", group=GROUP, device=device_name(GROUP))
    return GuestSpec(
        memory=[MemorySpec(name="ram", size=SIZE, zero=0, text=0, random=0)],
        container=[ContainerSpec(name="c0", device=[device])],
    )


def run() -> Iterator[Row]:
    """Start a destination process, and yield rows of migrations to it."""
    machine = machine_of([GROUP], model="dma-engine", options="")
    with (
        tempfile.TemporaryDirectory(prefix="vfe") as name,
        daemon_process(machine) as a,
        daemon_process(machine) as b,
    ):
        for warm, goal in ((True, 0.3), (False, None)):
            uri = f"unix:{name}/m{warm:d}"
            command = [sys.executable, "-m", "bench.migration", uri, str(b.socket_path), str(int(warm))]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as peer:
                assert peer.stdout is not None
                try:
                    yield trio.run(_rounds, str(a.socket_path), uri, peer.stdout, warm, goal)
                finally:
                    peer.kill()


async def _rounds(daemon: str, uri: str, ready: IO[bytes], warm: bool, goal: float | None) -> Row:
    async with open_guest(daemon, spec(), running=True) as guest:
        source = guest.ram[0].view
        buffer = mmap.mmap(-1, SIZE)
        memoryview(buffer)[:] = source
        floor, ours = [], []
        for number in range(ROUNDS + 1):
            taken = _copy(source, memoryview(buffer) if warm else None)
            ready.readline()
            migrated = await _migrate(guest, uri)
            if number:
                floor.append(taken)
                ours.append(migrated)
        buffer.close()
        name = "1 GiB over UNIX vs memcpy" + ("" if warm else ", into cold memory")
        return compare("migration", name, ours, floor, goal=goal, inverse=True)


def _copy(source: memoryview, target: memoryview | None) -> float:
    cold = None if target is not None else mmap.mmap(-1, SIZE)
    view = target if cold is None else memoryview(cold)
    assert view is not None
    began = time.perf_counter()
    view[:] = source
    taken = time.perf_counter() - began
    view.release()
    if cold is not None:
        cold.close()
    return taken


async def _migrate(guest: Guest, uri: str) -> float:
    result = await Source(guest, Address.parse(uri, insecure=True), Limits(), verify=False).migrate()
    if result.code:
        raise RuntimeError(str(result.finish))
    for device in guest.devices.values():  # it has moved; have it back for the next round
        await device.stop_logging()
        await device.set_state(VFIO_DEVICE_STATE_RUNNING)
    timeline = result.engine.timeline
    assert timeline.started is not None
    return timeline.started - timeline.began


async def _serve(uri: str, daemon: str, warm: bool) -> None:
    """Receive migrations in the destination process, one shell after the other."""

    @asynccontextmanager
    async def shell() -> AsyncIterator[Guest]:
        async with open_guest(daemon, spec(), running=False) as guest:
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
    trio.run(_serve, sys.argv[1], sys.argv[2], sys.argv[3] == "1")
