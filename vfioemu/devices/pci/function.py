# SPDX-License-Identifier: MIT
"""A device model that is a PCI function bound to vfio-pci: drivers/vfio/pci/vfio_pci_core.c.

A model says what it is made of (description.py), has callbacks for its BARs and for its reset, and raises interrupts and
does DMA through what is here. Everything else that vfio-pci does is done here: config space, BARs and their mappings,
interrupts, power states, resets.
"""

import errno
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from vfioemu.core.effects import Buffer, Steps
from vfioemu.core.errors import IoctlError
from vfioemu.core.file import Mapped
from vfioemu.core.irqs import Irq, IrqRequest, IrqTable
from vfioemu.core.model import ABSENT, READ_WRITE, DeviceModel, MaybeSteps, Region, finish
from vfioemu.devices.pci import names, state
from vfioemu.devices.pci import registers as r
from vfioemu.devices.pci.bars import BarAccess
from vfioemu.devices.pci.description import Bar, Function
from vfioemu.devices.pci.hardware import FIRMWARE_COMMAND, ConfigHardware, rom_size
from vfioemu.devices.pci.interrupts import ERR, REQ, Interrupts
from vfioemu.devices.pci.memory import SharedBar
from vfioemu.devices.pci.virtual import VirtualConfig
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import RegionInfoCapSparseMmap, RegionSparseMmapArea

_CONFIG: Final = c.VFIO_PCI_CONFIG_REGION_INDEX
_ROM: Final = c.VFIO_PCI_ROM_REGION_INDEX
_VGA: Final = c.VFIO_PCI_VGA_REGION_INDEX
_READ: Final = c.VFIO_REGION_INFO_FLAG_READ
_MMAP: Final = c.VFIO_REGION_INFO_FLAG_MMAP
_MSIX_MAPPABLE: Final = (c.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, b"")


