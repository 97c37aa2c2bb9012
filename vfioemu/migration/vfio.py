# SPDX-License-Identifier: MIT
"""A guest whose containers and devices are emulated fds of a daemon: what QEMU's hw/vfio is to QEMU.

Only the public uAPI is used, through vfioemu.client; nothing here knows what is behind an fd.
"""

import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from vfioemu import client
from vfioemu.migration.background import background
from vfioemu.migration.building import Step, about
from vfioemu.migration.cpus import Cpus, Workload
from vfioemu.migration.daemon_ledger import DaemonLedger
from vfioemu.migration.deadlines import CALL_TIMEOUT, Calls, asked, limit_calls, within
from vfioemu.migration.guest import Guest
from vfioemu.migration.guestspec import ContainerSpec, GuestSpec
from vfioemu.migration.plan import PAGE
from vfioemu.migration.ram import RamBlock, filling
from vfioemu.migration.vfio_device import VfioDevice
from vfioemu.room import require_room
from vfioemu.uapi import constants as u
from vfioemu.uapi.structs import IommuType1InfoCapMigration

BITS_PER_PAGE: Final = 68
"""Of the bitmaps and sums that this process has for each page."""


class VfioContainer:
    """A container of the guest."""

    def __init__(self, name: str, file: client.Container) -> None:
        self.name = name
        self.devices: list[VfioDevice] = []
        self.dirty_pages = False
        self._file = file
        self._groups: dict[int, client.Group] = {}

    async def open(
        self, session: client.Session, spec: ContainerSpec, ram: Sequence[RamBlock], limit: float
    ) -> None:
        """Open groups, IOMMU, mappings, devices; in QEMU's order.

        Args:
            session: of the daemon.
            spec: what is in it.
            ram: of the guest.
            limit: seconds for each call that opens something.
        """
        for device in spec.device:
            if device.group not in self._groups:
                with about(Step.GROUP, f"group {device.group}"), within(limit, "the open of the group"):
                    group = self._groups[device.group] = await session.open_group(device.group)
                    await group.set_container(self._file)
        if not self._groups:
            return  # a container without a group has no IOMMU, and nothing to track
        await asked(self._file, "VFIO_SET_IOMMU", self._file.set_iommu(u.VFIO_TYPE1v2_IOMMU))
        capabilities = await asked(self._file, "VFIO_IOMMU_GET_INFO", self._file.capabilities())
        capability = capabilities.get(u.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION)
        if capability is not None:
            self.dirty_pages = bool(IommuType1InfoCapMigration.parse(capability).pgsize_bitmap & PAGE)
        for block in ram:
            with about(Step.MEMORY, f"memory {block.name} in container {self.name}"):
                mapped = self._file.map_dma(block.memory.address, block.base, block.size)
                await asked(self._file, "VFIO_IOMMU_MAP_DMA", mapped)
        for device in spec.device:
            with about(Step.DEVICE, f"device {device.device} in group {device.group}"):
                group = self._groups[device.group]
                file = await asked(group, "VFIO_GROUP_GET_DEVICE_FD", group.get_device(device.device))
                opened = VfioDevice(device, file)
                self.devices.append(opened)
                await opened.open()

    async def start_dirty(self) -> None:
        """DIRTY_PAGES START."""
        await asked(self._file, "DIRTY_PAGES START", self._file.dirty_start())

    async def stop_dirty(self) -> None:
        """DIRTY_PAGES STOP."""
        await asked(self._file, "DIRTY_PAGES STOP", self._file.dirty_stop())

    async def dirty_bitmap(self, iova: int, size: int, bitmap: bytearray) -> None:
        """DIRTY_PAGES GET_BITMAP."""
        await asked(self._file, "DIRTY_PAGES GET_BITMAP", self._file.dirty_bitmap(iova, size, PAGE, bitmap))

    def close(self) -> None:
        """Close all fds, devices first."""
        for device in self.devices:
            device.close()
        for group in self._groups.values():
            group.close()
        self._file.close()


