# SPDX-License-Identifier: MIT
"""vfio-pci around a function: what drivers/vfio/pci/vfio_pci_core.c does, whatever the function is.

Everything of DeviceModel but migration and DMA logging is answered here. What the function itself does is the card's
(hardware/card.py), which the driver holds.
"""

import contextlib
import errno
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from vfioemu.core.base.effects import Breathe, MaybeSteps, Steps, finish, read_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.irqs import Irq, IrqRequest, take_eventfd
from vfioemu.core.model.quirks import DriverQuirks
from vfioemu.core.model.regions import ABSENT, PIECE, READ_WRITE, Region
from vfioemu.devices.options import OptionTable
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.config import FIRMWARE_COMMAND, rom_size
from vfioemu.devices.pci.hardware.description import Bar, Function
from vfioemu.devices.pci.hardware.memory import SharedBar
from vfioemu.devices.pci.vfio_pci import dmabuf, hotreset, names, state
from vfioemu.devices.pci.vfio_pci.bars import BarAccess
from vfioemu.devices.pci.vfio_pci.interrupts import ERR, REQ, Interrupts
from vfioemu.devices.pci.vfio_pci.ioeventfd import IoEventFds
from vfioemu.devices.pci.vfio_pci.mappable import mappable_bars
from vfioemu.devices.pci.vfio_pci.options import PciOptions
from vfioemu.devices.pci.vfio_pci.power import LowPower
from vfioemu.devices.pci.vfio_pci.virtual import VirtualConfig
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import (
    DeviceLowPowerEntryWithWakeup,
    RegionInfoCapSparseMmap,
    RegionSparseMmapArea,
)

_CONFIG: Final = c.VFIO_PCI_CONFIG_REGION_INDEX
_ROM: Final = c.VFIO_PCI_ROM_REGION_INDEX
_READ: Final = c.VFIO_REGION_INFO_FLAG_READ
_MMAP: Final = c.VFIO_REGION_INFO_FLAG_MMAP
_MSIX_MAPPABLE: Final = (c.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, b"")
_CAP_HEADER: Final = 8
_LOW_POWER: Final = frozenset(
    {
        c.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
        c.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
        c.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    }
)


