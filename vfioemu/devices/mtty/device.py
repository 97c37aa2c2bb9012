# SPDX-License-Identifier: MIT
"""The mtty itself: regions, interrupts, migration.

Answers are those of the kernel's sample driver, samples/vfio-mdev/mtty.c, quirks included:

* GET_IRQ_INFO and SET_IRQS are EINVAL until GET_INFO has been called once in the device's life (mtty_ioctl).
* RESET resets the migration state and nothing else, and GET_INFO does not tell that there is one (mtty_reset).
* What the device is, its migration state included, stays over its last close; only sessions end (mtty_close).
* Accesses look at no region's size, go in pieces, and fail with EFAULT (mtty_read, mtty_write; core/files/pieces.py).
* DMA logging can be started as often as one likes, and never reports anything (mtty_log_start).

INTx is a level here, as on a real card: when it is unmasked, enabled, or has come with a migration while a port still has
something to tell, it is raised (and masked) again. The sample raises it at events only, and a driver that is busy when
one happens waits for ever. MSI is raised at events.
"""

import errno
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from vfioemu.core.base.effects import MaybeSteps, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.irqs import Irq, IrqRequest, take_eventfd
from vfioemu.core.model.quirks import DriverQuirks
from vfioemu.core.model.regions import READ_WRITE, Region
from vfioemu.core.model.streams import (
    RESUMING,
    RUNNING_STATES,
    SAVING_STATES,
    STOP_COPY,
    ResumingStream,
    SavingStream,
)
from vfioemu.devices.mtty import config, migrate
from vfioemu.devices.mtty.uart import REGISTERS, Uart
from vfioemu.devices.options import Options, OptionTable
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import DeviceInfo

_INTX: Final = c.VFIO_PCI_INTX_IRQ_INDEX
_MSI: Final = c.VFIO_PCI_MSI_IRQ_INDEX
_CONFIG: Final = c.VFIO_PCI_CONFIG_REGION_INDEX
_BARS: Final = 6
_U16: Final = 0xFFFF


class MttyOptions(Options, frozen=True):
    """The options of a mtty."""

    ports: Annotated[Literal[1, 2], Meta(description="how many serial ports it has")] = 1
    info_known: Annotated[
        bool, Meta(description="whether somebody has called GET_INFO already (true for recorded traces)")
    ] = False