@asynccontextmanager
async def open_guest(
    daemon: str,
    spec: GuestSpec,
    *,
    running: bool,
    progress: Callable[[int, int], None] | None = None,
    call_timeout: float = CALL_TIMEOUT,
) -> AsyncIterator[Guest]:
    """Build a guest on a daemon, and run its CPUs (if `running`) as long as the block lasts.

    A guest that is being built can be cancelled at any moment; nothing of it is left.

    Args:
        daemon: path of the daemon's socket.
        spec: the guest file.
        running: a source: RAM has contents, devices are programmed, CPUs run. Else an empty shell.
        progress: is told how many bytes of RAM have their contents, and of how many.
        call_timeout: seconds that a call to the daemon may take.

    Raises:
        BuildError: there is no room for it, or what the daemon answers to what.
    """
    sizes = [block.npages * PAGE for block in spec.memory]
    with about(Step.ROOM, spec.name):
        bitmaps = sum(sizes) // PAGE * BITS_PER_PAGE // 8
        require_room("the guest", sum(sizes) + bitmaps, largest=max(sizes))
    memories: list[client.Memory] = []
    containers: list[VfioContainer] = []
    connection = client.connect(daemon, greeted_within=call_timeout)
    calls = Calls(call_timeout)
    with about(Step.CONNECT, daemon):
        session = await connection.__aenter__()
    limit_calls(session, calls)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_exit(connection)
            try:
                with about(Step.OTHER, spec.name):
                    ram = await _make_ram(
                        session, spec, memories, progress if running else None, call_timeout, contents=running
                    )
                    for container in spec.container:
                        with within(call_timeout, "the open of a container"):
                            opened = VfioContainer(container.name, await session.open_container())
                        containers.append(opened)
                        await opened.open(session, container, ram, call_timeout)
                    names = {
                        device.name: device.device
                        for container in spec.container
                        for device in container.device
                    }
                    guest = Guest(
                        spec.name,
                        ram,
                        Cpus(_workloads(spec, ram), running=running),
                        containers,
                        DaemonLedger(daemon, session.greeting.daemon_id, names, call_timeout)
                        if names
                        else None,
                        calls,
                    )
                    if running:
                        await _program(spec, guest, containers)
                async with background() as nursery:
                    nursery.start_soon(guest.cpus.run)
                    yield guest
                guest.close()
            finally:
                for opened in containers:
                    opened.close()
    finally:
        for memory in memories:
            close_memory(memory)


async def _make_ram(
    session: client.Session,
    spec: GuestSpec,
    memories: list[client.Memory],
    progress: Callable[[int, int], None] | None,
    call_timeout: float,
    *,
    contents: bool,
) -> list[RamBlock]:
    ram = []
    total = sum(block.npages for block in spec.memory)
    done = 0
    for block in sorted(spec.memory, key=lambda block: block.base):
        name = f"{spec.name}-{block.name}".encode("ascii", "replace").decode()
        with about(Step.RAM, f"memory {block.name}"):
            memory = client.Memory(block.npages * PAGE, name=name)
        memories.append(memory)
        if contents:
            shares = (block.zero, block.text, block.random)
            steps = filling(memory.view, f"{spec.name}-{block.name}-{spec.seed}", shares)
            # Each step in a worker thread, and between two of them somebody may cancel all this.
            while (filled := await trio.to_thread.run_sync(next, steps, None)) is not None:
                if progress is not None:
                    progress((done + filled) * PAGE, total * PAGE)
        done += block.npages
        with about(Step.RAM, f"memory {block.name}"), within(call_timeout, "MEM_SHARE"):
            await session.share_memory(memory)
        ram.append(RamBlock(block.name, block.base, block.npages, memory))
    return ram


def _workloads(spec: GuestSpec, ram: Sequence[RamBlock]) -> list[Workload]:
    blocks = {block.name: block for block in ram}
    workloads = []
    for index, cpu in enumerate(spec.cpu):
        first, npages = spec.area(cpu)
        workloads.append(
            Workload(
                block=blocks[cpu.memory],
                first=first,
                npages=npages,
                rate=cpu.rate,
                pattern=cpu.pattern,
                seed=spec.seed * 1000 + index,
            )
        )
    return workloads


async def _program(spec: GuestSpec, guest: Guest, containers: Sequence[VfioContainer]) -> None:
    blocks = {block.name: block for block in guest.ram}
    seed = spec.seed * 1000
    for container_spec, container in zip(spec.container, containers, strict=True):
        for device_spec, device in zip(container_spec.device, container.devices, strict=True):
            program = device_spec.program
            seed += 1
            await device.driver.begin(seed)
            if program is not None:
                first, npages = spec.area(program)
                base = blocks[program.memory].base + first * PAGE
                await device.driver.program(program, base, npages * PAGE, seed)


def close_memory(memory: client.Memory) -> None:
    """Unmap it; what somebody still has a view of (a traceback that nobody needs any more) is unmapped a moment later."""
    try:
        memory.close()
    except BufferError:
        memory.abandon()
        gc.collect()
