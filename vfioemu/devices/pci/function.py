# SPDX-License-Identifier: MIT
"""What a device model that is a PCI function is: callbacks to override, and services to use.

A model says what it is made of (description.py). Config space, BARs and their mappings, interrupts, power states and resets
are vfio-pci's (driver.py).
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from vfioemu.core.base.effects import Buffer, MaybeSteps, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.devices.options import OptionTable
from vfioemu.devices.pci import registers as r
from vfioemu.devices.pci import state
from vfioemu.devices.pci.description import Function
from vfioemu.devices.pci.driver import VfioPci
from vfioemu.devices.pci.interrupts import ERR, REQ
from vfioemu.devices.pci.options import PciOptions


class PciFunction(VfioPci):
    """The function; see docs/devices.md for how to write one.

    Args:
        options: of the machine file.
        function: what it is made of.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(PciOptions)

    def __init__(self, options: Mapping[str, object], function: Function) -> None:
        own = PciOptions.parse_own(options)
        located = _locate(function, own.addresses)
        super().__init__(options, located, mappable=own.mmap, host_vectors=own.host_vectors)

    # --- what to override ---

    def read_bar(self, bar: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read a BAR: `size` is 1, 2, 4 or 8, and `offset` a multiple of it."""
        del bar, offset
        return bytes(size)

    def write_bar(self, bar: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write a BAR: `data` has 1, 2, 4 or 8 bytes, and `offset` is a multiple of that."""
        del bar, offset, data
        return None

    def map_bar(self, bar: int, offset: int, size: int, prot: int) -> MaybeSteps[int | Mapped] | None:
        """Map a BAR: an fd of ours and where the part lies in it (a bare fd begins with it); None is EINVAL."""
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

    # --- what to use ---

    @property
    def bus_master(self) -> bool:
        """COMMAND lets the function do DMA, and it has power."""
        enabled = bool(self.hardware.command & r.COMMAND_MASTER)
        return enabled and self.awake and self.power_state < r.D3HOT

    @property
    def sends_messages(self) -> bool:
        """MSI and MSI-X are writes to memory, which only a bus master makes."""
        return self.bus_master

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
        yield from self.command_written()
        yield from self.interrupts.set_line(line)


def _locate(function: Function, addresses: Sequence[int]) -> Function:
    """The function with its BARs at other bus addresses."""
    bars = dict(function.bars)
    for index, place in enumerate(addresses):
        if index not in bars:
            raise ValueError(f"addresses: {place:#x} is for BAR {index}, which the function does not have")
        size = bars[index].size
        if not 0 < place < 1 << 64 or place % size:
            raise ValueError(
                f"addresses: BAR {index} cannot be at {place:#x}: not a multiple of {size:#x} below 2^64"
            )
        bars[index] = replace(bars[index], address=place)
    return replace(function, bars=bars)
