# SPDX-License-Identifier: MIT
"""`pci-testdev`: QEMU's device for timing accesses; a conventional PCI function without interrupts or capabilities.

BAR 0 (memory) and BAR 1 (I/O ports) each have three tests, one of which is chosen by writing its number to byte 0. Then
the BAR shows the test's header: number, width, offset, data, how often `data` was written to `offset`, and a name. The
tests with "eventfd" in their name have such writes swallowed before they reach the device, so they count nothing.
"""

import struct
from collections.abc import Mapping
from typing import Final

from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.description import Bar, Function
from vfioemu.devices.pci.vfio_pci.driver import VfioPci

_MEMORY: Final = 0x1000
_PORTS: Final = 0x100
_HEADER: Final = struct.Struct("<BBxxIB3xI")
_KINDS: Final = ("mmio", "portio")
_TESTS: Final = ("no-eventfd", "wildcard-eventfd", "datamatch-eventfd")
_WILDCARD: Final = 1
_MATCH: Final = 0xFA
_NO_MATCH: Final = 0xCE

DESCRIPTION: Final = Function(
    vendor=0x1B36,
    device=0x0005,
    class_code=0x00FF00,
    subsystem=(0x1AF4, 0x1100),
    bars={0: Bar(_MEMORY), 1: Bar(_PORTS, kind="io")},
)


class PciTestdevCard(PciHardware):
    """The card."""

    def __init__(self) -> None:
        super().__init__(DESCRIPTION)
        self._current: tuple[int, int] | None = None
        self._counts: dict[tuple[int, int], int] = {}

    def reset_function(self) -> None:
        """Choose no test; counts are kept until one is chosen."""
        self._current = None

    def read_bar(self, bar: int, offset: int, size: int) -> bytes:
        """Read, byte by byte, the chosen test's header, whichever BAR it was chosen by."""
        if self._current is None:
            return bytes(size)
        header = self._header(self._current)
        return bytes(header[i] if i + 1 < len(header) else 0 for i in range(offset, offset + size))

    def write_bar(self, bar: int, offset: int, data: bytes) -> None:
        """Choose a test or count a write, byte by byte."""
        for i, byte in enumerate(data, offset):
            if i == 0:
                self._current = (bar, byte) if byte < len(_TESTS) else None
                if self._current is not None:
                    self._counts[self._current] = 0
            elif self._current is not None:
                self._count(bar, i, byte)

    def _count(self, bar: int, offset: int, byte: int) -> None:
        assert self._current is not None
        kind, test = self._current
        if test == 0 and bar == kind and offset == _offset(kind, test) and byte == _MATCH:
            self._counts[self._current] += 1

    def _header(self, chosen: tuple[int, int]) -> bytes:
        kind, test = chosen
        data = _NO_MATCH if test == _WILDCARD else _MATCH
        head = _HEADER.pack(kind * len(_TESTS) + test, 1, _offset(kind, test), data, self._counts[chosen])
        return head + f"{_KINDS[kind]}-{_TESTS[test]}\0".encode()


class PciTestdev(VfioPci):
    """QEMU's pci-testdev: a conventional PCI function without interrupts; counts accesses."""

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options, PciTestdevCard())


def _offset(kind: int, test: int) -> int:
    """Return the offset at which a test counts writes."""
    return (_MEMORY, _PORTS)[kind] // 2 + kind * len(_TESTS) + test
