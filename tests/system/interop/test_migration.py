# SPDX-License-Identifier: MIT
"""A guest migrates live between two QEMUs, a daemon each, while devices write into its memory.

Whatever the way is, the same has to be true. The destination is paused when the migration has completed, and then each
page that a device writes to holds the last write to it, and all of memory is as at the source. The guest goes on after
that, and its devices from where they were.
"""

from collections.abc import Callable

import pytest

from tests.system.interop.checks import PAGE, Ring, dma, loopback, quiet, serial_ports
from tests.system.interop.guestimage import GuestImage
from tests.system.interop.lab import BANDWIDTH, Lab, Plan, Side, begin, calls, compare, ended, migrate, told
from tests.system.interop.machine import PATIENCE, Device, workplace
from tests.system.interop.programs import VERSIONS, Qemu
from tests.system.interop.qmp import QmpError, until
from tests.system.interop.report import Entry
from vfioemu.abi.dma_engine import Pattern

CONTAINER = "enable-migration=on,x-device-dirty-page-tracking=off"
V1 = "x-enable-migration=on"
TRIES = 6
MULTIFD = {"multifd_channels": 2}


def engine(group: int = 2, qemu: str = "", **options: object) -> Device:
    """A dma-engine that keeps account of what it has written; `_` in an option's name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return Device(
        model="dma-engine", group=group, slot=0x10 + group, options={"journal": True, **named}, qemu=qemu
    )


def mtty(group: int = 1, qemu: str = "", **options: object) -> Device:
    """A serial port."""
    return Device(model="mtty", group=group, slot=0x10 + group, options=options, qemu=qemu)


V2_PLANS = (
    Plan(title="device DMA logging", devices=[engine()]),
    Plan(title="container dirty pages", devices=[engine(logging=False, qemu=CONTAINER)]),
    Plan(title="two devices in one container", devices=[mtty(), engine(), engine(3)]),
    Plan(
        title="two devices, container dirty pages",
        devices=[mtty(qemu=CONTAINER), engine(logging=False, qemu=CONTAINER)],
    ),
    Plan(
        title="multifd",
        devices=[engine(qemu="x-migration-multifd-transfer=on")],
        capabilities=["multifd"],
        parameters=MULTIFD,
    ),
    Plan(
        title="guest memory in a memfd",
        devices=[engine()],
        options=[
            "-object",
            "memory-backend-memfd,id=ram,size=256M,share=on",
            "-machine",
            "memory-backend=ram",
        ],
    ),
    Plan(title="a BAR of 1 MiB of device memory", devices=[engine(big_bar=1 << 20)]),
)
V1_PLANS = (
    Plan(title="v1 region", devices=[engine(migration="v1", qemu=V1)]),
    Plan(
        title="v1 region, two devices",
        devices=[mtty(migration="v1", qemu=V1), engine(migration="v1", qemu=V1)],
    ),
)


class LostByQemuError(Exception):
    """QEMU 7.2 has lost writes of the guest's CPU, which no device has to do with.

    Under TCG it sees a CPU's next write to a page only after tlb_reset_dirty_range_all(), which
    cpu_physical_memory_sync_dirty_bitmap() leaves out if all that it finds dirty is to be sent already. Its v1 way often
    asks twice in a row. The guest's memory is broken then, so the migration has to be tried again. QEMU knows: "physmem: Fix
    migration dirty bitmap coherency with TCG memory access", Nicholas Piggin, qemu-devel, 19 February 2024.
    """


def title(plan: Plan) -> str:
    """For the test's name."""
    return plan.title.replace(",", "").replace(" ", "-")


async def rings(side: Side, plan: Plan, pattern: Pattern) -> list[Ring]:
    """Start every engine of the guest."""
    return [
        await Ring.start(side.vm, device, pattern) for device in plan.devices if device.model == "dma-engine"
    ]


async def ports(side: Side, plan: Plan) -> list[str]:
    """The guest's serial ports, after they were tried."""
    found = [
        tty
        for device in plan.devices
        if device.model == "mtty"
        for tty in await serial_ports(side.vm, device)
    ]
    for tty in found:
        await loopback(side.vm, tty, 4096)
    return found


