# SPDX-License-Identifier: MIT
"""Reading and writing BARs: drivers/vfio/pci/vfio_pci_rdwr.c.

An access is cut into aligned pieces of one, two, four or eight bytes, each of which is one access of the hardware; I/O
ports have no 64-bit instructions, and see two of four. The MSI-X table is the kernel's: it reads as all ones, and writes
to it are lost. Memory BARs answer EIO while the function does not decode memory; I/O ports do not care.
"""

import errno
from typing import Final

from vfioemu.core.base.effects import Steps, finish
from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.description import Bar
from vfioemu.devices.pci.hardware.messages import Messages

_QWORD: Final = 8


class BarAccess:
    """The BARs of a function.

    Args:
        hardware: the function.
        messages: whose pending bits lie in a BAR.
    """

    def __init__(self, hardware: PciHardware, messages: Messages) -> None:
        function = hardware.function
        self._bars = function.bars
        self._hardware = hardware
        self._read = hardware.read_bar
        self._write = hardware.write_bar
        self._messages = messages
        msix = function.msix
        self._table = (msix.table_bar, msix.table_offset, msix.table_size) if msix else (-1, 0, 0)
        self._pba = (msix.pba_bar, msix.pba_offset, msix.pba_size) if msix else (-1, 0, 0)

    def hidden(self, index: int, offset: int, size: int) -> int:
        """Count the bytes from `offset` that are the MSI-X table's; 0 if the first is not."""
        bar, start, length = self._table
        if bar != index or not start <= offset < start + length:
            return 0
        return min(size, start + length - offset)

    def piece(self, index: int, offset: int, size: int) -> int:
        """Return the bytes of an access that can be made at once without a visible difference, as long as nothing fails."""
        described = self._bars[index]
        if described.memory or _beyond(described, offset):
            bar, start, _ = self._table
            if bar == index and offset < start:
                size = min(size, start - offset)
            return self.hidden(index, offset, size) or size
        return self.unit(index, offset, size)

    def unit(self, index: int, offset: int, size: int) -> int:
        """Return the bytes of the next piece of an access: vfio_pci_core_do_io_rw()."""
        if hidden := self.hidden(index, offset, size):
            return hidden
        bar, start, _ = self._table
        if bar == index and offset < start:
            size = min(size, start - offset)
        for width in (8, 4, 2):
            if size >= width and not offset % width:
                return width
        return 1

    def reads_show(self, index: int) -> bool:
        """Tell whether the function may notice that it is read."""
        return not self._bars[index].memory

    def check(self, index: int) -> None:
        """Refuse a BAR that does not answer: EIO."""
        if self._bars[index].kind != "io" and not self._hardware.memory_enabled:
            raise IoctlError(errno.EIO, f"BAR {index}: the function does not decode memory")

    def read(self, index: int, offset: int, size: int) -> Steps[bytes]:
        """Read `size` bytes; EIO if the BAR does not answer."""
        out = bytearray()
        bar = self._bars[index]
        first = offset
        while size:
            count = self.piece(index, offset, size)
            if self.hidden(index, offset, count):
                out += b"\xff" * count
            else:
                self.check(index)
                if _beyond(bar, offset):
                    out += bytes((bar.beyond,)) * count
                else:
                    for at, part in _instructions(bar, offset, count):
                        out += yield from finish(self._read(index, at, part))
            offset += count
            size -= count
        if index == self._pba[0] and self._messages.pending:
            self._show_pending(out, first)
        return bytes(out)

    def _show_pending(self, out: bytearray, first: int) -> None:
        """Put the pending bits of MSI-X into `out`, where the function says that they are."""
        _, start, length = self._pba
        bits = self._messages.pending.to_bytes(length, "little")
        for place in range(max(first, start), min(first + len(out), start + length)):
            out[place - first] = bits[place - start]

    def write(self, index: int, offset: int, data: bytes) -> Steps[None]:
        """Write one piece; EIO if the BAR does not answer."""
        if self.hidden(index, offset, len(data)):
            return
        self.check(index)
        bar = self._bars[index]
        if _beyond(bar, offset):
            return
        for at, part in _instructions(bar, offset, len(data)):
            yield from finish(self._write(index, at, data[at - offset : at - offset + part]))


def _instructions(bar: Bar, offset: int, size: int) -> tuple[tuple[int, int], ...]:
    """List (offset, size) of the accesses that one piece makes: ioread64_lo_hi() of a port is two of 32 bits."""
    if size == _QWORD and bar.narrow:
        return (offset, 4), (offset + 4, 4)
    return ((offset, size),)


def _beyond(bar: Bar, offset: int) -> bool:
    return bar.registers is not None and offset >= bar.registers
