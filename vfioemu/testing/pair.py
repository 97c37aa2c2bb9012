# SPDX-License-Identifier: MIT
"""Kernels in memory whose devices live in trio's time: with an autojump clock a test of hours takes milliseconds."""

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Final

import trio

from vfioemu.core.base.profile import DEFAULT
from vfioemu.core.objects.device import Device
from vfioemu.testing.handles import MemoryDevice
from vfioemu.testing.inmemory import DeviceWish, MemoryMachine, device, machine
from vfioemu.testing.process import Process
from vfioemu.uapi.flags import DeviceState

_MEMORY: Final = 1 << 20
"""Bytes of memory that each side of a pair has mapped, from IOVA 0."""


class TrioKernels:
    """The value of the fixture `vfioemu_trio`."""

    @contextlib.asynccontextmanager
    async def machine(
        self, *devices: str | DeviceWish, profile: str = DEFAULT.name
    ) -> AsyncIterator[MemoryMachine]:
        """Make a kernel in memory, whose devices work in trio's time as long as the block lasts."""
        kernel = machine(*devices, profile=profile)
        async with trio.open_nursery() as nursery:
            for found in kernel.core.devices.values():
                nursery.start_soon(_work, kernel, found)
            yield kernel
            nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def migration_pair(
        self, model: str, **options: object
    ) -> AsyncIterator[tuple[MemoryDevice, MemoryDevice]]:
        """Two devices of one kind on two kernels: a source that runs, and a destination in RESUMING.

        Each has 1 MiB of memory mapped from IOVA 0. `transfer` moves the state of the one to the other.
        """
        wish = device(model, **options)  # type: ignore[arg-type]  # options of the model
        async with self.machine(wish) as here, self.machine(wish) as there:
            pair = []
            for kernel in (here, there):
                opened = kernel.client().open("dev0")
                opened.container.map(0, _MEMORY)
                pair.append(opened)
            source, destination = pair
            yield source, destination

    @staticmethod
    def transfer(source: MemoryDevice, destination: MemoryDevice) -> int:
        """Stop the source, load its state into the destination, and let that run; returns how many bytes it took."""
        saving = source.set_state(DeviceState.STOP_COPY)
        resuming = destination.set_state(DeviceState.RESUMING)
        if saving is None or resuming is None:
            raise AssertionError("a session without a data fd")
        state = saving.read_all()
        resuming.write(state)
        destination.set_state(DeviceState.RUNNING)
        source.set_state(DeviceState.STOP)
        return len(state)


async def _work(kernel: MemoryMachine, found: Device) -> None:
    """Let one device do what is due, when it is due."""
    process = Process(kernel.core, scheduler=kernel.scheduler, pid=0, kernel_thread=True)
    woken = trio.Event()

    def wake() -> None:
        woken.set()

    found.on_wake.append(wake)
    while True:
        woken = trio.Event()
        due = kernel.scheduler.call(found.work(trio.current_time()), process, "work")
        with trio.move_on_at(math.inf if due is None else due):
            await woken.wait()
        await trio.lowlevel.checkpoint()