class Mtty(DeviceModel):
    """A PCI serial card of one or two ports that are looped back: the kernel's mtty sample, quirks included."""

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(MttyOptions)

    BUS = "mdev"  # as the kernel's mtty is

    info_flags = c.VFIO_DEVICE_FLAGS_PCI
    quirks = DriverQuirks(
        keeps_cap_offset=True,
        moves_position=True,
        keeps_migration_state=True,
        pieces_below=1 << 24,  # of every region, those included that do not exist
    )
    migration_flags = c.VFIO_MIGRATION_STOP_COPY | c.VFIO_MIGRATION_P2P | c.VFIO_MIGRATION_PRE_COPY
    tells_p2p = True  # it does no DMA
    has_dma_logging = True

    def __init__(self, options: Mapping[str, object]) -> None:
        own = MttyOptions.parse(options)
        super().__init__(options)
        self._ports = own.ports
        self._uarts = [Uart(), Uart()]  # the sample has two, however many are shown
        self._config = config.ConfigSpace(self._ports)
        self._info_known = own.info_known
        self._masked = False
        self._arrived = False  # with a migration: interrupts that were under way are lost
        self._saving: migrate.MttySaving | None = None
        self._resuming: migrate.MttyResuming | None = None

    def regions(self) -> Sequence[Region]:
        """mtty_get_region_info(): BAR 0, BAR 1 with two ports, the config space; all can be read and written."""
        return _REGIONS[self._ports]

    # --- interrupts ---

    def irqs(self) -> Sequence[Irq | None]:
        """Return INTx and MSI, one each."""
        return _IRQS

    def info(self, argsz: int, num_regions: int) -> DeviceInfo:
        """mtty_get_device_info(): the driver remembers that it has told what it has."""
        self._info_known = True
        return super().info(argsz, num_regions)

    def irq_info(self, index: int) -> Irq | None:
        """mtty_get_irq_info()."""
        return super().irq_info(index) if self._info_known else None

    def irq_limit(self, index: int) -> int:
        """Return the number of indices, where SET_IRQS means the number of vectors: mtty_ioctl() passes num_irqs."""
        return len(_IRQS) if self._info_known else 0

    def set_irqs(self, request: IrqRequest) -> Steps[None]:
        """mtty_set_irqs(): INTx or MSI, one at a time; without exactly one action nothing happens."""
        if request.index not in (_INTX, _MSI):
            raise IoctlError(
                errno.ENOTTY,
                f"index {request.index}: the driver has no handler for action {request.action:#x}",
            )
        if request.action in (c.VFIO_IRQ_SET_ACTION_MASK, c.VFIO_IRQ_SET_ACTION_UNMASK):
            yield from self._set_mask(request)
        elif request.action == c.VFIO_IRQ_SET_ACTION_TRIGGER:
            yield from self._set_trigger(request)

    def _set_mask(self, request: IrqRequest) -> Steps[None]:
        if request.index == _MSI:
            raise IoctlError(errno.ENOTTY, f"index {request.index}: MSI cannot be masked")
        if not self._enabled(_INTX) or (request.start, request.count) != (0, 1):
            raise IoctlError(
                errno.EINVAL,
                f"index {request.index}: INTx is off, or start {request.start} + count {request.count} is not 0 + 1",
            )
        if request.flags & c.VFIO_IRQ_SET_DATA_EVENTFD:
            raise IoctlError(errno.ENOTTY, f"flags {request.flags:#x}: INTx cannot be masked by an eventfd")
        if request.flags & c.VFIO_IRQ_SET_DATA_NONE or request.data[0]:
            self._masked = request.action == c.VFIO_IRQ_SET_ACTION_MASK
        yield from self._raise_if_pending()

    def _set_trigger(self, request: IrqRequest) -> Steps[None]:
        index = request.index
        if self._enabled(index) and request.turns_off:
            self._disable(index)
            return
        if self._enabled(_MSI if index == _INTX else _INTX):
            raise IoctlError(errno.EINVAL, f"index {index}: the other interrupt is on")
        if (request.start, request.count) != (0, 1):
            raise IoctlError(
                errno.EINVAL,
                f"start {request.start} + count {request.count}: index {request.index} has one vector",
            )
        if request.flags & c.VFIO_IRQ_SET_DATA_EVENTFD:
            self._disable(index)
            self.host.irqs.replace(index, 0, (yield from take_eventfd(request.fds()[0])))
            yield from self._raise_if_pending()
        elif not self._enabled(index):
            raise IoctlError(errno.EINVAL, f"index {index} is off")
        elif request.flags & c.VFIO_IRQ_SET_DATA_NONE or request.data[0]:
            yield from self._raise()

    def _enabled(self, index: int) -> bool:
        return self.host.irqs.has(index, 0)

    def _disable(self, index: int) -> None:
        """mtty_disable_intx(), mtty_disable_msi()."""
        if index == _INTX and self._enabled(_INTX):
            self._masked = False
        self.host.irqs.drop(index)

    def _raise(self) -> Steps[None]:
        """mtty_trigger_interrupt(): INTx is masked by being raised."""
        if self._enabled(_MSI):
            yield from self.host.signal_irq(_MSI, 0)
        elif self._enabled(_INTX) and not self._masked:
            self._masked = True
            self._arrived = False
            yield from self.host.signal_irq(_INTX, 0)

    def _raise_if_pending(self) -> Steps[None]:
        """Raise INTx if it is pending: it is a level, see the module. A stopped device keeps it for later."""
        if self.host.migration_state in RUNNING_STATES:
            yield from self._raise_level()

    def _raise_level(self) -> Steps[None]:
        if not self._enabled(_INTX) or self._masked:
            return
        if self._arrived or any(uart.pending for uart in self._uarts[: self._ports]):
            yield from self._raise()

    # --- regions: mdev_access(), in pieces of up to four bytes ---

    def read_region(self, index: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read a piece of a region: mdev_access(); EINVAL (which becomes EFAULT) for a region that does not exist."""
        if index == _CONFIG:
            return self._config.read(offset, size)
        uart, register = self._register(index, offset)
        if uart is None:
            return bytes(size)
        value, event = uart.read(register)
        data = value.to_bytes(size, "little")  # a register has one byte, however many are asked for
        steps = self._after(uart, event)
        return data if steps is None else self._then(steps, data)

    def _then(self, steps: Steps[None], data: bytes) -> Steps[bytes]:
        yield from steps
        return data

    def _after(self, uart: Uart, event: bool) -> Steps[None] | None:
        """Return the steps that an access makes the interrupt take; mostly None."""
        if event:
            return self._raise()
        if uart.pending and not self._masked and self._enabled(_INTX):
            return self._raise_if_pending()
        return None

    def write_region(self, index: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write a piece of a region, of which the first byte counts: mdev_access(). Errnos as `read_region`."""
        if index == _CONFIG:
            self._config.write(offset & _U16, data)
            return None
        uart, register = self._register(index, offset)
        if uart is None:
            return None
        return self._after(uart, uart.write(register, data[0]))

    def _register(self, index: int, offset: int) -> tuple[Uart | None, int]:
        """Find the port and its register; no port where the sample finds nothing, or memory that is not its own."""
        if index >= _BARS:
            raise IoctlError(errno.EINVAL, f"region {index} cannot be accessed")
        register = offset & _U16
        uart = self._uarts[index] if index < len(self._uarts) and register < REGISTERS else None
        return uart, register

    # --- life ---

    def close_device(self) -> None:
        """mtty_close(): sessions and interrupts end; the core does most of it."""
        self._end_sessions()
        self._masked = False

    def reset(self) -> None:
        """mtty_reset(): sessions end, with the migration state, and nothing else changes."""
        self._end_sessions()

    # --- migration ---

    def arc(self, current: int, target: int) -> MaybeSteps[SavingStream | ResumingStream | None]:
        """mtty_step_state()."""
        stream = self._step(current, target)
        if target in RUNNING_STATES and current not in RUNNING_STATES:
            return self._wake_up()
        return stream

    def _step(self, current: int, target: int) -> SavingStream | ResumingStream | None:
        if current == RESUMING:
            self._load()
            self._end_sessions()
        elif current in SAVING_STATES and target not in SAVING_STATES:
            self._end_sessions()
        elif target == RESUMING:
            self._resuming = migrate.MttyResuming(self._ports)
            return self._resuming
        elif target in SAVING_STATES and (current not in SAVING_STATES or target == STOP_COPY):
            return self._save(target)
        return None

    def _save(self, target: int) -> SavingStream | None:
        """mtty_save_device_data(): begin a stream, unless one goes on; stopped, its ports are known.

        A device that was closed in pre-copy is still in it when it is opened again, but its stream has gone.
        """
        begun = None
        if self._saving is None:
            begun = self._saving = migrate.MttySaving(self._ports, lambda: self.host.migration_state)
        if target == STOP_COPY:
            self._uarts[0].unused = self._config.interrupt_line
            self._saving.stop(b"".join(uart.save() for uart in self._uarts[: self._ports]))
        return begun

    def _load(self) -> None:
        """mtty_load_state(). Where a stream went with a close, the kernel follows a null pointer; here it is too short."""
        resuming = self._resuming
        if resuming is None:
            raise IoctlError(errno.EINVAL, "the stream to load went with the last close")
        self._uarts[: self._ports] = [Uart.load(port) for port in resuming.ports()]
        self._config.interrupt_line = self._uarts[0].unused
        self._arrived = any(uart.in_use for uart in self._uarts[: self._ports])

    def _wake_up(self) -> Steps[None]:
        yield from self._raise_level()

    def _end_sessions(self) -> None:
        """mtty_disable_files()."""
        if self._resuming is not None:
            self._resuming.end()
        self._saving = self._resuming = None

    def stop_copy_size(self) -> int:
        """mtty_get_data_size()."""
        return migrate.data_size(self._ports)

    # --- DMA logging: it does no DMA ---

    def log_start(self, page_size: int, ranges: Sequence[LogRange]) -> int:
        """mtty_log_start(): whatever is asked for."""
        return page_size

    def log_report(self, iova: int, length: int, sink: DirtySink) -> None:
        """mtty_log_read_and_clear(): nothing, whether logging was started or not."""


_NONE: Final = Region(0, READ_WRITE)
_BAR: Final = Region(REGISTERS, READ_WRITE)
_REGIONS: Final = {
    ports: (*[_BAR] * ports, *[_NONE] * (_CONFIG - ports), Region(config.SIZE, READ_WRITE), _NONE)
    for ports in (1, 2)
}
_EVENTFD: Final = c.VFIO_IRQ_INFO_EVENTFD
_IRQS: Final = (
    Irq(1, _EVENTFD | c.VFIO_IRQ_INFO_MASKABLE | c.VFIO_IRQ_INFO_AUTOMASKED),
    Irq(1, _EVENTFD | c.VFIO_IRQ_INFO_NORESIZE),
    None,
    None,
    None,
)
