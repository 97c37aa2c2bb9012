# SPDX-License-Identifier: MIT
"""`e1000e`: an Intel 82574L network controller as QEMU's device of that name shows itself through vfio-pci.

Config space, BARs, capabilities and interrupts are complete. Of the controller there are the registers with their initial
values (Intel's 82574 datasheet), software reset, and the interrupt registers ICR, ICS, IMS and IMC; it has no link partner,
and neither descriptor rings, nor PHY, nor EEPROM behind their registers: what is written there stays there.

BAR 0 are the registers, BAR 1 the flash (empty), BAR 2 I/O ports IOADDR and IODATA, by which the registers can be
reached as well, BAR 3 the MSI-X table.
"""

from collections.abc import Mapping
from typing import Final

from vfioemu.core.base.effects import MaybeSteps, Steps
from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.description import (
    Bar,
    Express,
    ExtendedCapability,
    Function,
    Msi,
    MsiX,
    PowerManagement,
)
from vfioemu.devices.pci.hardware.registers import EXP_TYPE_RC_END
from vfioemu.devices.pci.vfio_pci.driver import VfioPci

CTRL: Final = 0x0000
CTRL_DUP: Final = 0x0004
CTRL_RST: Final = 1 << 26
STATUS: Final = 0x0008
ICR: Final = 0x00C0
ICS: Final = 0x00C8
IMS: Final = 0x00D0
IMC: Final = 0x00D8

_REGISTERS: Final = 0x20000
_USED: Final = 0x10000
"""Behind them is the packet buffer, which is empty."""
_IOADDR: Final = 0x0
_IODATA: Final = 0x4
_MAC: Final = bytes.fromhex("525400123456")

_INITIAL: Final[Mapping[int, int]] = {
    CTRL: 0x00140241,  # full duplex, set link up, 1000 Mb/s, software pins 0 and 2
    STATUS: 0x00000302,  # speed detected 1000 Mb/s, link up
    0x0010: 0x00000300,  # EECD: a flash is there and has been read
    0x0014: 0x00000002,  # EERD: done
    0x0410: 0x00602008,  # TIPG
    0x0E00: 0x07068302,  # LEDCTL
    0x0F00: 0x00000008,  # EXTCNF_CTRL
    0x1000: 0x00140014,  # PBA: 20 KiB for packets each way
    0x1010: 0x80000000,  # EEMNGCTL
    0x102C: 0x00000002,  # EEWR: done
    0x2170: 0x00040402,  # PSRCTL
    0x2828: 0x00010000,  # RXDCTL 0
    0x2928: 0x00010000,  # RXDCTL 1
    0x3840: 0x08000003,  # TARC 0
    0x3940: 0x08000003,  # TARC 1
    0x5400: int.from_bytes(_MAC[:4], "little"),  # RAL 0
    0x5404: 1 << 31 | int.from_bytes(_MAC[4:], "little"),  # RAH 0: valid
}
_READ_ONLY: Final = frozenset({STATUS})
_WRITE_ONLY: Final = frozenset({ICS, IMC})

_ADVANCED_ERRORS: Final = b"".join(
    value.to_bytes(4, "little") for value in (0, 0x02400000, 0x00462030, 0, 0xE000, 0xA0)
)
_ERROR_MASK: Final = b"".join(
    value.to_bytes(4, "little") for value in (0, 0x03FFF030, 0x03FFF030, 0, 0xF1C1, 0x140)
)


def _rom() -> bytes:
    """Build an expansion ROM with a header and nothing to run: 55 aa, its size, and the PCI data structure."""
    image = bytearray(512)
    image[0:3] = b"\x55\xaa\x01"
    image[0x18] = 0x1C
    image[0x1C:0x34] = b"PCIR" + bytes.fromhex("8680d310000018000000000201000000ff800000")
    return bytes(image)


