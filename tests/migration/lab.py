# SPDX-License-Identifier: MIT
"""Two daemons in this process, and small guests with dma-engines on them."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec as MachineDevice
from vfioemu.core.objects.spec import GroupSpec, MachineSpec
from vfioemu.daemon.serve import running
from vfioemu.migration.address import Address
from vfioemu.migration.destination import Destination
from vfioemu.migration.guestspec import ContainerSpec, CpuSpec, DeviceSpec, GuestSpec, MemorySpec, ProgramSpec
from vfioemu.migration.plan import Limits
from vfioemu.migration.source import Source
from vfioemu.migration.vfio import open_guest

HIGH = 1 << 32
IOMMU = IommuSpec(reserved=((0xFEE00000, 0xFEEFFFFF),))
QUICK = Limits(bandwidth=32 << 20, downtime=0.3)


@dataclass(kw_only=True)
class Dma:
    """A dma-engine, or another device: the options of its model, its program, its name (by default a UUID)."""

    model: str = "dma-engine"
    name: str | None = None
    options: dict = field(default_factory=dict)
    container: str = "c0"
    group: int | None = None
    program: ProgramSpec | None = field(
        default_factory=lambda: ProgramSpec(memory="high", size="2 MiB", rate=2000)
    )


def uuid(index):
    return f"00000000-0000-4000-8000-{index:012x}"


def machine(*devices, **options):
    """A machine with those devices, each in a group of its own; types 2 and 3 are behind an IOMMU."""
    groups = tuple(
        GroupSpec(number=10 + i, iommu=IOMMU if dma.options.get("type", 1) != 1 else None)
        for i, dma in enumerate(devices)
    )
    specs = tuple(
        MachineDevice(
            symbol=f"dma{i}", name=dma.name or uuid(i), group=10 + i, model=dma.model, options=dma.options
        )
        for i, dma in enumerate(devices)
    )
    return MachineSpec(groups=groups, devices=specs, **options)


def guest(*devices, mib=8, cpu_rate=1000.0):
    """A guest of two blocks with those devices and two CPUs."""
    containers = {}
    for i, dma in enumerate(devices):
        spec = DeviceSpec(name=f"dma{i}", group=10 + i, device=dma.name or uuid(i), program=dma.program)
        containers.setdefault(dma.container, []).append(spec)
    return GuestSpec(
        name="lab",
        memory=[
            MemorySpec(name="low", size=f"{mib // 2} MiB"),
            MemorySpec(name="high", base=HIGH, size=f"{mib // 2} MiB"),
        ],
        cpu=[
            CpuSpec(memory="low", size="1 MiB", rate=cpu_rate),
            CpuSpec(memory="high", offset="1 MiB", size="1 MiB", pattern="sweep", rate=cpu_rate),
        ],
        container=[ContainerSpec(name=name, device=device) for name, device in containers.items()],
    )


@dataclass
class Lab:
    """A source guest that runs, and a destination that waits; the daemons of both."""

    guest: object
    address: Address
    destination: Destination
    arrivals: list
    daemons: tuple

    async def migrate(self, limits=QUICK, **options):
        """Migrate, and return the result."""
        return await Source(self.guest, self.address, limits, **options).migrate()

    async def lives(self, guest=None):
        """CPUs and programmed devices make progress."""
        guest = guest or self.guest
        cpus, dma = guest.cpus.writes, [await device.driver.writes() for device in guest.devices.values()]
        with trio.fail_after(10):
            while guest.cpus.writes == cpus or not await self._all_wrote(guest, dma):  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def _all_wrote(self, guest, before):
        now = [await device.driver.writes() for device in guest.devices.values()]
        return all(n > b for n, b in zip(now, before, strict=True))


@asynccontextmanager
async def lab(*devices, uri="tcp:127.0.0.1:0", there=None, told=None, quirks="recorded", **shape):
    """Two daemons with those devices (`there`: others at the destination), a guest on one, a shell on the other."""
    spec = guest(*devices, **shape)
    arrivals = []
    async with (
        running(machine(*devices, quirks=quirks)) as a,
        running(machine(*(there or devices), quirks=quirks)) as b,
    ):
        with Address.parse(uri, insecure=True).listen() as listener:
            options = {} if told is None else {"tell": told}
            destination = Destination(
                lambda: open_guest(str(b.socket_path), spec, running=False), listener, linger=0.5, **options
            )

            async def receive():
                async with destination.arrival() as arrival:
                    arrivals.append(arrival)
                    await trio.sleep_forever()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                async with open_guest(str(a.socket_path), spec, running=True) as source:
                    await trio.sleep(0.1)
                    yield Lab(source, listener.bound, destination, arrivals, (a, b))
                nursery.cancel_scope.cancel()
