# SPDX-License-Identifier: MIT
"""A guest without a guest: RAM, CPUs that dirty it, and devices behind containers.

What a device and a container have to offer is declared here as protocols; vfio.py implements them over emulated fds
of a daemon, and tests over nothing at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vfioemu.migration.actions import Target, TargetKind
from vfioemu.migration.cpus import Cpus
from vfioemu.migration.deadlines import Calls, DaemonSilent
from vfioemu.migration.device_writes import DeviceWrites
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.guestspec import ProgramSpec
from vfioemu.migration.ledger import Ledger
from vfioemu.migration.messages import BlockGeometry, DeviceGeometry, DeviceView, Setup
from vfioemu.migration.plan import Block, ContainerPlan, DevicePlan, Plan, Reason, Tracker
from vfioemu.migration.ram import RamBlock
from vfioemu.migration.stream import MAX_DETAIL
from vfioemu.printable import printable
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_RUNNING

FOUR_GIB = 1 << 32
UNKNOWN_STATE: Final = 100 << 30
"""QEMU's VFIO_MIG_STOP_COPY_SIZE: a device that cannot tell its size must not make the downtime look short."""


class GuestError(Exception):
    """A call to the daemon failed.

    Args:
        reason: what the migration makes of it.
        detail: which call on what.
        errno: verbatim.
        call: the call, for programs.
    """

    def __init__(
        self, reason: Reason, detail: str, errno: int | None = None, call: FailedCall | None = None
    ) -> None:
        detail = printable(detail, MAX_DETAIL)
        super().__init__(reason, detail, errno, call)
        self.reason = reason
        self.detail = detail
        self.errno = errno
        self.call = call

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class GuestDriver(Protocol):
    """What a guest knows of one of its devices beyond VFIO: all that depends on a model is here, and comes from workload/.

    Methods raise OSError with the errno of the call that failed.
    """

    async def program(self, program: ProgramSpec, base: int, size: int, seed: int) -> None:
        """Have it write [base, base+size) by DMA, by itself; BuildError if it cannot."""

    async def begin(self, seed: int) -> None:
        """Use it as a driver does that has found it, in a guest that runs; BuildError if that fails."""

    async def registers(self) -> dict[str, str]:
        """Read the registers that have to be the same on both sides, by name, as hexadecimal text, while it stands still.

        Without any, they are said to be not compared.
        """

    async def writes(self) -> int:
        """Count the DMA writes that it has made; 0 if they are not known."""

    async def writer(self) -> int | None:
        """Read by which number its stamps name it; None if it leaves none."""


class GuestDevice(Protocol):
    """A device, as a VMM uses it. Every method raises OSError with the errno of the call that failed."""

    @property
    def name(self) -> str:
        """How the guest file calls it."""

    @property
    def migration(self) -> int:
        """VFIO_MIGRATION_* flags, 0 without migration."""

    @property
    def logging(self) -> bool:
        """It can log its DMA."""

    async def get_state(self) -> int:
        """VFIO_DEVICE_STATE_*."""

    async def set_state(self, state: int) -> None:
        """MIG_DEVICE_STATE; keeps the data fd that it may give."""

    async def reset(self) -> None:
        """DEVICE_RESET."""

    async def read_state(self, size: int) -> bytes | None:
        """Read the saving fd; empty at its end, None when there is nothing for now (ENOMSG)."""

    async def read_own(self, size: int) -> bytes | None:
        """Read the saving fd as `read_state` does, but nothing behind the device's own state."""

    async def views(self) -> list[DeviceView]:
        """Read what it shows through VFIO, while it stands still."""

    async def write_state(self, data: bytes | bytearray) -> None:
        """Write the resuming fd."""

    async def pending(self) -> int:
        """Return the sum of the initial and dirty bytes of PRECOPY_INFO."""

    async def stop_copy_size(self) -> int:
        """MIG_DATA_SIZE; UNKNOWN_STATE if it has none."""

    async def start_logging(self, ranges: Sequence[tuple[int, int]]) -> None:
        """DMA_LOGGING_START."""

    async def stop_logging(self) -> None:
        """DMA_LOGGING_STOP."""

    async def report(self, iova: int, size: int, bitmap: bytearray) -> None:
        """DMA_LOGGING_REPORT: OR what was written into `bitmap`."""

    @property
    def driver(self) -> GuestDriver:
        """What the guest runs on it."""


