# SPDX-License-Identifier: MIT
"""A device, and the fds that are open on it: what vfio core does around a driver.

Kernel: drivers/vfio/vfio_main.c and group.c. All fds of one device share one opened device: the model's open_device()
runs for the first, close_device() after the last. From first open to last close the device is in the container's list
of devices to tell before an unmap, if it has a dma_unmap callback.

Locks of a device, in the order in which they are taken: `open` (opening and closing), `lock` (interrupts, state,
logging, reset), `activity` (whatever the device does by itself), the session's (bytes of a data fd). The container's
comes after all of them, and whoever holds it takes none of these.
"""

import contextlib
import errno
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from vfioemu.core.base.effects import Buffer, Steps, finish, locked
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PIN_PAGES_MAX, U64_MAX
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.profile import Profile
from vfioemu.core.memory.backend import Backend, IommuGroup
from vfioemu.core.memory.held_pins import HeldPins
from vfioemu.core.model import irqs, observe, regions
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.host import Neighbour
from vfioemu.core.model.observe import Observer
from vfioemu.core.objects.migration import Migration
from vfioemu.core.objects.migration_v1 import MigrationProtocol, RegionsWithMigration
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec

if TYPE_CHECKING:
    from vfioemu.native.dma import DmaBatch
    from vfioemu.native.ledger import WriteLedger
    from vfioemu.native.log import DirtyLog

T = TypeVar("T")


class DeviceGroup(IommuGroup, Protocol):
    """A group, as far as its devices need to know it: where its DMA goes, and who must not be let go while it is open."""

    @property
    def spec(self) -> GroupSpec:
        """Its entry in the machine's description."""

    @property
    def behind_iommu(self) -> bool:
        """Tell whether its DMA goes through an IOMMU; otherwise its driver makes it (vfio_dma_rw())."""

    @property
    def attached(self) -> bool:
        """Tell whether the group is in a container."""

    @property
    def backend(self) -> Backend | None:
        """The IO address space; None before SET_IOMMU."""

    @property
    def profile(self) -> Profile:
        """The kernel release that the container answers as; the machine outside of any."""

    def device_opened(self) -> None:
        """Count a first open, while the backend is there."""

    def device_closed(self) -> Steps[None]:
        """Count a last close, or a first open that failed."""


