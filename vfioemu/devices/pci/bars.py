# SPDX-License-Identifier: MIT
"""Reading and writing BARs: drivers/vfio/pci/vfio_pci_rdwr.c.

An access is cut into aligned pieces of one, two or four bytes, each of which is one access of the hardware. The MSI-X
table is the kernel's: it reads as all ones, and writes to it are lost. Memory BARs answer EIO while the function does
not decode memory; I/O ports do not care.
"""

import errno
from collections.abc import Callable

from vfioemu.core.effects import Steps
from vfioemu.core.errors import IoctlError
from vfioemu.core.model import MaybeSteps, finish
from vfioemu.devices.pci.description import Bar, Function


class BarAccess:
    """The BARs of a function.

    Args:
        function: what it is.
        enabled: whether memory is decoded now.
        read: the model's read_bar(bar, offset, size).
        write: the model's write_bar(bar, offset, data).
    """

    def __init__(
        self,
        function: Function,
        enabled: Callable[[], bool],
        read: Callable[[int, int, int], MaybeSteps[bytes]],
        write: Callable[[int, int, bytes], MaybeSteps[None]],
    ) -> None:
        self._bars = function.bars
        self._enabled = enabled
        self._read = read
        self._write = write
        msix = function.msix
        self._table = (msix.table_bar, msix.table_offset, msix.table_size) if msix else (-1, 0, 0)

    def hidden(self, index: int, offset: int, size: int) -> int:
        """How many of the bytes from `offset` are the MSI-X table's; 0 if the first is not."""
        bar, start, length = self._table
        if bar != index or not start <= offset < start + length:
            return 0
        return min(size, start + length - offset)

    def piece(self, index: int, offset: int, size: int) -> int:
        """How long the next piece of an access is: vfio_pci_core_do_io_rw()."""
        if hidden := self.hidden(index, offset, size):
            return hidden
        bar, start, _ = self._table
        if bar == index and offset < start:
            size = min(size, start - offset)
        described = self._bars[index]
        if described.memory or _beyond(described, offset):
            return size
        if size >= 4 and not offset % 4:
            return 4
        return 2 if size >= 2 and not offset % 2 else 1

    def check(self, index: int) -> None:
        """Whether the BAR answers at all: EIO."""
        if self._bars[index].kind != "io" and not self._enabled():
            raise IoctlError(errno.EIO, f"BAR {index}: the function does not decode memory")

    def read(self, index: int, offset: int, size: int) -> Steps[bytes]:
        """Read: EIO."""
        out = bytearray()
        bar = self._bars[index]
        while size:
            count = self.piece(index, offset, size)
            if self.hidden(index, offset, count):
                out += b"\xff" * count
            else:
                self.check(index)
                if _beyond(bar, offset):
                    out += bytes((bar.beyond,)) * count
                else:
                    out += yield from finish(self._read(index, offset, count))
            offset += count
            size -= count
        return bytes(out)

    def write(self, index: int, offset: int, data: bytes) -> Steps[None]:
        """Write one piece: EIO."""
        if self.hidden(index, offset, len(data)):
            return
        self.check(index)
        if not _beyond(self._bars[index], offset):
            yield from finish(self._write(index, offset, data))


def _beyond(bar: Bar, offset: int) -> bool:
    return bar.registers is not None and offset >= bar.registers