class GuestContainer(Protocol):
    """A container with its devices. Methods raise OSError."""

    @property
    def name(self) -> str:
        """How the guest file calls it."""

    @property
    def devices(self) -> Sequence[GuestDevice]:
        """Its devices."""

    @property
    def dirty_pages(self) -> bool:
        """GET_INFO has the migration capability with 4 KiB pages."""

    async def start_dirty(self) -> None:
        """DIRTY_PAGES START."""

    async def stop_dirty(self) -> None:
        """DIRTY_PAGES STOP."""

    async def dirty_bitmap(self, iova: int, size: int, bitmap: bytearray) -> None:
        """DIRTY_PAGES GET_BITMAP into `bitmap`, which is overwritten."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a sync found.

    Attributes:
        pages: dirty pages now.
        dirtied: how many the sync added.
        sizes: what each device says that a stop-copy stream would have (MIG_DATA_SIZE), in bytes.
        states: bytes that each device still has to send, what is left of pre-copy included.
    """

    pages: int
    dirtied: int
    sizes: dict[str, int]
    states: dict[str, int]

    @property
    def device_bytes(self) -> int:
        """Bytes that all devices still have to send."""
        return sum(self.states.values())

    @property
    def largest(self) -> str:
        """The device that has most of it; empty without devices."""
        return max(self.states, key=self.states.__getitem__, default="")


def logging_ranges(blocks: Sequence[RamBlock]) -> list[tuple[int, int]]:
    """Return what a device is asked to log: one range below 4 GiB and one above, from the first to the last byte of RAM.

    QEMU: vfio_dirty_tracking_update_range(); a block that straddles 4 GiB belongs to the upper range as a whole.
    """
    ranges = []
    for upper in (False, True):
        members = [block for block in blocks if (block.base + block.size > FOUR_GIB) == upper]
        if members:
            begin = min(block.base for block in members)
            ranges.append((begin, max(block.base + block.size for block in members) - begin))
    return ranges


