# SPDX-License-Identifier: MIT
"""MSI and MSI-X as the function sends them: writes to memory, which take an enable bit and a bus master.

A vector that is masked sends nothing, sets its pending bit, and sends when it is unmasked (PCI 3.0, 6.8.2.9 and 6.8.3.5).
Linux keeps an entry of the MSI-X table masked for as long as nobody has asked for its interrupt; so a vector without an
eventfd is a masked one. A function that is no bus master just loses what it would have sent.
"""

from collections.abc import Callable
from typing import Final

from vfioemu.core.base.effects import Steps
from vfioemu.core.model.irqs import IrqTable
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.config import ConfigSpace
from vfioemu.uapi import constants as c

MSI: Final = c.VFIO_PCI_MSI_IRQ_INDEX
MSIX: Final = c.VFIO_PCI_MSIX_IRQ_INDEX


class Messages:
    """The messages of a function.

    Args:
        hardware: its config space.
        table: the eventfds.
        may_send: whether it is a bus master.

    Attributes:
        pending: bit n: vector n of MSI-X is pending. Those of MSI are in its capability.
    """

    def __init__(
        self, hardware: ConfigSpace, table: Callable[[], IrqTable], may_send: Callable[[], bool]
    ) -> None:
        self._hardware = hardware
        self._table = table
        self._may_send = may_send
        self.pending = 0

    def enabled(self, index: int | None) -> bool:
        """Tell whether the function uses MSI, or MSI-X, instead of INTx."""
        if index == MSI:
            return bool(self._msi_flags & r.MSI_FLAGS_ENABLE)
        return index == MSIX and bool(self._msix_flags & r.MSIX_FLAGS_ENABLE)

    def send(self, index: int, vector: int) -> Steps[bool]:
        """Send one, or make it pending; False if nobody hears it now."""
        if index == MSI:
            # As many as the guest has allowed, a power of two, share what the function has.
            vector %= 1 << ((self._msi_flags & r.MSI_FLAGS_QSIZE) >> 4)
        elif vector > self._msix_flags & r.MSIX_FLAGS_QSIZE:
            return False  # its table has no such entry, and no pending bit for it
        if self._masked(index, vector):
            self._set_pending(index, self._pending(index) | 1 << vector)
            return False
        if not self._may_send():
            return False
        return (yield from self._table().signal(index, vector))

    def deliver(self, index: int | None) -> Steps[None]:
        """Send what is pending, as masks may have been taken away."""
        if index is None or not self.enabled(index) or not self._may_send():
            return
        pending = self._pending(index)
        for vector in range(pending.bit_length()):
            if pending >> vector & 1 and not self._masked(index, vector):
                self._set_pending(index, self._pending(index) & ~(1 << vector))
                yield from self._table().signal(index, vector)

    def clear(self) -> None:
        """Drop what is pending: the function was reset, or the interrupts were given up."""
        self.pending = 0
        if self._hardware.caps.get(r.CAP_ID_MSI) is not None:
            self._set_pending(MSI, 0)

    def _masked(self, index: int, vector: int) -> bool:
        if index == MSIX:
            return bool(self._msix_flags & r.MSIX_FLAGS_MASKALL) or not self._table().has(MSIX, vector)
        mask = self._mask_register
        return mask is not None and bool(self._hardware.read(mask, 4) >> vector & 1)

    def _pending(self, index: int) -> int:
        if index == MSIX:
            return self.pending
        mask = self._mask_register
        return 0 if mask is None else self._hardware.read(mask + 4, 4)

    def _set_pending(self, index: int, bits: int) -> None:
        if index == MSIX:
            self.pending = bits
        elif (mask := self._mask_register) is not None:
            self._hardware.force(mask + 4, 4, bits)

    @property
    def _mask_register(self) -> int | None:
        """The offset of MSI's mask bits in config space, with the pending ones behind them; None if it has none."""
        flags = self._msi_flags
        if not flags & r.MSI_FLAGS_MASKBIT:
            return None
        return self._hardware.caps[r.CAP_ID_MSI] + (16 if flags & r.MSI_FLAGS_64BIT else 12)

    @property
    def _msi_flags(self) -> int:
        return self._flags(r.CAP_ID_MSI, r.MSI_FLAGS)

    @property
    def _msix_flags(self) -> int:
        return self._flags(r.CAP_ID_MSIX, r.MSIX_FLAGS)

    def _flags(self, cap: int, place: int) -> int:
        at = self._hardware.caps.get(cap)
        return 0 if at is None else self._hardware.read(at + place, 2)