class PciFunction(DeviceModel):
    """The function; see docs/devices.md for how to write one.

    Args:
        options: of the machine file.
        function: what it is made of.

    Attributes:
        function: the same.
        hardware: its configuration space.
        config: what user space sees of it, while it is open.
        interrupts: of the function.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "mmap": "whether memory BARs can be mapped (default true); what is stored to a mapping reaches no register",
        "host-vectors": "how many MSI or MSI-X vectors the host has to give at a time (default 2048)",
    }

    info_size = 24
    keeps_cap_offset = True
    moves_position = True

    def __init__(self, options: Mapping[str, object], function: Function) -> None:
        super().__init__(options)
        mappable = options.get("mmap", True)
        if not isinstance(mappable, bool):
            raise ValueError(f"mmap: true or false, not {mappable!r}")
        vectors = options.get("host-vectors", 2048)
        if not isinstance(vectors, int) or isinstance(vectors, bool) or not 0 < vectors <= 2048:
            raise ValueError(f"host-vectors: a number from 1 to 2048, not {vectors!r}")
        self.function = function
        self._mappable = mappable
        self.can_reset = function.can_reset
        self.info_flags = c.VFIO_DEVICE_FLAGS_PCI | (c.VFIO_DEVICE_FLAGS_RESET if self.can_reset else 0)
        self.hardware = ConfigHardware(function)
        self.interrupts = Interrupts(function, self.hardware, self, vectors)
        self.config = VirtualConfig(self.hardware, function, self)
        self._bars = BarAccess(function, self._decodes_memory, self.read_bar, self.write_bar)
        self._memory: dict[int, SharedBar] = {}
        self._opened = False
        self._regions = self._describe_regions()

    # --- for models: what to override ---

    def read_bar(self, bar: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read a BAR: `size` is 1, 2 or 4, and `offset` a multiple of it."""
        del bar, offset
        return bytes(size)

    def write_bar(self, bar: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write a BAR: `data` has 1, 2 or 4 bytes, and `offset` is a multiple of that."""
        del bar, offset, data
        return None

    def map_bar(self, bar: int, offset: int, size: int, prot: int) -> MaybeSteps[int | Mapped] | None:
        """Map a BAR: an fd of ours and where the part lies in it (0 for a bare fd); None refuses it with EINVAL."""
        del size, prot
        return Mapped(self.bar_memory(bar).fd, offset)

    def bar_image(self, bar: int) -> bytes:
        """What a mapping of the BAR shows in the beginning; zeros behind it."""
        del bar
        return b""

    def reset_function(self) -> MaybeSteps[None]:
        """Function level reset: registers get their initial values. Config space is not the model's."""
        return None

    def function_opened(self) -> MaybeSteps[None]:
        """The first open, when everything else has been done; IoctlError refuses it."""
        return None

    def function_closed(self) -> MaybeSteps[None]:
        """The last close, before anything else is done."""
        return None

    # --- for models: what to use ---

    @property
    def bus_master(self) -> bool:
        """COMMAND lets the function do DMA, and it has power."""
        return bool(self.hardware.command & r.COMMAND_MASTER) and self.power_state < r.D3HOT

    @property
    def memory_enabled(self) -> bool:
        """COMMAND lets the function decode memory, and it has power: __vfio_pci_memory_enabled()."""
        return bool(self.hardware.command & r.COMMAND_MEMORY) and self.power_state < r.D3HOT

    @property
    def io_enabled(self) -> bool:
        """COMMAND lets the function decode I/O ports."""
        return bool(self.hardware.command & r.COMMAND_IO)

    @property
    def power_state(self) -> int:
        """0 for D0, 3 for D3hot."""
        cap = self.hardware.caps.get(r.CAP_ID_PM)
        return 0 if cap is None else self.hardware.read(cap + r.PM_CTRL, 1) & r.PM_CTRL_STATE

    def interrupt(self, vector: int = 0) -> Steps[bool]:
        """Raise an interrupt through MSI-X, MSI or INTx, whichever is enabled; False if nobody hears it.

        INTx stays asserted until `set_intx(False)`.
        """
        return self.interrupts.raise_vector(vector)

    def set_intx(self, level: bool) -> Steps[None]:
        """Assert the INTx line or take it back."""
        return self.interrupts.set_line(level)

    def raise_error(self) -> Steps[bool]:
        """An uncorrectable error of the function: the ERR interrupt. False if nobody hears it."""
        return self.interrupts.signal(ERR)

    def request_removal(self) -> Steps[bool]:
        """Ask user space to give the function back: the REQ interrupt. False if nobody hears it."""
        return self.interrupts.signal(REQ)

    def dma_read(self, iova: int, size: int) -> Steps[bytes]:
        """Read guest memory; EIO while the function is no bus master, and as `Host.dma_read`."""
        self._check_master(iova)
        return self.host.dma_read(iova, size)

    def dma_write(self, iova: int, data: Buffer) -> Steps[None]:
        """Write guest memory; EIO while the function is no bus master, and as `Host.dma_write`."""
        self._check_master(iova)
        return self.host.dma_write(iova, data)

    def _check_master(self, iova: int) -> None:
        if not self.bus_master:
            raise IoctlError(errno.EIO, f"DMA to {iova:#x}: the function is no bus master")

    def bar_memory(self, bar: int) -> SharedBar:
        """The memory that mappings of a BAR show."""
        memory = self._memory.get(bar)
        if memory is None:
            memory = self._memory[bar] = SharedBar(self.function.bars[bar].size, self.bar_image(bar))
            if not self.memory_enabled:
                memory.revoke()
        return memory

    def save_pci(self) -> bytes:
        """The state of config space and of the INTx line, for migration."""
        return state.save(self.hardware, self.config, line=self.interrupts.line)

    @property
    def pci_state_size(self) -> int:
        """How many bytes `save_pci` gives."""
        return state.size(self.hardware)

    def load_pci(self, data: bytes) -> Steps[None]:
        """Take a state over; an INTx line that is asserted is delivered to whoever listens here.

        Raises:
            StateLost: EINVAL for anything but the state of such a function; nothing has been changed.
        """
        line = state.load(data, self.hardware, self.config)
        self.command_written()
        yield from self.interrupts.set_line(line)

    # --- what it looks like ---

    def matches(self, name: str) -> bool:
        """vfio_pci_core_match(), for a function that has a PCI address; an mdev's name is compared as a whole."""
        return names.match(self.host.name, name)

    def regions(self) -> Sequence[Region | None]:
        """Six BARs, the ROM, config space, no VGA."""
        return self._regions

    def irqs(self) -> Sequence[Irq | None]:
        """INTx, MSI, MSI-X, the error interrupt of PCI Express, the request interrupt."""
        return self.interrupts.irqs()

    @property
    def irq_table(self) -> IrqTable:
        """The eventfds."""
        return self.host.irqs

    def _describe_regions(self) -> tuple[Region | None, ...]:
        """vfio_pci_ioctl_get_region_info()."""
        function = self.function
        bars = [self._describe_bar(i, function.bars.get(i)) for i in range(r.BAR_COUNT)]
        rom = Region(rom_size(function), _READ) if function.rom else ABSENT
        return (*bars, rom, Region(function.config_size, READ_WRITE), None)

    def _describe_bar(self, index: int, bar: Bar | None) -> Region:
        if bar is None:
            return ABSENT
        if not self._mappable or not bar.mappable:
            return Region(bar.size, READ_WRITE)
        caps = []
        if bar.areas is not None:
            areas = b"".join(RegionSparseMmapArea(offset=o, size=s).build() for o, s in bar.areas)
            head = RegionInfoCapSparseMmap(nr_areas=len(bar.areas)).build()[8:]
            caps.append((c.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, head + areas))
        if self.function.msix is not None and self.function.msix.table_bar == index:
            caps.append(_MSIX_MAPPABLE)
        return Region(bar.size, READ_WRITE | _MMAP, tuple(caps))

    # --- life ---

    def open_device(self) -> Steps[None]:
        """vfio_pci_core_enable()."""
        self.hardware.command = (
            self.hardware.command & ~(r.COMMAND_MASTER | r.COMMAND_INTX_DISABLE) | FIRMWARE_COMMAND
        )
        self._set_hardware_power(0)
        if self.can_reset:
            yield from finish(self.reset_function())
        self.config = VirtualConfig(self.hardware, self.function, self)
        self._opened = True
        self.command_written()
        yield from finish(self.function_opened())

    def close_device(self) -> Steps[None]:
        """vfio_pci_core_disable()."""
        yield from finish(self.function_closed())
        self._opened = False
        self._set_hardware_power(0)
        self.interrupts.close()
        self.hardware.command = FIRMWARE_COMMAND
        if self.can_reset:
            yield from finish(self.reset_function())
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()

    def reset(self) -> Steps[None]:
        """vfio_pci_ioctl_reset(): back in D0, config space as it was, registers as at the beginning."""
        yield from self.set_power_state(0)
        yield from self.try_reset_function()

    def try_reset_function(self) -> Steps[None]:
        """pci_try_reset_function(): what config space held is restored afterwards."""
        yield from finish(self.reset_function())
        yield from self.interrupts.set_line(False)

    # --- what config space writes do: virtual.Driver ---

    @property
    def msi_active(self) -> bool:
        """See virtual.Driver."""
        return self.interrupts.active == c.VFIO_PCI_MSI_IRQ_INDEX

    @property
    def msi_qmax(self) -> int:
        """See virtual.Driver."""
        return self.interrupts.msi_qmax

    def command_written(self) -> None:
        """Mappings work while memory is decoded: vfio_pci_zap_and_down_write_memory_lock(), vfio_pci_vmf_insert_pfn()."""
        enabled = self._decodes_memory()
        for memory in self._memory.values():
            if enabled:
                memory.restore()
            else:
                memory.revoke()

    def set_virtual_intx_disable(self, disabled: bool) -> Steps[None]:
        """See virtual.Driver."""
        return self.interrupts.set_virtual_disable(disabled)

    def set_power_state(self, state: int) -> Steps[None]:
        """vfio_pci_set_power_state(): a function without NoSoftRst comes back from D3hot reset, and is restored."""
        power = self.function.power
        if power is None or state in (
            1,
            2,
        ):  # D1 and D2 are not supported: pci_set_power_state() refuses them
            return
        before = self.power_state
        self._set_hardware_power(state)
        if before == r.D3HOT and not state and not power.no_soft_reset:
            yield from self.try_reset_function()
        self.command_written()

    def _set_hardware_power(self, state: int) -> None:
        cap = self.hardware.caps.get(r.CAP_ID_PM)
        if cap is not None:
            control = self.hardware.read(cap + r.PM_CTRL, 1) & ~r.PM_CTRL_STATE
            self.hardware.force(cap + r.PM_CTRL, 1, control | state)

    def _decodes_memory(self) -> bool:
        return self.memory_enabled

    # --- regions ---

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
        """How much of a write is one access."""
        return self.config.piece(offset, left) if index == _CONFIG else self._bars.piece(index, offset, left)

    def accept_write(self, index: int, offset: int, size: int) -> int:
        """What is lost anyway is not even copied."""
        if index == _CONFIG:
            return size if self.config.looks_at_writes(offset) else 0
        return 0 if self._bars.hidden(index, offset, size) else size

    def read_region(self, index: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """BARs, the ROM, config space."""
        if index == _CONFIG:
            return self.config.read(offset, size)
        if index == _ROM:
            self._check_rom()
            return (self.function.rom or b"")[offset : offset + size].ljust(size, b"\xff")
        return self._bars.read(index, offset, size)

    def _check_rom(self) -> None:
        if not self._decodes_memory():
            raise IoctlError(errno.EIO, "the ROM: the function does not decode memory")

    def write_region(self, index: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """One piece."""
        if not data:
            return None
        return self.config.write(offset, data) if index == _CONFIG else self._bars.write(index, offset, data)

    def map_region(self, index: int, offset: int, size: int, prot: int) -> MaybeSteps[int | Mapped] | None:
        """vfio_pci_core_mmap(): memory BARs of a page at least."""
        bar = self.function.bars.get(index)
        if bar is None or not bar.maps(offset, size):
            return None
        return self.map_bar(index, offset, size, prot)

    # --- interrupts ---

    def set_irqs(self, request: IrqRequest) -> Steps[int]:
        """vfio_pci_set_irqs_ioctl()."""
        return self.interrupts.set_irqs(request)