async def arrives(source: Side, destination: Side, running: list[Ring], ttys: list[str]) -> int:
    """All that has to be true of a guest that has migrated: how many pages were compared."""
    lasts = []
    for ring in running:
        arrived = await compare(source, destination, ring)
        assert not arrived.unwritten, f"the source itself has not the last write to {arrived.unwritten}"
        assert not arrived.stale, f"{len(arrived.stale)} pages are stale: {arrived.stale}"
        if arrived.differing and source.vm.qemu.generation == VERSIONS[0]:
            raise LostByQemuError(
                f"{len(arrived.differing)} pages that only the CPU writes to were lost by QEMU"
            )
        assert not arrived.differing, f"other pages differ: {arrived.differing[:20]}"
        lasts.append(arrived.last)
    await destination.vm.qmp("cont")
    for ring, last in zip(running, lasts, strict=True):
        seen = await ring.goes_on(destination.vm, last)
        assert (seen["stale"], seen["foreign"]) == (0, 0)
    for tty in ttys:
        await loopback(destination.vm, tty)
    return sum(ring.pages for ring in running)


async def there(lab: Lab, entry: Entry, pattern: Pattern) -> None:
    """Boot a guest, and migrate it."""
    async with lab.side(incoming=False) as source, lab.side(incoming=True) as destination:
        running = await rings(source, lab.plan, pattern)
        ttys = await ports(source, lab.plan)
        status = await migrate(source, destination)
        container = any(device.qemu in (CONTAINER, V1) for device in lab.plan.devices)
        assert bool(calls(source.daemon, "VFIO_IOMMU_DIRTY_PAGES")) == container, (
            "dirty pages came another way"
        )
        pages = await arrives(source, destination, running, ttys)
        entry.note(f"{told(status)}; {pages} DMA pages right")
        assert await destination.vm.quit() == 0
        quiet(source.vm)
        quiet(destination.vm)


@pytest.mark.parametrize("plan", V2_PLANS, ids=title)
async def test_migration(v2_qemu: Qemu, guest: GuestImage, entry: Entry, plan: Plan) -> None:
    """Live migration"""
    entry.title = f"live migration: {plan.title}"
    await there(Lab(v2_qemu, guest, plan), entry, Pattern.RANDOM)


@pytest.mark.parametrize("plan", V1_PLANS, ids=title)
async def test_migration_v1(v1_qemu: Qemu, guest: GuestImage, entry: Entry, plan: Plan) -> None:
    """Live migration by the region of v1"""
    entry.title = f"live migration: {plan.title}"
    for _ in range(TRIES):
        try:
            await there(Lab(v1_qemu, guest, plan), entry, Pattern.RANDOM)
        except LostByQemuError as lost:
            entry.note(f"{lost}, tried again")
        else:
            return
    pytest.fail(f"no migration of {TRIES} was without a loss")