class Guest:
    """Everything that is migrated.

    Attributes:
        name: for people.
        ram: its RAM blocks, ascending.
        cpus: its CPUs.
        containers: its containers.
        devices: every device by name, in the order of the containers.
        device_writes: the ledger that the daemon keeps of what its devices write; None if nobody keeps one.
        calls: those to its daemon.
    """

    def __init__(
        self,
        name: str,
        ram: Sequence[RamBlock],
        cpus: Cpus,
        containers: Sequence[GuestContainer],
        device_writes: DeviceWrites | None = None,
        calls: Calls | None = None,
    ) -> None:
        self.name = name
        self.ram = ram
        self.cpus = cpus
        self.containers = containers
        self.calls = calls or Calls()
        self.devices: Mapping[str, GuestDevice] = {
            device.name: device for container in containers for device in container.devices
        }
        self.device_writes = device_writes
        self._trackers: dict[str, Tracker] = {}

    def ledger(self) -> Ledger:
        """Make a ledger of all that is written; it is not begun."""
        return Ledger(self.ram, self.device_writes, list(self.devices))

    @property
    def size(self) -> int:
        """Bytes of RAM."""
        return sum(block.size for block in self.ram)

    @property
    def pages(self) -> int:
        """Pages that have to be sent."""
        return sum(len(block.pending) for block in self.ram)

    def setup(self) -> Setup:
        """Its shape, for the destination to agree to."""
        return Setup(
            blocks=[
                BlockGeometry(name=block.name, base=block.base, npages=block.npages) for block in self.ram
            ],
            devices=[
                DeviceGeometry(name=name, migration=device.migration) for name, device in self.devices.items()
            ],
            cpus=len(self.cpus.cpus),
        )

    async def plan(self, *, verify: bool) -> Plan:
        """Tell the engine what it has to know of the guest."""
        containers = []
        for container in self.containers:
            devices = [
                DevicePlan(
                    name=device.name,
                    migration=device.migration,
                    logging=device.logging,
                    running=not device.migration or await device.get_state() == VFIO_DEVICE_STATE_RUNNING,
                )
                for device in container.devices
            ]
            containers.append(
                ContainerPlan(name=container.name, devices=tuple(devices), dirty_pages=container.dirty_pages)
            )
        self._trackers = {container.name: container.tracker for container in containers}
        blocks = tuple(Block(name=block.name, npages=block.npages) for block in self.ram)
        return Plan(blocks=blocks, containers=tuple(containers), verify=verify)

    def fill_bitmaps(self) -> None:
        """Every page has to be sent."""
        for block in self.ram:
            block.pending.fill()
            block.sums.clear()  # of an earlier migration

    async def start_tracking(self, target: Target) -> None:
        """Switch a tracker on."""
        try:
            match target.kind:
                case TargetKind.CPU:
                    for block in self.ram:
                        block.log.clear()
                        block.logging = True
                case TargetKind.CONTAINER:
                    await self._container(target.name).start_dirty()
                case TargetKind.DEVICE:
                    await self.devices[target.name].start_logging(logging_ranges(self.ram))
        except OSError as error:
            what = f"start of dirty tracking on {target.name}"
            raise _failed(Reason.TRACKING_START_FAILED, what, error, _device(target)) from error

    async def stop_tracking(self, target: Target) -> None:
        """Switch a tracker off."""
        try:
            match target.kind:
                case TargetKind.CPU:
                    for block in self.ram:
                        block.logging = False
                case TargetKind.CONTAINER:
                    await self._container(target.name).stop_dirty()
                case TargetKind.DEVICE:
                    await self.devices[target.name].stop_logging()
        except OSError as error:
            what = f"stop of dirty tracking on {target.name}"
            raise _failed(Reason.DEVICE_ERROR, what, error, _device(target)) from error

    async def sync(self, dry: Collection[str] = ()) -> SyncResult:
        """Read and clear every log, and ask how large the states of the devices are.

        Args:
            dry: devices that have nothing to send for now, whatever their PRECOPY_INFO says.
        """
        added = 0
        for block in self.ram:
            added += block.harvest_log()
            for container in self.containers:
                added += await self._sync_container(container, block)
        sizes, states = {}, {}
        for name, device in self.devices.items():
            try:
                sizes[name] = await device.stop_copy_size()
                states[name] = sizes[name] + (await device.pending() if name not in dry else 0)
            except OSError as error:
                raise _failed(Reason.DEVICE_ERROR, f"size of the state of {name}", error, name) from error
        return SyncResult(self.pages, added, sizes, states)

    async def _sync_container(self, container: GuestContainer, block: RamBlock) -> int:
        tracker = self._trackers[container.name]
        if tracker is Tracker.NONE:
            return 0
        if tracker is Tracker.ALL_DIRTY:
            return block.pending.merge_all()
        bitmap = bytearray(block.bitmap_size)
        where = container.name
        try:
            if tracker is Tracker.CONTAINER:
                await container.dirty_bitmap(block.base, block.size, bitmap)
            else:
                for device in container.devices:
                    where = device.name
                    await device.report(block.base, block.size, bitmap)
        except OSError as error:
            # After any error the log may be incomplete; going on would lose writes.
            what = f"dirty log of {where}, iova {block.base:#x}, size {block.size:#x}"
            whose = None if tracker is Tracker.CONTAINER else where
            area = (block.base, block.size)
            raise _failed(Reason.TRACKING_SYNC_FAILED, what, error, whose, area) from error
        return block.pending.merge(bitmap)

    def _container(self, name: str) -> GuestContainer:
        return next(container for container in self.containers if container.name == name)

    def close(self) -> None:
        """Give up bitmaps."""
        for block in self.ram:
            block.close()


def _device(target: Target) -> str | None:
    return target.name if target.kind is TargetKind.DEVICE else None


def _failed(
    reason: Reason,
    what: str,
    error: OSError,
    device: str | None = None,
    area: tuple[int, int] | None = None,
) -> GuestError:
    call = FailedCall.of(error, device, area)
    if isinstance(error, DaemonSilent):
        reason = Reason.DAEMON_SILENT
    return GuestError(reason, f"{what}: {error.strerror or error}", error.errno, call)
