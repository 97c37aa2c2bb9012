# SPDX-License-Identifier: MIT
"""The configuration space of a function as the hardware has it: registers, and which of their bits can be written.

It is what the kernel reaches with pci_read_config_*() and pci_write_config_*(); what user space sees of it is decided
in virtual.py. Bytes that belong to nothing can be written, as in QEMU's devices.
"""

from collections.abc import Sequence
from typing import Final

from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.description import Bar, Capability, ExtendedCapability, Function

FIRMWARE_COMMAND: Final = r.COMMAND_IO | r.COMMAND_MEMORY | r.COMMAND_SERR
"""COMMAND when vfio-pci has opened the function: decoding is on (pci_enable_device()), bus mastering is off."""

_COMMAND_MASK: Final = (
    r.COMMAND_IO | r.COMMAND_MEMORY | r.COMMAND_MASTER | r.COMMAND_SERR | r.COMMAND_INTX_DISABLE
)
_MEM32_WINDOW: Final = 0xFE800000
_MEM32_LARGE: Final = 0x80000000
_MEM64_WINDOW: Final = 0xC000000000
_IO_WINDOW: Final = 0xC000


class ConfigSpace:
    """The registers.

    Args:
        function: what it is.

    Attributes:
        data: their bytes.
        mask: 1 for each bit that can be written.
        caps: where each capability lies, by id (the first of them).
        addresses: where each BAR (6: the ROM) lies on the bus.
    """

    def __init__(self, function: Function) -> None:
        self.data = bytearray(function.config_size)
        self.mask = bytearray(function.config_size)
        self.caps: dict[int, int] = {}
        self.addresses: dict[int, int] = {}
        self._header(function)
        self._bars(function)
        self.mask[r.HEADER_SIZE :] = b"\xff" * (len(self.mask) - r.HEADER_SIZE)
        self._chain([capability.encode() for capability in function.capabilities])
        if len(self.data) > r.CONFIG_SIZE:
            self.mask[r.CONFIG_SIZE : r.CONFIG_SIZE + 4] = bytes(4)  # no capability, or the first one
            self._extended_chain(function.extended)

    def read(self, position: int, count: int) -> int:
        """Read `count` bytes, as a little-endian number."""
        return int.from_bytes(self.data[position : position + count], "little")

    def write(self, position: int, count: int, value: int) -> None:
        """Change those bits that can be written."""
        for i in range(position, position + count):
            mask = self.mask[i]
            self.data[i] = self.data[i] & ~mask | value & mask
            value >>= 8

    def force(self, position: int, count: int, value: int) -> None:
        """Put a value there, writable or not: what the function itself does to its registers."""
        self.data[position : position + count] = value.to_bytes(count, "little")

    def move(self, index: int, address: int, *, wide: bool) -> None:
        """Put a BAR (6: the ROM) at another address on the bus, as firmware does; `wide`: it has 64 bits."""
        place = r.ROM_ADDRESS if index == r.ROM_BAR else r.BASE_ADDRESS_0 + 4 * index
        kept = self.read(place, 4) & (0x1 if index == r.ROM_BAR else 0x3 if self.data[place] & 1 else 0xF)
        self.force(place, 4, address & 0xFFFFFFFF | kept)
        if wide:
            self.force(place + 4, 4, address >> 32)
        self.addresses[index] = address

    @property
    def command(self) -> int:
        """The COMMAND register."""
        return self.read(r.COMMAND, 2)

    @command.setter
    def command(self, value: int) -> None:
        self.force(r.COMMAND, 2, value)

    def _header(self, function: Function) -> None:
        put = self.force
        put(r.VENDOR_ID, 2, function.vendor)
        put(r.DEVICE_ID, 2, function.device)
        put(r.COMMAND, 2, FIRMWARE_COMMAND)
        put(r.REVISION_ID, 1, function.revision)
        put(r.CLASS_CODE, 3, function.class_code)
        put(r.SUBSYSTEM_VENDOR_ID, 2, function.subsystem[0])
        put(r.SUBSYSTEM_ID, 2, function.subsystem[1])
        put(r.INTERRUPT_PIN, 1, function.interrupt_pin)
        put(r.INTERRUPT_LINE, 1, function.interrupt_line if function.interrupt_pin else 0)
        self.mask[r.COMMAND : r.COMMAND + 2] = _COMMAND_MASK.to_bytes(2, "little")
        self.mask[r.CACHE_LINE_SIZE] = 0xFF

    def _bars(self, function: Function) -> None:
        windows = {"mem32": _MEM32_WINDOW, "mem64": _MEM64_WINDOW, "io": _IO_WINDOW}
        if any(bar.kind == "mem32" and bar.size > 1 << 20 for bar in function.bars.values()):
            windows["mem32"] = _MEM32_LARGE
        for index, bar in function.bars.items():
            address = bar.address
            if address is None:
                address = -(-windows[bar.kind] // bar.size) * bar.size
                windows[bar.kind] = address + bar.size
            self.addresses[index] = address
            place = r.BASE_ADDRESS_0 + 4 * index
            self.force(place, 4, (address & 0xFFFFFFFF) | bar_flags(bar))
            if bar.kind == "mem64":
                self.force(place + 4, 4, address >> 32)
        if function.rom is not None:
            address = function.rom_address
            size = rom_size(function)
            if address is None:
                address = -(-windows["mem32"] // size) * size
            self.addresses[r.ROM_BAR] = address
            self.force(r.ROM_ADDRESS, 4, address)

    def _chain(self, capabilities: Sequence[Capability]) -> None:
        previous = r.CAPABILITY_LIST
        free = r.HEADER_SIZE
        for capability in capabilities:
            place = free if capability.at is None else capability.at
            end = place + 2 + len(capability.body)
            if not r.HEADER_SIZE <= place < end <= r.CONFIG_SIZE or place % 4:
                raise ValueError(f"capability {capability.id:#x} does not fit at {place:#x}")
            free = max(free, -(-end // 4) * 4)
            self.force(r.STATUS, 2, self.read(r.STATUS, 2) | r.STATUS_CAP_LIST)
            self.data[previous] = place
            self.data[place : place + 2] = bytes((capability.id, 0))
            self.data[place + 2 : end] = capability.body
            self.mask[place:end] = (bytes(2) + capability.mask).ljust(end - place, b"\0")
            self.caps.setdefault(capability.id, place)
            previous = place + r.CAP_NEXT

    def _extended_chain(self, capabilities: Sequence[ExtendedCapability]) -> None:
        free = r.CONFIG_SIZE
        previous = 0
        for capability in capabilities:
            place = free if capability.at is None else capability.at
            end = place + 4 + len(capability.body)
            if not r.CONFIG_SIZE <= place < end <= r.EXTENDED_SIZE or place % 4:
                raise ValueError(f"extended capability {capability.id:#x} does not fit at {place:#x}")
            free = max(free, -(-end // 4) * 4)
            if previous:
                self.force(previous, 4, self.read(previous, 4) | place << 20)
            elif place != r.CONFIG_SIZE:
                raise ValueError("the first extended capability lies at 0x100")
            self.force(place, 4, capability.id | capability.version << 16)
            self.data[place + 4 : end] = capability.body
            self.mask[place:end] = (bytes(4) + capability.mask).ljust(end - place, b"\0")
            previous = place


def bar_flags(bar: Bar) -> int:
    """Return the low bits of a BAR, which say what it is."""
    if bar.kind == "io":
        return r.BASE_ADDRESS_IO
    flags = r.BASE_ADDRESS_PREFETCH if bar.prefetchable else 0
    return flags | (r.BASE_ADDRESS_MEM_64 if bar.kind == "mem64" else 0)


def rom_size(function: Function) -> int:
    """Return the size of the expansion ROM's BAR in bytes; 0 without a ROM."""
    if function.rom is None:
        return 0
    return 1 << (max(function.rom_size, len(function.rom), 2048) - 1).bit_length()