async def test_ring_table(v2_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """live migration: pages from a table in a BAR page that is mapped"""
    plan = Plan(title="", devices=[engine()])
    await there(Lab(v2_qemu, guest, plan), entry, Pattern.RING)


async def there_and_on(lab: Lab, entry: Entry) -> None:
    """Migrate a guest that has migrated before: what arrived is all there is."""
    async with lab.side(incoming=False) as first, lab.side(incoming=True) as second:
        running = await rings(first, lab.plan, Pattern.HOT)
        ttys = await ports(first, lab.plan)
        await migrate(first, second)
        await arrives(first, second, running, ttys)
        await first.vm.quit()
        async with lab.side(incoming=True) as third:
            status = await migrate(second, third)
            pages = await arrives(second, third, running, ttys)
            entry.note(f"the second time {told(status)}; {pages} DMA pages right")


async def test_again(v2_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """live migration of a guest that has migrated"""
    await there_and_on(Lab(v2_qemu, guest, Plan(title="", devices=[mtty(), engine()])), entry)


async def test_cancel(v2_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """cancel, then migrate again"""
    plan = Plan(title="", devices=[mtty(), engine()])
    lab = Lab(v2_qemu, guest, plan)
    async with lab.side(incoming=False) as source:
        running = await rings(source, plan, Pattern.RANDOM)
        ttys = await ports(source, plan)
        async with lab.side(incoming=True) as destination:
            with workplace() as place:
                await source.vm.qmp("migrate-set-parameters", max_bandwidth=1 << 20)
                await begin(source, destination, place)
                await until(
                    lambda: source.vm.qmp("query-migrate"),
                    lambda now: now["status"] == "active" and now["ram"]["transferred"] > 1 << 20,
                    PATIENCE,
                )
                await source.vm.qmp("migrate_cancel")
                status = await ended(source)
        assert status["status"] == "cancelled"
        assert await source.vm.status() == "running"
        for ring in running:
            seen = await ring.watched(source.vm)
            await ring.goes_on(source.vm, seen["seq"] + ring.pages)
        entry.note("cancelled; the guest goes on")
        async with lab.side(incoming=True) as destination:
            await source.vm.qmp("migrate-set-parameters", max_bandwidth=BANDWIDTH)
            status = await migrate(source, destination)
            pages = await arrives(source, destination, running, ttys)
            entry.note(f"then {told(status)}; {pages} DMA pages right")


async def test_logging_start_fails(v2_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """a device that cannot start to log: the migration fails, the guest goes on"""
    plan = Plan(title="", devices=[mtty(), engine(fail_logging_start="ENOMEM")])
    lab = Lab(v2_qemu, guest, plan)
    async with lab.side(incoming=False) as source, lab.side(incoming=True) as destination:
        (ring,) = await rings(source, plan, Pattern.RANDOM)
        ttys = await ports(source, plan)
        with workplace() as place:
            refused = ""
            try:
                await begin(source, destination, place)
                status = await ended(source)
                assert status["status"] == "failed"
                refused = status.get("error-desc", "")
            except QmpError as error:
                refused = str(error)
        entry.note(f"QEMU says: {refused or source.vm.log().strip().splitlines()[-1]}")
        assert await source.vm.status() == "running"
        seen = await ring.watched(source.vm)
        seen = await ring.goes_on(source.vm, seen["seq"] + ring.pages)
        assert (seen["stale"], seen["foreign"]) == (0, 0)
        for tty in ttys:
            await loopback(source.vm, tty)
        await dma(source.vm, ring.device)


@pytest.mark.parametrize(
    "make",
    [lambda: engine(hide=2), lambda: engine(hide=2, logging=False, qemu=CONTAINER)],
    ids=["device-logging", "container-dirty-pages"],
)
async def test_liar_is_found_out(
    v2_qemu: Qemu, guest: GuestImage, entry: Entry, make: Callable[[], Device]
) -> None:
    """negative control"""
    device = make()
    way = "container dirty pages" if device.qemu else "device DMA logging"
    entry.title = f"negative control: a device hides dirty pages, {way}"
    await lies(Lab(v2_qemu, guest, Plan(title="", devices=[device])), entry)


async def test_liar_is_found_out_v1(v1_qemu: Qemu, guest: GuestImage, entry: Entry) -> None:
    """negative control: a device hides dirty pages, v1 region"""
    await lies(Lab(v1_qemu, guest, Plan(title="", devices=[engine(hide=2, migration="v1", qemu=V1)])), entry)


async def lies(lab: Lab, entry: Entry) -> None:
    """Migrate with a device that leaves every other page out: of these some are stale, no others are, and that is seen."""
    async with lab.side(incoming=False) as source, lab.side(incoming=True) as destination:
        (ring,) = await rings(source, lab.plan, Pattern.SEQUENTIAL)
        status = await migrate(source, destination)
        arrived = await compare(source, destination, ring)
        entry.note(f"{told(status)}; {len(arrived.stale)} of {ring.pages} DMA pages stale, as they should be")
        assert not arrived.unwritten
        assert arrived.stale
        assert len({(iova - ring.base) // PAGE % 2 for iova in arrived.stale}) == 1
        others = {page * PAGE for page in arrived.differing} - set(arrived.stale)
        assert not others or lab.qemu.generation == VERSIONS[0], "see LostByQemuError"
