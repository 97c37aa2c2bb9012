# SPDX-License-Identifier: MIT
"""The config space of a mtty: the ids of a WCH CH352 serial card, I/O BARs, INTA, and no capability.

Kernel: mtty_create_config_space() and handle_pci_cfg_write() in samples/vfio-mdev/mtty.c. Linux's 8250_pci knows the ids
(4348:3253) as a card with two 16550A; of a mtty with one port it finds the first and lets the other be.
"""

import struct
from typing import Final

SIZE: Final = 0xFF
"""As GET_REGION_INFO tells it: one byte short of what is there."""

_BAR0, _BAR1, _INTERRUPT_LINE, _INTERRUPT_PIN = 0x10, 0x14, 0x3C, 0x3D
_ZEROED: Final = (0x18, 0x1C, 0x20)
_IDS: Final = 0x32534348
_BAR_MASK: Final = 0xFFFFFFF8
_IO_SPACE: Final = 1
_VENDOR: Final = {0x40: 0x23, 0x43: 0x80, 0x44: 0x23, 0x48: 0x23, 0x4C: 0x23}
_NAME: Final = (0x60, b"PCI Serial/UART")


class ConfigSpace:
    """The config space of a device with so many ports."""

    def __init__(self, ports: int) -> None:
        self._ports = ports
        self._bytes = bytearray(256)
        struct.pack_into("<IHH", self._bytes, 0, _IDS, 0x0001, 0x0200)  # I/O decoded; medium DEVSEL
        struct.pack_into("<I", self._bytes, 8, 0x07000210)  # serial, 16550 compatible; revision 0x10
        for bar in (_BAR0, _BAR1)[:ports]:
            struct.pack_into("<I", self._bytes, bar, _IO_SPACE)
        struct.pack_into("<I", self._bytes, 0x2C, _IDS)
        self._bytes[_INTERRUPT_PIN] = 1
        for offset, value in _VENDOR.items():
            self._bytes[offset] = value
        self._bytes[_NAME[0] : _NAME[0] + len(_NAME[1])] = _NAME[1]

    @property
    def interrupt_line(self) -> int:
        """The interrupt line that the guest's firmware has written down."""
        return self._bytes[_INTERRUPT_LINE]

    @interrupt_line.setter
    def interrupt_line(self, line: int) -> None:
        self._bytes[_INTERRUPT_LINE] = line

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes; zeros where the kernel would show what lies behind its buffer."""
        return bytes(self._bytes[offset : offset + size]).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Write one piece: the BARs and the interrupt line, at their beginnings; nothing else takes anything.

        A piece has up to four bytes; where the kernel reads four of a shorter one, the others count as zero.
        """
        if offset == _INTERRUPT_LINE:
            self._bytes[offset] = data[0]
        elif offset in (_BAR0, _BAR1):
            value = 0
            if offset == _BAR0 or self._ports == 2:
                value = int.from_bytes(data, "little")
                if value == 0xFFFFFFFF:
                    value &= _BAR_MASK
                value |= self._bytes[offset] & 3
            struct.pack_into("<I", self._bytes, offset, value)
        elif offset in _ZEROED:
            struct.pack_into("<I", self._bytes, offset, 0)