DESCRIPTION: Final = Function(
    vendor=0x8086,
    device=0x10D3,
    class_code=0x020000,
    subsystem=(0x8086, 0x0000),
    interrupt_pin=1,
    bars={
        0: Bar(_REGISTERS, registers=_USED, address=0xFEB40000, narrow=True),
        1: Bar(0x20000, registers=0, address=0xFEB60000),
        2: Bar(0x20, kind="io", address=0xE080),
        3: Bar(0x4000, registers=0, address=0xFEB80000),
    },
    rom=_rom(),
    rom_size=0x40000,
    rom_address=0xFEB00000,
    capabilities=(
        PowerManagement(version=2, flags=0xC820, at=0xC8),
        Msi(1, at=0xD0),
        Express(version=1, type=EXP_TYPE_RC_END, at=0xE0),
        MsiX(5, table_bar=3, pba_bar=3, pba_offset=0x2000, at=0xA0),
    ),
    extended=(
        ExtendedCapability(0x01, 2, _ADVANCED_ERRORS.ljust(0x44, b"\0"), _ERROR_MASK),
        ExtendedCapability(0x03, 1, _MAC[:2:-1] + b"\xff\xff" + _MAC[2::-1], at=0x140),
    ),
)


class E1000eCard(PciHardware):
    """The card."""

    def __init__(self) -> None:
        super().__init__(DESCRIPTION)
        self._values = dict(_INITIAL)
        self._selected = 0

    def reset_function(self) -> None:
        """Give all registers their initial values."""
        self._values = dict(_INITIAL)
        self._selected = 0

    def bar_image(self, bar: int) -> bytes:
        """Return the initial values of the registers, in BAR 0; empty for any other BAR."""
        if bar != 0:
            return b""
        image = bytearray(0x6000)
        for place, value in _INITIAL.items():
            image[place : place + 4] = value.to_bytes(4, "little")
        return bytes(image)

    def read_bar(self, bar: int, offset: int, size: int) -> MaybeSteps[bytes]:
        """Read a register of 32 bits; a narrower access gives a part of the whole."""
        if bar == 2 and offset & ~3 == _IOADDR:
            return _part(self._selected, offset, size)
        place = offset & ~3 if bar == 0 else self._selected
        if place == ICR:
            return self._read_icr(offset, size)
        if place in _WRITE_ONLY:
            return bytes(size)
        return _part(self._values.get(CTRL if place == CTRL_DUP else place, 0), offset, size)

    def _read_icr(self, offset: int, size: int) -> Steps[bytes]:
        """Read the causes of interrupts, which clears them and lowers INTx."""
        value = self._values.get(ICR, 0)
        self._values[ICR] = 0
        yield from self.set_intx(False)
        return _part(value, offset, size)

    def write_bar(self, bar: int, offset: int, data: bytes) -> Steps[None]:
        """Write a register; accesses of less than 32 bits are lost."""
        if len(data) < 4:
            return
        value = int.from_bytes(data, "little")
        if bar == 0:
            yield from self._write(offset, value)
        elif offset == _IOADDR:
            self._selected = value & (_REGISTERS - 4)
        elif offset == _IODATA:
            yield from self._write(self._selected, value)

    def _write(self, place: int, value: int) -> Steps[None]:
        if place == CTRL_DUP:
            place = CTRL
        if place == CTRL and value & CTRL_RST:
            self.reset_function()
            yield from self.set_intx(False)
        elif place == ICS:
            self._values[ICR] = self._values.get(ICR, 0) | value
            yield from self._interrupt()
        elif place == IMS:
            self._values[IMS] = self._values.get(IMS, 0) | value
            yield from self._interrupt()
        elif place == IMC:
            self._values[IMS] = self._values.get(IMS, 0) & ~value
            yield from self._interrupt()
        elif place == ICR:
            self._values[ICR] = self._values.get(ICR, 0) & ~value
            yield from self._interrupt()
        elif place not in _READ_ONLY:
            self._values[place] = value

    def _interrupt(self) -> Steps[None]:
        if self._values.get(ICR, 0) & self._values.get(IMS, 0):
            yield from self.interrupt()
        else:
            yield from self.set_intx(False)


class E1000e(VfioPci):
    """QEMU's Intel 82574L network controller: config space, BARs, MSI-X and initial registers; moves no packets."""

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options, E1000eCard())


def _part(value: int, offset: int, size: int) -> bytes:
    """Return those bytes of a register that an access asks for."""
    return (value >> 8 * (offset & 3)).to_bytes(4, "little")[:size]