class VfioPci(DeviceModel):
    """A card that is bound to vfio-pci. A driver that adds migration or DMA logging, as variant drivers do, derives from it.

    Args:
        options: of the machine file; this layer takes those of `PciOptions`.
        hardware: the card.

    Attributes:
        hardware: the card that it drives.
        config: what user space sees of the card's config space, while it is open.
        interrupts: of the card.
        bars: access to its BARs.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(PciOptions)

    quirks = DriverQuirks(info_size=24, keeps_cap_offset=True, moves_position=True)

    def __init__(self, options: Mapping[str, object], hardware: PciHardware) -> None:
        super().__init__(options)
        own = PciOptions.parse_own(options)
        hardware.place(own.addresses)
        hardware.slot = self
        self.hardware = hardware
        function = hardware.function
        self.can_reset = function.can_reset
        self.info_flags = c.VFIO_DEVICE_FLAGS_PCI | (c.VFIO_DEVICE_FLAGS_RESET if self.can_reset else 0)
        self.interrupts = Interrupts(hardware, lambda: self.host.irqs, own.host_vectors)
        self.config = VirtualConfig(hardware.config, function, self)
        self.bars = BarAccess(hardware, self.interrupts.messages)
        self.power = self._low_power = LowPower(self)
        self._ioeventfds = IoEventFds(hardware, self.bars)
        self._memory: dict[int, SharedBar] = {}
        self._token = bytes(16)
        self._mappable = mappable_bars(function, hardware.config.addresses) if own.mmap else frozenset()
        self._regions = self._describe_regions()

    # --- what it looks like ---

    def matches(self, name: str) -> bool:
        """vfio_pci_core_match(), for a function that has a PCI address; an mdev's name is compared as a whole."""
        token = names.match(self.host.name, name, takes_token=self._is_physical)
        if token:
            self._token = token
        return token is not None

    @property
    def _is_physical(self) -> bool:
        """It could have virtual functions, so there is a token for whoever uses them."""
        return any(cap.id == r.EXT_CAP_ID_SRIOV for cap in self.hardware.function.extended)

    def regions(self) -> Sequence[Region | None]:
        """Return six BARs, the ROM, config space, no VGA."""
        return self._regions

    def irqs(self) -> Sequence[Irq | None]:
        """Return INTx, MSI, MSI-X, the error interrupt of PCI Express, the request interrupt."""
        return self.interrupts.irqs()

    def _describe_regions(self) -> tuple[Region | None, ...]:
        """vfio_pci_ioctl_get_region_info()."""
        function = self.hardware.function
        bars = [_describe_bar(function, i, i in self._mappable) for i in range(r.BAR_COUNT)]
        rom = Region(rom_size(function), _READ) if function.rom else ABSENT
        return (*bars, rom, Region(function.config_size, READ_WRITE), None)

    # --- life ---

    def open_device(self) -> Steps[None]:
        """vfio_pci_core_enable(): decoding on, bus mastering off, a reset, a new copy of config space."""
        self.hardware.config.command = FIRMWARE_COMMAND
        self.hardware.force_power_state(0)
        if self.can_reset:
            yield from finish(self.hardware.reset_function())
        self.config = VirtualConfig(self.hardware.config, self.hardware.function, self)
        yield from self.command_written()
        yield from finish(self.hardware.function_opened())

    def close_device(self) -> Steps[None]:
        """vfio_pci_core_disable(): a close cannot be refused."""
        with contextlib.suppress(IoctlError):
            yield from finish(self.hardware.function_closed())
        self._low_power.close()
        self.hardware.force_power_state(0)
        self._ioeventfds.close()
        self.interrupts.close()
        self.hardware.config.command = FIRMWARE_COMMAND
        if self.can_reset:
            yield from finish(self.hardware.reset_function())
            yield from self.interrupts.set_line(False)
        self.needs_reset = not self.can_reset
        # Others are served meanwhile: whoever reaches a BAR by /sys gets memory of his own, and never what is on its way out.
        gone, self._memory = self._memory, {}
        for memory in gone.values():
            while memory.release():
                yield Breathe()
            yield Breathe()

    def closed(self) -> Steps[None]:
        """Reset the bus if that is due: the rest of vfio_pci_core_disable()."""
        return hotreset.after_close(self.host.name, self.host.all_devices())

    def reset(self) -> Steps[None]:
        """vfio_pci_ioctl_reset(): back in D0, config space as it was, registers as at the beginning."""
        yield from self.set_power_state(0)
        yield from self.try_reset_function()

    def try_reset_function(self) -> Steps[None]:
        """pci_try_reset_function(): what config space held is restored afterwards."""
        yield from finish(self.hardware.reset_function())
        self.needs_reset = False
        self.interrupts.messages.clear()
        yield from self.interrupts.set_line(False)

    def work(self, now: float) -> MaybeSteps[float | None]:
        """Do the work of the card itself; return when to be called again, in the seconds of `now`, or None."""
        return self.hardware.work(now)

    # --- what the card is given: hardware.card.Slot ---

    def raise_vector(self, vector: int) -> Steps[bool]:
        """See hardware.card.Slot."""
        return self.interrupts.raise_vector(vector)

    def set_line(self, level: bool) -> Steps[None]:
        """See hardware.card.Slot."""
        return self.interrupts.set_line(level)

    def raise_error(self) -> Steps[bool]:
        """Signal ERR, for an uncorrectable error of the function. False if nobody hears it."""
        return self.interrupts.signal(ERR)

    def request_removal(self) -> Steps[bool]:
        """Ask user space to give the function back: the REQ interrupt. False if nobody hears it."""
        return self.interrupts.signal(REQ)

    # --- the state of config space, for drivers that migrate it ---

    def save_pci(self) -> bytes:
        """Pack the state of config space and of the INTx line, for migration."""
        return state.save(self.hardware.config, self.config, line=self.interrupts.line)

    @property
    def pci_state_size(self) -> int:
        """The number of bytes that `save_pci` gives."""
        return state.size(self.hardware.config)

    def load_pci(self, data: bytes) -> Steps[None]:
        """Take a state over; an INTx line that is asserted is delivered to whoever listens here.

        Raises:
            StateLost: EINVAL for anything but the state of such a function; nothing has been changed.
        """
        line = state.load(data, self.hardware.config, self.config)
        yield from self.command_written()
        yield from self.interrupts.set_line(line)

    # --- power ---

    def set_power_state(self, state: int) -> Steps[None]:
        """vfio_pci_set_power_state(): a function without NoSoftRst comes back from D3hot reset, and is restored."""
        power = self.hardware.function.power
        if power is None or state in (
            1,
            2,
        ):  # D1 and D2 are not supported: pci_set_power_state() refuses them
            return
        before = self.hardware.power_state
        self.hardware.force_power_state(state)
        if before == r.D3HOT and not state and not power.no_soft_reset:
            yield from self.try_reset_function()
        yield from self.command_written()

    @property
    def awake(self) -> bool:
        """See hardware.card.Slot."""
        return not self._low_power.engaged

    # --- what config space writes do: virtual.Driver ---

    @property
    def msi_active(self) -> bool:
        """See virtual.Driver."""
        return self.interrupts.active == c.VFIO_PCI_MSI_IRQ_INDEX

    @property
    def msi_qmax(self) -> int:
        """See virtual.Driver."""
        return self.interrupts.msi_qmax

    def command_written(self) -> Steps[None]:
        """Let mappings work while memory is decoded: vfio_pci_zap_and_down_write_memory_lock(), vfio_pci_vmf_insert_pfn()."""
        for memory in list(self._memory.values()):
            while self._adjust(memory):  # which may have to go the other way by now
                yield Breathe()

    def _adjust(self, memory: SharedBar) -> bool:
        return memory.move(shown=self.hardware.memory_enabled and not self._low_power.engaged)

    def set_virtual_intx_disable(self, disabled: bool) -> Steps[None]:
        """See virtual.Driver. It comes with every write to COMMAND, which may have made the function a bus master."""
        yield from self.interrupts.set_virtual_disable(disabled)
        yield from self.interrupts.deliver()

    def messages_changed(self) -> Steps[None]:
        """See virtual.Driver."""
        return self.interrupts.deliver()

    # --- regions ---

    def bar_memory(self, bar: int) -> SharedBar:
        """Return the memory that mappings of a BAR show, and make it at the first call: ENOMEM."""
        memory = self._memory.get(bar)
        if memory is None:
            try:
                memory = SharedBar(self.hardware.function.bars[bar].size, self.hardware.bar_image(bar))
            except OSError as error:
                raise IoctlError(errno.ENOMEM, f"memory of BAR {bar}: {error.strerror}") from error
            self._memory[bar] = memory
            while self._adjust(memory):
                pass
        return memory

    def clip_access(self, index: int, offset: int, size: int, *, write: bool) -> int:
        """vfio_pci_rw(): nothing is always there, config space is there as a whole, a BAR as far as it goes.

        Raises:
            IoctlError: EINVAL, and EFAULT for what leaves config space.
        """
        if not size:
            return 0
        if index == _CONFIG:
            self.config.piece(offset, size)
            return size
        region = self._regions[index] if index < len(self._regions) else None
        if region is None or offset >= region.size or (write and index == _ROM):
            raise IoctlError(errno.EINVAL, f"{'write' if write else 'read'} at {offset:#x} of region {index}")
        return min(size, region.size - offset)

    def next_piece(self, index: int, offset: int, left: int) -> int:
        """Return the bytes of a write that are one access, and no more than what is taken from the caller at once."""
        left = min(left, PIECE)
        return self.config.piece(offset, left) if index == _CONFIG else self.bars.piece(index, offset, left)

    def unit(self, index: int, offset: int, left: int) -> int:
        """Return the bytes that the kernel copies at a time: config space has been cut so already."""
        if index == _CONFIG:
            return self.config.piece(offset, left)
        return left if index == _ROM else self.bars.unit(index, offset, left)

    def reads_show(self, index: int) -> bool:
        """Tell whether registers may change when they are read."""
        return index in self.hardware.function.bars and self.bars.reads_show(index)

    def accept_write(self, index: int, offset: int, size: int) -> int:
        """Return the bytes of a write to take from the caller: none of what is lost anyway."""
        if index == _CONFIG:
            return size if self.config.looks_at_writes(offset) else 0
        return 0 if self.bars.hidden(index, offset, size) else size

    def read_region(self, index: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read BARs, the ROM, config space."""
        if index == _CONFIG:
            return self.config.read(offset, size)
        return self._read_rom(offset, size) if index == _ROM else self.bars.read(index, offset, size)

    def _read_rom(self, offset: int, size: int) -> bytes:
        """vfio_pci_bar_rw() maps the ROM at each read, and pci_map_rom() wants to see its signature then: ENOMEM."""
        if not self.hardware.memory_enabled:
            raise IoctlError(
                errno.ENOMEM, "no signature of a ROM is to be seen: the function does not decode memory"
            )
        return (self.hardware.function.rom or b"")[offset : offset + size].ljust(size, b"\xff")

    def write_region(self, index: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write one piece."""
        if not data:
            return None
        return self.config.write(offset, data) if index == _CONFIG else self.bars.write(index, offset, data)

    def map_region(self, index: int, offset: int, size: int, prot: int) -> MaybeSteps[int | Mapped] | None:
        """vfio_pci_core_mmap(): whole pages, even of a BAR that is smaller than one."""
        if index not in self._mappable or not self.hardware.function.bars[index].maps(offset, size):
            return None
        return self.hardware.map_bar(index, offset, size, prot)

    def maps_registers(self, index: int, offset: int, size: int) -> bool:
        """Tell whether a mapping hides registers, which are the model's no more."""
        bar = self.hardware.function.bars.get(index)
        return bar is not None and bar.has_registers(offset, size)

    # --- ioctls and features ---

    def set_irqs(self, request: IrqRequest) -> Steps[int]:
        """vfio_pci_set_irqs_ioctl()."""
        return self.interrupts.set_irqs(request)

    def ioctl(self, cmd: int, arg: int) -> Steps[int]:
        """vfio_pci_core_ioctl(): hot resets and IOEVENTFD, for functions that are on a bus."""
        if names.parse(self.host.name) is None:
            return super().ioctl(cmd, arg)
        if cmd == c.VFIO_DEVICE_IOEVENTFD:
            return self._ioeventfds.ioctl(arg)
        serve = hotreset.info if cmd == c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO else hotreset.reset
        return serve(self.host.name, self.host.all_devices(), arg)

    def has_feature(self, number: int) -> bool:
        """vfio_pci_core_ioctl_feature()."""
        if number == c.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN:
            return self._is_physical
        return number in _LOW_POWER or number == c.VFIO_DEVICE_FEATURE_DMA_BUF

    def feature(self, number: int, arg: int, size: int) -> Steps[int]:
        """Answer a feature: low power mode, DMA buffers, the token of virtual functions."""
        if number == c.VFIO_DEVICE_FEATURE_DMA_BUF:
            return (yield from dmabuf.get(self.hardware.function.bars, self.hardware.config.addresses, arg))
        if number == c.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN:
            self._token = yield from read_user(arg, len(self._token))
            return 0
        if number == c.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
            yield from self._low_power.leave()
        elif number == c.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
            yield from self._low_power.enter(None)
        else:
            data = yield from read_user(arg, DeviceLowPowerEntryWithWakeup.SIZE)
            number = DeviceLowPowerEntryWithWakeup.parse(data).wakeup_eventfd
            if number < 0:
                raise IoctlError(errno.EINVAL, f"wakeup_eventfd {number} is no eventfd")
            yield from self._low_power.enter((yield from take_eventfd(number)))
        return 0


def _describe_bar(function: Function, index: int, mappable: bool) -> Region:
    bar: Bar | None = function.bars.get(index)
    if bar is None:
        return ABSENT
    if not mappable:
        return Region(bar.size, READ_WRITE)
    caps = []
    if bar.areas is not None:
        areas = b"".join(RegionSparseMmapArea(offset=o, size=s).build() for o, s in bar.areas)
        head = RegionInfoCapSparseMmap(nr_areas=len(bar.areas)).build()[_CAP_HEADER:]
        caps.append((c.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, head + areas))
    if function.msix is not None and function.msix.table_bar == index:
        caps.append(_MSIX_MAPPABLE)
    return Region(bar.size, READ_WRITE | _MMAP, tuple(caps))
