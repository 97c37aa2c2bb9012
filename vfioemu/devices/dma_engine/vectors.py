# SPDX-License-Identifier: MIT
"""The interrupts of a dma-engine: which were raised, and the level of INTx that follows from it."""

import errno
from typing import Final

from vfioemu.abi.dma_engine import MSIX_VECTORS
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.pci import PciHardware

ALL: Final = (1 << MSIX_VECTORS) - 1


class Vectors:
    """IRQ_STATUS.

    Args:
        hardware: the card, whose interrupts they are.

    Attributes:
        status: bit n: vector n was raised and has not been acknowledged.
    """

    def __init__(self, hardware: PciHardware) -> None:
        self._hardware = hardware
        self.status = 0

    def reset(self) -> None:
        """Reset to the state after power on; the layer below lowers the line."""
        self.status = 0

    def raise_vector(self, vector: int) -> Steps[None]:
        """Raise one, whether anybody hears it or not."""
        self.status |= 1 << vector
        yield from self._hardware.interrupt(vector)

    def acknowledge(self, bits: int) -> Steps[None]:
        """Clear bits of the status; with the last one INTx goes down."""
        self.status &= ~bits
        if not self.status:
            yield from self._hardware.set_intx(False)

    def load(self, status: int) -> None:
        """Go on where another one stopped. Its line is part of the PCI state.

        Raises:
            IoctlError: EINVAL for vectors that there are not.
        """
        if status & ~ALL:
            raise IoctlError(errno.EINVAL, f"IRQ_STATUS cannot be {status:#x}")
        self.status = status
