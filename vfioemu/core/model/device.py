# SPDX-License-Identifier: MIT
"""The device API: what a device model provides, and what vfio core gives it.

A model is what a vendor driver and its hardware are together. It is a subclass of `DeviceModel` with callbacks, each
a plain function or a generator of effects (`Steps`); `core/objects/device.py` supplies everything that vfio core supplies in
the kernel. A model reaches guest memory only through `self.host` (pin, unpin, dma_read, dma_write, dma_batch, rw_read, rw_write), so it
cannot forget to mark a page dirty.

Models are found by name through the entry-point group ``vfioemu.devices``; docs/devices.md has a complete example.

When callbacks run: all of them between the device's first open and its last close, but for `regions`, `irqs` and
`matches`. Between two yields nothing else runs. Migration arcs, logging, `set_irqs` and `reset` exclude one another;
`work`, arcs, `reset` and `close_device` exclude one another as well, so that a device which has been stopped has no
DMA in flight. Region accesses and `dma_unmap` may run at any yield of any other callback.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeAlias

from vfioemu.core.base.effects import MaybeSteps, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange
from vfioemu.core.model import regions
from vfioemu.core.model.host import Host
from vfioemu.core.model.irqs import Irq, IrqRequest, trigger_irqs
from vfioemu.core.model.power import FULL_POWER, RuntimePower
from vfioemu.core.model.quirks import PLAIN, DriverQuirks
from vfioemu.core.model.regions import Region
from vfioemu.core.model.streams import ResumingStream, SavingStream
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import DeviceInfo


class DeviceModel:
    """A device. Subclass it, and override what the device has.

    Args:
        options: the `options` table of the machine file; raise ValueError for what makes no sense.

    Attributes:
        host: what the core offers; set before any callback runs.
        info_flags: VFIO_DEVICE_FLAGS_* of GET_INFO.
        quirks: how the driver answers where drivers differ: a driver's affair, not a device's.
        can_reset: VFIO_DEVICE_RESET works; otherwise it is EINVAL.
        migration_flags: VFIO_MIGRATION_*; 0 is a device without migration (the features are ENOTTY).
        has_dma_logging: the DMA logging features exist (ENOTTY otherwise).
        BUS: where a device of this model is unless somebody says otherwise: "pci", or "mdev" for a mediated device.
        tells_p2p: it tells DMA to other devices from all other DMA, and begins none in the P2P states by itself, or it
            never does DMA. Without that, the core lets it do no DMA at all in those states.
        needs_reset: it was used since it was last reset, and could not be reset when it was closed; a reset of its bus can.
        power: its runtime power management; without any of its own it always has full power.
        OPTIONS: option names and what they mean, for people.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = {}
    BUS: ClassVar[str] = "pci"

    host: Host
    info_flags: int = c.VFIO_DEVICE_FLAGS_PCI | c.VFIO_DEVICE_FLAGS_RESET
    quirks: DriverQuirks = PLAIN
    can_reset: bool = True
    migration_flags: int = 0
    has_dma_logging: bool = False
    tells_p2p: bool = False
    needs_reset: bool = False
    power: RuntimePower = FULL_POWER

    def __init__(self, options: Mapping[str, object]) -> None:
        if unknown := set(options) - set(self.OPTIONS):
            raise ValueError(f"no such option: {', '.join(sorted(unknown))}")

    @property
    def has_dma_unmap(self) -> bool:
        """Tell whether the device has a dma_unmap callback: without it, it cannot pin (vfio_pin_pages: EINVAL)."""
        return type(self).dma_unmap is not DeviceModel.dma_unmap

    # --- what it looks like ---

    def matches(self, name: str) -> bool:
        """Tell whether GET_DEVICE_FD with `name` means this device; IoctlError EINVAL for options it does not know.

        Kernel: vfio_device_get_from_name(): exact comparison, unless the driver has a match callback.
        """
        return name == self.host.name

    def regions(self) -> Sequence[Region | None]:
        """Return the regions by index; None, like an index beyond the end, is EINVAL in GET_REGION_INFO."""
        return ()

    def irqs(self) -> Sequence[Irq | None]:
        """Return the interrupts by index; None, like an index beyond the end, is EINVAL in GET_IRQ_INFO."""
        return ()

    def irq_info(self, index: int) -> Irq | None:
        """Return the answer of GET_IRQ_INFO for an index; None is EINVAL."""
        irqs = self.irqs()
        return irqs[index] if index < len(irqs) else None

    def irq_limit(self, index: int) -> int:
        """Return the number of vectors of an index that SET_IRQS lets pass: those that GET_IRQ_INFO tells of."""
        irqs = self.irqs()
        irq = irqs[index] if index < len(irqs) else None
        return irq.count if irq else 0

    def info(self, argsz: int, num_regions: int) -> DeviceInfo:
        """Answer VFIO_DEVICE_GET_INFO, whose argsz was checked.

        Args:
            argsz: what the caller said; it is told again.
            num_regions: the regions of the device, with one for migration v1 if it has that.
        """
        return DeviceInfo(
            argsz=argsz, flags=self.info_flags, num_regions=num_regions, num_irqs=len(self.irqs())
        )

    # --- life ---

    def open_device(self) -> MaybeSteps[None]:
        """Bring the device into its initial state, at the first open. IoctlError refuses the open."""
        return None

    def close_device(self) -> MaybeSteps[None]:
        """Stop everything, at the last close. The core takes back pins, interrupts, logging and data fds."""
        return None

    def closed(self) -> MaybeSteps[None]:
        """Look after other devices of the machine: the last close is over, and they are not held up."""
        return None

    def raise_error(self) -> MaybeSteps[bool]:
        """Tell user space of an error that the device cannot get over by itself; False if nobody hears it."""
        return False

    def request_removal(self) -> MaybeSteps[bool]:
        """Ask user space to give the device back (vfio_device_ops.request); False if nobody hears it."""
        return False

    def reset(self) -> MaybeSteps[None]:
        """VFIO_DEVICE_RESET; the migration state is RUNNING again, sessions are ended by the core."""
        return None

    def work(self, now: float) -> MaybeSteps[float | None]:
        """Do what the device does by itself and is due at `now` (monotonic seconds).

        Called only while the migration state lets the device do DMA. Do a bounded amount and return.

        Returns:
            When to be called again (`now` for at once), or None: not before `host.wake()`.
        """
        return None

    def inspect(self, what: str, arguments: Mapping[str, object]) -> object:
        """Answer a question of the device's makers on the control socket, open or not, with numbers, texts, lists, dicts.

        Raises:
            KeyError: it has nothing of that name to tell.
            ValueError: the arguments make no sense.
        """
        raise KeyError(what)

    # --- regions ---

    def clip_access(self, index: int, offset: int, size: int, *, write: bool) -> int:
        """Return how many bytes of a read or write the region has: 0 for an access that does nothing; IoctlError refuses."""
        return regions.clip_access(self, index, offset, size, write=write)

    def next_piece(self, index: int, offset: int, left: int) -> int:
        """Return the number of bytes of a write that are taken from the caller, and written, before the next are."""
        return min(left, regions.PIECE)

    def unit(self, index: int, offset: int, left: int) -> int:
        """Return how many bytes the driver copies from or to the caller at a time; this decides what a fault leaves."""
        return left

    def reads_show(self, index: int) -> bool:
        """Tell whether reading a region changes anything, so that nothing may be read that the caller cannot get."""
        return False

    def accept_write(self, index: int, offset: int, size: int) -> int:
        """Return the number of bytes of a write to copy from the caller, decided before any is; IoctlError refuses it.

        Less than `size` is for regions whose contents do not matter: the write counts as done in full.
        """
        return size

    def read_region(self, index: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read; [offset, offset+size) lies in the region. Fewer bytes are a short read."""
        raise NotImplementedError

    def write_region(self, index: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write; what is written lies in the region."""
        raise NotImplementedError

    def map_region(self, index: int, offset: int, size: int, prot: int) -> MaybeSteps[int | Mapped] | None:
        """mmap(MAP_SHARED): an fd of this process whose pages show what is at `offset` of the region.

        A bare fd shows it from its beginning. None, the default, is EINVAL.
        """
        return None

    def maps_registers(self, index: int, offset: int, size: int) -> bool:
        """Tell whether that part of a region, if it is mapped, would be registers in hardware, and is memory here."""
        return False

    # --- interrupts ---

    def set_irqs(self, request: IrqRequest) -> MaybeSteps[int | None]:
        """VFIO_DEVICE_SET_IRQS with a valid header: the ioctl's result, None for 0.

        By default eventfds are set and triggered, nothing is masked.
        """
        return trigger_irqs(self.host.irqs, request)

    # --- what only some drivers have ---

    def ioctl(self, cmd: int, arg: int) -> Steps[int]:
        """Answer an ioctl of <linux/vfio.h> that vfio core leaves to the driver: hot resets, IOEVENTFD. Default: ENOTTY."""
        yield from ()
        raise IoctlError(errno.ENOTTY, f"the driver has no ioctl {cmd:#x}")

    def has_feature(self, number: int) -> bool:
        """Tell whether the driver has a feature of its own (no migration, no DMA logging) that its kernel release has."""
        return False

    def feature(self, number: int, arg: int, size: int) -> MaybeSteps[int | None]:
        """GET or SET such a feature: its payload is at `arg`, and so long; the ioctl's result, None for 0."""
        raise NotImplementedError

    # --- memory ---

    def dma_unmap(self, iova: int, size: int) -> MaybeSteps[None]:
        """Give back every pin in [iova, iova+size) before returning: a mapping with pins goes away.

        Every open device of the container is told, whether the pins are its own or not, with the container's lock
        dropped. Kernel: vfio_notify_dma_unmap().
        """
        return None

    # --- migration (migration_flags) ---

    def arc(self, current: int, target: int) -> MaybeSteps[SavingStream | ResumingStream | None]:
        """Make one arc of the migration state machine; core/objects/migration.py has the table.

        Returns:
            The stream of the new session for the arcs that begin one, None for all others.

        Raises:
            IoctlError: the arc failed, the state stays.
            StateLost: the arc failed and the device can hold no valid state: it is in ERROR until it is reset.
        """
        return None

    def stop_copy_size(self) -> int:
        """MIG_DATA_SIZE: how much a stop-copy stream would have, about."""
        return 0

    # --- DMA logging (has_dma_logging) ---

    def log_start(self, page_size: int, ranges: Sequence[LogRange]) -> MaybeSteps[int]:
        """Begin to log DMA writes to `ranges` (ascending); returns the page size that the device chose.

        Raises:
            IoctlError: EINVAL when it logs already, or what the device cannot do.
        """
        raise NotImplementedError

    def log_stop(self) -> MaybeSteps[None]:
        """End logging; nothing happens if it is off. Also called at the last close."""
        return None

    def log_report(self, iova: int, length: int, sink: DirtySink) -> MaybeSteps[None]:
        """Put what was written in [iova, iova+length) into `sink`, and forget it.

        Raises:
            IoctlError: EINVAL when logging is off, EIO.
        """
        raise NotImplementedError


Factory: TypeAlias = Callable[[Mapping[str, object]], DeviceModel]
"""Makes a model from its options: a DeviceModel subclass is one."""
