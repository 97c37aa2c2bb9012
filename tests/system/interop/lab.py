# SPDX-License-Identifier: MIT
"""Two QEMUs, a daemon each, and the live migration of a guest from one to the other."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.system.interop.checks import Ring, differing_pages
from tests.system.interop.guestimage import GuestImage
from tests.system.interop.launch import connected, properties
from tests.system.interop.machine import PATIENCE, Device, Vm, daemon_of, qemu_process, workplace
from tests.system.interop.programs import Qemu
from tests.system.interop.qmp import until
from vfioemu.testing.daemon import DaemonProcess

DOWNTIME: Final = 100
"""The limit in milliseconds that QEMU is given."""
BANDWIDTH: Final = 32 << 20
"""Bytes a second, so that some seconds pass while the device writes."""
MIGRATION: Final = 120.0
"""Seconds that a migration may take."""
RAM: Final = 256 << 20
MANY: Final = 256
"""At least so many pages a device writes to."""
_ENDED: Final = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A way to migrate.

    Attributes:
        title: for people.
        devices: what the guest has.
        options: more of QEMU's command line, on both sides.
        capabilities: of QEMU's migration, to be switched on.
        parameters: of QEMU's migration.
    """

    title: str
    devices: Sequence[Device]
    options: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)

    def lying(self, hide: int) -> "Plan":
        """The same with engines of which every `hide`-th write leaves no mark."""
        devices = [
            replace(device, options={**device.options, "hide": hide})
            if device.model == "dma-engine"
            else device
            for device in self.devices
        ]
        return replace(self, devices=devices)


@dataclass(slots=True)
class Side:
    """One end of a migration: a QEMU and its daemon."""

    vm: Vm
    daemon: DaemonProcess


@dataclass(slots=True)
class Lab:
    """Starts both ends."""

    qemu: Qemu
    guest: GuestImage
    plan: Plan

    @contextlib.asynccontextmanager
    async def side(self, *, incoming: bool, devices: Sequence[Device] | None = None) -> AsyncIterator[Side]:
        """A QEMU that boots the guest, or that waits for it and will not run it before it is told to."""
        found = self.plan.devices if devices is None else devices
        more = ["-incoming", "defer", "-S"] if incoming else []
        with daemon_of(found) as daemon:
            async with qemu_process(
                self.qemu,
                self.guest,
                connected(daemon),
                properties(found),
                options=[*self.plan.options, *more],
            ) as vm:
                if not incoming:
                    await vm.console.booted(PATIENCE)
                await self._prepare(vm)
                yield Side(vm, daemon)

    async def _prepare(self, vm: Vm) -> None:
        wanted = [{"capability": name, "state": True} for name in ("events", *self.plan.capabilities)]
        await vm.qmp("migrate-set-capabilities", capabilities=wanted)
        await vm.qmp("migrate-set-parameters", downtime_limit=DOWNTIME, max_bandwidth=BANDWIDTH)
        if self.plan.parameters:
            await vm.qmp("migrate-set-parameters", **self.plan.parameters)


def calls(daemon: DaemonProcess, name: str) -> int:
    """How often a call of this name has succeeded."""
    found: list[dict[str, Any]] = daemon.ask("stats")["calls"]
    return sum(call["count"] for call in found if call["call"] == name and not call["errno"])


async def begin(source: Side, destination: Side, place: Path) -> None:
    """Begin a migration over a UNIX socket in `place`."""
    uri = f"unix:{place}/migration"
    await destination.vm.qmp("migrate-incoming", uri=uri)
    await source.vm.qmp("migrate", uri=uri)


async def ended(source: Side) -> dict[str, Any]:
    """Wait for the end of a migration, whatever it is: what query-migrate says."""
    status: dict[str, Any] = await until(
        lambda: source.vm.qmp("query-migrate"), lambda now: now["status"] in _ENDED, MIGRATION
    )
    return status


async def migrate(source: Side, destination: Side) -> dict[str, Any]:
    """Migrate: the destination has the guest, and has not run it."""
    with workplace() as place:
        await begin(source, destination, place)
        status = await ended(source)
    assert status["status"] == "completed", f"{status}\n{source.vm.log()}"
    await until(
        lambda: destination.vm.qmp("query-migrate"), lambda now: now.get("status") == "completed", PATIENCE
    )
    assert await source.vm.status() == "postmigrate"
    assert await destination.vm.status() == "paused"
    return status


@dataclass(frozen=True, slots=True)
class Arrived:
    """What is wrong with the memory that arrived.

    Attributes:
        last: the number of the engine's last write.
        unwritten: pages that hold something else than their last write at the source itself.
        stale: the same at the destination.
        differing: pages of all memory that are not as at the source.
    """

    last: int
    unwritten: Sequence[int]
    stale: Sequence[int]
    differing: Sequence[int]


async def compare(source: Side, destination: Side, ring: Ring) -> Arrived:
    """Hold the destination's memory against the engine's last writes and against the source's memory."""
    written = ring.last_writes(source.daemon)
    assert len(written) == ring.pages >= MANY, f"only {len(written)} pages were written to"
    return Arrived(
        source.daemon.ask("inspect", device=ring.device.id, what="registers")["SEQ"],
        await ring.stale(source.vm, written),
        await ring.stale(destination.vm, written),
        differing_pages(await source.vm.physical(0, RAM), await destination.vm.physical(0, RAM)),
    )


def told(status: Mapping[str, Any]) -> str:
    """A migration in a few words."""
    ram = status["ram"]
    return (
        f"downtime {status['downtime']} ms, {status['total-time'] / 1000:.1f} s, "
        f"{ram['dirty-sync-count']} syncs, {ram['transferred'] / (1 << 20):.0f} MiB"
    )
