# SPDX-License-Identifier: MIT
"""A card: a PCI function as hardware. A model overrides what its registers do, and uses what the slot gives it.

The card knows no driver. Whoever drives it is the `Slot` in which it is: vfio-pci (vfio_pci/driver.py), which answers user
space, delivers interrupts, and shows the memory of BARs.
"""

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from vfioemu.core.base.effects import Buffer, MaybeSteps, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.model.host import Host
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.config import ConfigSpace
from vfioemu.devices.pci.hardware.description import Function
from vfioemu.devices.pci.hardware.memory import SharedBar


class Slot(Protocol):
    """The slot that a card is plugged into."""

    @property
    def host(self) -> Host:
        """The services of the core: guest memory, interrupts, work."""

    @property
    def awake(self) -> bool:
        """The function has full power, whatever its own power state."""

    def bar_memory(self, bar: int) -> SharedBar:
        """Give the memory that mappings of a BAR show: ENOMEM."""

    def raise_vector(self, vector: int) -> Steps[bool]:
        """Deliver an interrupt; False if nobody hears it."""

    def set_line(self, level: bool) -> Steps[None]:
        """Assert INTx, or take it back."""


class PciHardware:
    """A card; see docs/devices.md for how to write one.

    Args:
        function: what it is made of.

    Attributes:
        function: the same, with the BARs where firmware has put them.
        config: its configuration space.
        slot: where it is; set before any callback runs.
    """

    slot: Slot

    def __init__(self, function: Function) -> None:
        self.function = function
        self.config = ConfigSpace(function)

    # --- what to override ---

    def read_bar(self, bar: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read a BAR: `size` is 1, 2, 4 or 8, and `offset` a multiple of it."""
        return bytes(size)

    def write_bar(self, bar: int, offset: int, data: bytes) -> MaybeSteps[None]:
        """Write a BAR: `data` has 1, 2, 4 or 8 bytes, and `offset` is a multiple of that."""
        return None

    def map_bar(self, bar: int, offset: int, size: int, prot: int) -> MaybeSteps[int | Mapped] | None:
        """Map a BAR: an fd of ours and where the part lies in it (a bare fd begins with it); None is EINVAL."""
        return Mapped(self.bar_memory(bar).fd, offset)

    def bar_image(self, bar: int) -> bytes:
        """Give what a mapping of the BAR shows in the beginning; zeros behind it."""
        return b""

    def reset_function(self) -> MaybeSteps[None]:
        """Give registers their initial values: a function level reset. Config space is not the card's."""
        return None

    def function_opened(self) -> MaybeSteps[None]:
        """Notice the first open, when everything else has been done; IoctlError refuses it."""
        return None

    def function_closed(self) -> MaybeSteps[None]:
        """Notice the last close, before anything else is done."""
        return None

    def work(self, now: float) -> MaybeSteps[float | None]:
        """Do what is due at `now`, and say when to be called again: see `DeviceModel.work`."""
        return None

    # --- what to use ---

    @property
    def host(self) -> Host:
        """The services of the core."""
        return self.slot.host

    def bar_memory(self, bar: int) -> SharedBar:
        """Give the memory that mappings of a BAR show: ENOMEM."""
        return self.slot.bar_memory(bar)

    @property
    def power_state(self) -> int:
        """0 for D0, 3 for D3hot."""
        cap = self.config.caps.get(r.CAP_ID_PM)
        return 0 if cap is None else self.config.read(cap + r.PM_CTRL, 1) & r.PM_CTRL_STATE

    @property
    def memory_enabled(self) -> bool:
        """COMMAND lets the function decode memory, and it has power: __vfio_pci_memory_enabled()."""
        return bool(self.config.command & r.COMMAND_MEMORY) and self.power_state < r.D3HOT

    @property
    def bus_master(self) -> bool:
        """COMMAND lets the function do DMA, and it has power."""
        enabled = bool(self.config.command & r.COMMAND_MASTER)
        return enabled and self.slot.awake and self.power_state < r.D3HOT

    @property
    def may_dma(self) -> bool:
        """It may write to memory, by DMA or by MSI and MSI-X: as a bus master only, unless a card knows better."""
        return self.bus_master

    def interrupt(self, vector: int = 0) -> Steps[bool]:
        """Raise an interrupt through MSI-X, MSI or INTx, whichever is enabled; False if nobody hears it.

        INTx stays asserted until `set_intx(False)`.
        """
        return self.slot.raise_vector(vector)

    def set_intx(self, level: bool) -> Steps[None]:
        """Assert the INTx line or take it back."""
        return self.slot.set_line(level)

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

    # --- what the machine does to it ---

    def place(self, addresses: Sequence[int]) -> None:
        """Put the BARs at other bus addresses, as firmware does; before it is first opened.

        Raises:
            ValueError: there is no such BAR, or it cannot lie there.
        """
        bars = dict(self.function.bars)
        for index, address in enumerate(addresses):
            if index not in bars:
                raise ValueError(
                    f"addresses: {address:#x} is for BAR {index}, which the function does not have"
                )
            size = bars[index].size
            if not 0 < address < 1 << 64 or address % size:
                raise ValueError(
                    f"addresses: BAR {index} cannot be at {address:#x}: not a multiple of {size:#x} below 2^64"
                )
            bars[index] = replace(bars[index], address=address)
        self.function = replace(self.function, bars=bars)
        self.config = ConfigSpace(self.function)

    def force_power_state(self, state: int) -> None:
        """Put the function into D0 (0) or D3hot (3), with nothing else that comes of it."""
        cap = self.config.caps.get(r.CAP_ID_PM)
        if cap is not None:
            control = self.config.read(cap + r.PM_CTRL, 1) & ~r.PM_CTRL_STATE
            self.config.force(cap + r.PM_CTRL, 1, control | state)
