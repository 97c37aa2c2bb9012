# SPDX-License-Identifier: MIT
"""`nvme`: an NVM Express controller as QEMU's device of that name shows itself through vfio-pci.

Config space, BAR, capabilities and interrupts are complete. Of the controller there are the registers of the NVM Express
base specification 1.4: capabilities, enabling and shutdown. It has no queues: doorbells are accepted and ignored.
BAR 0 holds the registers, the doorbells from 0x1000, the MSI-X table at 0x2000 and its pending bits at 0x3000.
"""

from collections.abc import Mapping
from typing import Final

from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.description import Bar, Express, Function, MsiX, PowerManagement
from vfioemu.devices.pci.hardware.registers import EXP_TYPE_RC_END
from vfioemu.devices.pci.vfio_pci.driver import VfioPci

CAP: Final = 0x00
VS: Final = 0x08
INTMS: Final = 0x0C
INTMC: Final = 0x10
CC: Final = 0x14
CC_EN: Final = 1
CC_SHN: Final = 0xC000
CSTS: Final = 0x1C
CSTS_RDY: Final = 1
CSTS_SHUT_DOWN: Final = 0x8
AQA: Final = 0x24
ASQ: Final = 0x28
ACQ: Final = 0x30

_CAPABILITIES: Final = 0x00401820_0F0107FF
"""2048 entries, contiguous queues, 7.5 s to get ready; NVM, other and no I/O command sets; pages of 4 KiB to 64 KiB."""
_VERSION: Final = 0x00010400
_WRITABLE: Final[Mapping[int, int]] = {
    CC: 0x00FFFFF1,
    AQA: 0x0FFF0FFF,
    ASQ: 0xFFFFF000,
    ASQ + 4: 0xFFFFFFFF,
    ACQ: 0xFFFFF000,
    ACQ + 4: 0xFFFFFFFF,
}

DESCRIPTION: Final = Function(
    vendor=0x1B36,
    device=0x0010,
    class_code=0x010802,
    revision=0x02,
    subsystem=(0x1AF4, 0x1100),
    interrupt_pin=1,
    interrupt_line=10,
    bars={0: Bar(0x4000, kind="mem64", registers=0x2000, address=0xC000000000)},
    capabilities=(
        MsiX(65, table_offset=0x2000, pba_offset=0x3000, at=0x40),
        Express(flr=True, type=EXP_TYPE_RC_END, devcap2=0x300000, at=0x80),
        PowerManagement(no_soft_reset=True, at=0x60),
    ),
)


class NvmeCard(PciHardware):
    """The card."""

    def __init__(self) -> None:
        super().__init__(DESCRIPTION)
        self._values: dict[int, int] = {}
        self.reset_function()

    def reset_function(self) -> None:
        """Reset the registers; the controller is disabled."""
        self._values = {
            CAP: _CAPABILITIES & 0xFFFFFFFF,
            CAP + 4: _CAPABILITIES >> 32,
            VS: _VERSION,
            INTMS: 0,
            CSTS: 0,
            **dict.fromkeys(_WRITABLE, 0),
        }

    def bar_image(self, bar: int) -> bytes:
        """Return the registers, the first 0x40 bytes."""
        return b"".join(self.read_bar(bar, offset, 4) for offset in range(0, 0x40, 4))

    def read_bar(self, bar: int, offset: int, size: int) -> bytes:
        """Read a register, or a part of it, or two of them."""
        if size > 4:
            return self.read_bar(bar, offset, 4) + self.read_bar(bar, offset + 4, 4)
        place = INTMS if offset & ~3 == INTMC else offset & ~3
        value = self._values.get(place, 0) >> 8 * (offset & 3)
        return value.to_bytes(4, "little")[:size]

    def write_bar(self, bar: int, offset: int, data: bytes) -> None:
        """Write a register; accesses of less than 32 bits are not defined and lost, wider ones are for registers of 64 bits."""
        if len(data) < 4:
            return
        if offset in (ASQ, ACQ) and len(data) > 4:
            self.write_bar(bar, offset + 4, data[4:])
        value = int.from_bytes(data[:4], "little")
        if offset == INTMS:
            self._values[INTMS] |= value
        elif offset == INTMC:
            self._values[INTMS] &= ~value
        elif offset in _WRITABLE:
            before = self._values[offset]
            self._values[offset] = value & _WRITABLE[offset]
            if offset == CC:
                self._configure(before, self._values[CC])

    def _configure(self, before: int, now: int) -> None:
        """Enable, disable, shut down: each is done at once."""
        if now & CC_EN and not before & CC_EN:
            self._values[CSTS] = CSTS_RDY
        elif before & CC_EN and not now & CC_EN:
            kept = {place: self._values[place] for place in (AQA, ASQ, ASQ + 4, ACQ, ACQ + 4)}
            self.reset_function()
            self._values |= {**kept, CC: now}
        if now & CC_SHN and not before & CC_SHN:
            self._values[CSTS] |= CSTS_SHUT_DOWN
        elif before & CC_SHN and not now & CC_SHN:
            self._values[CSTS] &= ~CSTS_SHUT_DOWN


class Nvme(VfioPci):
    """QEMU's NVM Express controller: config space, MSI-X, registers that get ready and shut down; has no queues."""

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options, NvmeCard())