class Device:
    """One device of a machine; the `host` of its model.

    Args:
        spec: its symbol and name.
        model: what it is.
        group: its group.
        protocol: how it migrates: "v2" (the default, if the model migrates), "v1" or "none".

    Raises:
        ValueError: a protocol is asked for, and the model does not migrate.

    Attributes:
        regions: what regions it has; the model itself, or a layer that adds the migration region of v1.
        all_devices: the devices of its machine, itself among them.
        ledger: where its writes into guest memory are noted for a verification; None: nobody wants to know.
    """

    def __init__(
        self,
        spec: DeviceSpec,
        model: DeviceModel,
        group: DeviceGroup,
        protocol: MigrationProtocol | None = None,
    ) -> None:
        self.spec = spec
        self.model = model
        self.group = group
        self.open_count = 0
        self.irqs = irqs.IrqTable()
        self.pins = HeldPins()
        self.lock = Lock(f"device {spec.symbol}")
        self.on_wake: list[Callable[[], None]] = []
        self.on_closed: list[Callable[[], None]] = []
        self.all_devices: Callable[[], Iterable[Neighbour]] = lambda: (self,)
        self.observer: Observer | None = None
        self.ledger: WriteLedger | None = None
        self._open_lock = Lock(f"opening of device {spec.symbol}")
        self._activity = Lock(f"activity of device {spec.symbol}")
        self.migration = Migration(model, spec.symbol, self._activity)
        self.migration.on_dma = self.wake
        if protocol in ("v1", "v2") and not model.migration_flags:
            raise ValueError(f"device {spec.symbol}: migration {protocol!r} of a model that does not migrate")
        self._protocol: MigrationProtocol = protocol or "v2"
        self._region = RegionsWithMigration(model, self.migration, self.lock) if protocol == "v1" else None
        self.regions: regions.RegionSource = model if self._region is None else self._region
        model.host = self

    @property
    def name(self) -> str:
        """The name that GET_DEVICE_FD expects: an mdev's uuid, a PCI function's address."""
        return self.spec.name

    @property
    def symbol(self) -> str:
        """The name that the machine's owner gave it."""
        return self.spec.symbol

    @property
    def group_number(self) -> int:
        """N of its group's /dev/vfio/N."""
        return self.group.number

    @property
    def profile(self) -> Profile:
        """The kernel release whose answers are given: the container's, or the machine's outside of any container."""
        return self.group.profile

    @property
    def migration_flags(self) -> int:
        """VFIO_MIGRATION_* as VFIO_DEVICE_FEATURE tells them: 0 unless it migrates by v2."""
        return self.model.migration_flags if self._protocol == "v2" else 0

    @property
    def migration_state(self) -> int:
        """Its migration state."""
        return self.migration.state

    @property
    def needs_reset(self) -> bool:
        """Tell whether a reset of its bus is due once all of the bus is closed; see `DeviceModel.needs_reset`."""
        return self.model.needs_reset

    @property
    def npinned(self) -> int:
        """The number of pins (counting repeats) that it holds."""
        return self.pins.count

    @property
    def has_dma_unmap(self) -> bool:
        """Tell whether it is told before mappings go; without that it cannot pin."""
        return self.model.has_dma_unmap

    def matches(self, name: str) -> bool:
        """Tell whether GET_DEVICE_FD with `name` means it; IoctlError is the driver's own refusal (EINVAL, EACCES)."""
        return self.model.matches(name)

    # --- life ---

    def open(self) -> Steps[None]:
        """Count one more open file on the device; `close` counts it off again. Kernel: vfio_device_open_file().

        Raises:
            IoctlError: EINVAL without a container, or without its backend at the first open; the model's.
        """
        # Held over the whole first open: who comes second must not get a device that is half open.
        yield from locked(self._open_lock)
        try:
            if not self.group.attached:
                raise IoctlError(errno.EINVAL, f"group {self.group.number} has no container")
            if self.open_count == 0:
                yield from self._first_open()
            self.open_count += 1
        finally:
            self._open_lock.release()

    def _first_open(self) -> Steps[None]:
        """vfio_df_device_first_open(): use the container, be in its list, then the driver's own."""
        iommu = self.group.backend
        if iommu is None:
            raise IoctlError(
                errno.EINVAL,
                f"group {self.group.number}: its container has no IOMMU yet, VFIO_SET_IOMMU comes first",
            )
        self.group.device_opened()
        if self.has_dma_unmap:
            yield from iommu.register_device(self)
        try:
            yield from finish(self.model.open_device())
        except IoctlError:
            if self.has_dma_unmap:
                yield from iommu.unregister_device(self)
            # GET_DEVICE_FD holds the group's lock, which the last reference to the group's file would take again. This is
            # never the last: the ioctl itself has one.
            yield from self.group.device_closed()
            raise

    def close(self) -> Steps[None]:
        """vfio_df_close(): one file fewer; after the last one everything is as before the first."""
        # Held over the whole last close: who opens meanwhile waits, and then gets the first open that comes after it.
        yield from locked(self._open_lock)
        try:
            last = self.open_count == 1
            if last:
                yield from self._last_close()
            self.open_count -= 1
        finally:
            self._open_lock.release()
        # With none of our locks: the last reference takes the group's, which comes before them.
        if last:
            yield from self.group.device_closed()
            yield from finish(self.model.closed())
            for call in self.on_closed:
                call()

    def reset_if_closed(self) -> Steps[None]:
        """Reset the device by its bus, unless somebody has opened it meanwhile."""
        # Whoever opens it during the reset waits for the end, and has a device that was reset.
        yield from locked(self._open_lock)
        try:
            if not self.open_count:
                yield from self.reset_by_bus()
        finally:
            self._open_lock.release()

    def raise_error(self) -> Steps[bool]:
        """Raise an error as the device's hardware reports it; False if nobody hears it."""
        return (yield from finish(self.model.raise_error()))

    def request_removal(self) -> Steps[bool]:
        """Ask whoever has it open to give it back; False if nobody hears it."""
        return (yield from finish(self.model.request_removal()))

    def _last_close(self) -> Steps[None]:
        """vfio_df_device_last_close(), with what drivers do in close_device() to the things that are kept here."""
        # First whoever changes interrupts, state or log has to be done, then the work that the device does by itself: it would
        # go on with pins, interrupts and a stream that are taken back here.
        yield from locked(self.lock)
        try:
            yield from locked(self._activity)
            try:
                yield from self._close_model()
                self.irqs.drop()
                if self.model.quirks.keeps_migration_state and self._region is None:
                    yield from self.migration.end_session()
                else:
                    yield from self.migration.reset()
                self.migration.set_info_v2(False)
                if self._region is not None:
                    self._region.close()
            finally:
                self._activity.release()
        finally:
            self.lock.release()
        # Both take the container's lock. First the pins, then the list of devices to tell: an UNMAP_DMA in between has to
        # find the device for as long as it holds pins.
        yield from self.unpin_range(0, U64_MAX + 1)
        iommu = self.group.backend
        if iommu is not None and self.has_dma_unmap:
            yield from iommu.unregister_device(self)

    def _close_model(self) -> Steps[None]:
        """Close the driver's part. A close cannot be refused: the model leaves behind what it can no longer reach."""
        with contextlib.suppress(IoctlError):
            yield from finish(self.model.close_device())
        if self.model.has_dma_logging:
            with contextlib.suppress(IoctlError):
                yield from finish(self.model.log_stop())

    def reset(self) -> Steps[int]:
        """VFIO_DEVICE_RESET: EINVAL for a device that has none; waits for a state change that is under way."""
        if not self.model.can_reset:
            raise IoctlError(errno.EINVAL, f"device {self.symbol} cannot be reset")
        yield from self.reset_by_bus()
        return 0

    def reset_by_bus(self) -> Steps[None]:
        """Reset the device without asking whether it can be reset by itself."""
        # As at the last close: no change of state, and no work of the device, goes on from before the reset to after it.
        yield from locked(self.lock)
        try:
            yield from locked(self._activity)
            try:
                yield from self.migration.reset()
                if self._region is not None:
                    self._region.reset()
                yield from finish(self.model.reset())
            finally:
                self._activity.release()
        finally:
            self.lock.release()

    def work(self, now: float) -> Steps[float | None]:
        """Let the device do what it does by itself, if its migration state lets it do DMA.

        Returns:
            When to call again, in monotonic seconds, or None: not before it calls its `on_wake`.
        """
        return (yield from self.active(self._work(now)))

    def _work(self, now: float) -> Steps[float | None]:
        return (yield from finish(self.model.work(now)))

    def active(self, steps: Steps[T], *, dma: bool = True) -> Steps[T | None]:
        """Run `steps` unless the device is stopped or closed; see `Host.active`."""
        # An arc takes it: when it ends, no DMA is under way that began before. So whether the device may is asked under it.
        yield from locked(self._activity)
        try:
            allowed = self.migration.may_dma if dma else self.migration.runs
            if not self.open_count or not allowed:
                steps.close()
                return None
            return (yield from steps)
        finally:
            self._activity.release()

    def between_activities(self, steps: Steps[T]) -> Steps[T]:
        """Run `steps` while the device does nothing, whatever its state: nothing that has begun before ends after them."""
        yield from locked(self._activity)
        try:
            return (yield from steps)
        finally:
            self._activity.release()

    def observe(self, observer: Observer | None) -> None:
        """Tell `observer` what happens here from now on; None: nobody."""
        self.observer = observer
        self.migration.on_state = (
            None if observer is None else lambda old, new: observer.state(self.symbol, old, new)
        )

    def wake(self) -> None:
        """Ask for a call of the model's `work`."""
        for call in self.on_wake:
            call()

    def dma_unmap(self, iova: int, size: int) -> Steps[None]:
        """Tell the model that a mapping with pins goes away (called with the container's lock dropped)."""
        yield from finish(self.model.dma_unmap(iova, size))

    def pins_taken(self, iova: int, size: int) -> None:
        """Forget pins whose mapping was removed by force, so that they are not given back a second time."""
        for _ in self.pins.take_range(iova, iova + size - 1):
            pass

    def signal_irq(self, index: int, subindex: int) -> Steps[bool]:
        """Raise an interrupt; False when no eventfd is set for it."""
        heard = yield from self.irqs.signal(index, subindex)
        if self.observer is not None:
            self.observer.interrupt(self.symbol, index, subindex, heard)
        return heard

    # --- guest memory: vfio_main.c's own checks, then the container's backend ---

    def pin(self, iova: int, npages: int, prot: int) -> Steps[int]:
        """vfio_pin_pages(); see `Host.pin`."""
        if not npages or not self.open_count or not self.has_dma_unmap:
            raise IoctlError(errno.EINVAL, f"{npages} pages, or {self.symbol} is not open or cannot pin")
        if not 0 < npages <= PIN_PAGES_MAX:  # vfio_device_container_pin_pages() compares unsigned
            raise IoctlError(errno.E2BIG, f"{npages} pages at once, at most {PIN_PAGES_MAX}")
        pinned = yield from self._backend().pin_pages(self, iova, npages, prot)
        self.pins.add(iova, pinned)
        if self.observer is not None:
            observe.pinned(self.observer, self.symbol, iova, pinned, prot)
        return pinned

    def unpin(self, iova: int, npages: int) -> Steps[int]:
        """vfio_unpin_pages() for those of the pages that the device holds; see `Host.unpin`."""
        self._backend()
        return (yield from self._unpin(self.pins.take_pages(iova, npages)))

    def unpin_range(self, iova: int, size: int) -> Steps[None]:
        """Give back every pin in [iova, iova+size); see `Host.unpin_range`."""
        last = min(iova + size - 1, U64_MAX)
        while (yield from self._unpin(self.pins.take_range(iova, last))):
            pass  # until none has come meanwhile

    def _unpin(self, runs: Iterable[tuple[int, int]]) -> Steps[int]:
        """Give them back one by one: they may be millions, and others are served in between."""
        total = 0
        for iova, npages in runs:
            yield from self._backend().unpin_pages(self, iova, npages)
            total += npages
        return total

    def rw_read(self, iova: int, size: int) -> Steps[bytes]:
        """vfio_dma_rw(); see `Host.rw_read`."""
        if not size or not self.open_count:
            raise IoctlError(errno.EINVAL, f"{size} bytes, or {self.symbol} is not open")
        return (yield from self._backend().rw_read(iova, size))

    def rw_write(self, iova: int, data: Buffer) -> Steps[None]:
        """vfio_dma_rw(); see `Host.rw_write`."""
        if not len(data) or not self.open_count:
            raise IoctlError(errno.EINVAL, f"{len(data)} bytes, or {self.symbol} is not open")
        iommu = self._backend()
        self._about_to_write(iova, data)
        try:
            yield from iommu.rw_write(iova, data)
        finally:
            self._wrote(iova, data)
        if self.observer is not None:
            self.observer.dirtied(self.symbol, [(iova, len(data))], "dma_rw")

    # --- DMA: through the IOMMU, or where there is none, as the driver makes it instead ---

    def dma_read(self, iova: int, size: int) -> Steps[bytes]:
        """Read guest memory for the device; see `Host.dma_read`."""
        if not self.group.behind_iommu:
            return (yield from self.rw_read(iova, size))
        return (yield from self._hardware().dma_read(iova, size))

    def dma_write(self, iova: int, data: Buffer) -> Steps[None]:
        """Write guest memory for the device; see `Host.dma_write`."""
        if not self.group.behind_iommu:
            yield from self.rw_write(iova, data)
            return
        iommu = self._hardware()
        self._about_to_write(iova, data)
        try:
            yield from iommu.dma_write(iova, data)
        finally:
            self._wrote(iova, data)
        if self.observer is not None:
            self.observer.dirtied(self.symbol, [(iova, len(data))], "by hardware")

    def dma_batch(self, batch: "DmaBatch", log: "DirtyLog | None" = None) -> Steps[int]:
        """Many transfers in one C call; see `Host.dma_batch`."""
        if not self.open_count:
            raise IoctlError(errno.EINVAL, f"{self.symbol} is not open")
        behind = self.group.behind_iommu
        iommu = self._hardware() if behind else self._backend()
        if self.ledger is not None:
            self.ledger.begin_batch(batch)
        try:
            done = yield from (iommu.dma_batch if behind else iommu.rw_batch)(batch, log)
        finally:
            if self.ledger is not None:
                self.ledger.note_batch(batch, stopped=not self.migration.runs)
        if self.observer is not None:
            observe.batch(self.observer, self.symbol, batch)
        return done

    # Every write of every model passes one of the three above, whatever it is made with, so here it is noted for a
    # verification. Twice: after the write, so that whoever has read the ledger before it finds it the next time; and before
    # the write, because it may wait for the client in its middle, and the last reading has to see that, too. The state is the one
    # in which the write ends: a device that is stopped meanwhile has written late.

    def _about_to_write(self, iova: int, data: Buffer) -> None:
        if self.ledger is not None:
            self.ledger.begin(iova, memoryview(data).nbytes)

    def _wrote(self, iova: int, data: Buffer) -> None:
        if self.ledger is not None:
            self.ledger.note(iova, memoryview(data).nbytes, stopped=not self.migration.runs)

    def _hardware(self) -> Backend:
        """Return the backend that translates its DMA. An open device is always in a container, so there is one."""
        iommu = self.group.backend
        if iommu is None or not self.open_count:
            raise IoctlError(errno.EFAULT, f"IOMMU fault: {self.symbol} is in no container, or not open")
        return iommu

    def _backend(self) -> Backend:
        iommu = self.group.backend
        if iommu is None:
            raise IoctlError(errno.ENOTTY, "the container has no IOMMU backend")
        return iommu
