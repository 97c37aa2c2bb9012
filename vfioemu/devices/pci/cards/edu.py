# SPDX-License-Identifier: MIT
"""`edu`: QEMU's educational device, as docs/specs/edu of QEMU describes it and as vfio-pci shows it.

BAR 0 has registers of 32 bits (from 0x80 on also of 64), and a DMA buffer that only DMA reaches. The function has no reset
of its own, so registers keep their values when it is closed; on another bus than the root's, that is reset then.

====== ======================================================================================================
0x00   identification: 0x010000ed
0x04   liveness: reads give the inverse of what was written
0x08   factorial: a written n becomes n! mod 2^32
0x20   status: 0x80, to be written, asks for an interrupt with each factorial
0x24   interrupt status: 0x001 factorial, 0x100 DMA, and what was raised by hand
0x60   raise: these bits are added to the interrupt status
0x64   acknowledge: these bits are taken out of it
0x80   DMA source, 0x88 destination, 0x90 length
0x98   DMA command: 1 start (reads as 1 while it runs), 2 from the buffer to memory, 4 raise 0x100 when done
====== ======================================================================================================

The DMA buffer has 4096 bytes at DMA address 0x40000. Addresses in memory are cut to `dma-mask`. A transfer is made `dma-delay`
after its start; one that does not fit the buffer is dropped, one that memory refuses has no effect; both end as usual.
"""

import errno
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.options import U64, OptionTable
from vfioemu.devices.pci.hardware.card import PciHardware
from vfioemu.devices.pci.hardware.description import Bar, Function, Msi
from vfioemu.devices.pci.vfio_pci.driver import VfioPci
from vfioemu.devices.pci.vfio_pci.options import PciOptions

IDENTIFICATION: Final = 0x010000ED
ID: Final = 0x00
LIVENESS: Final = 0x04
FACTORIAL: Final = 0x08
STATUS: Final = 0x20
STATUS_IRQ: Final = 0x80
IRQ_STATUS: Final = 0x24
IRQ_RAISE: Final = 0x60
IRQ_ACK: Final = 0x64
DMA_SOURCE: Final = 0x80
DMA_DESTINATION: Final = 0x88
DMA_LENGTH: Final = 0x90
DMA_COMMAND: Final = 0x98
DMA_RUN: Final = 1
DMA_TO_MEMORY: Final = 2
DMA_IRQ: Final = 4
IRQ_FACTORIAL: Final = 0x001
IRQ_DMA: Final = 0x100
BUFFER: Final = 0x40000
BUFFER_SIZE: Final = 0x1000

_DMA_REGISTERS: Final = (DMA_SOURCE, DMA_DESTINATION, DMA_LENGTH, DMA_COMMAND)
_U32: Final = 0xFFFFFFFF
_BAR_SIZE: Final = 1 << 20
_NOTHING: Final = b"\xff" * 8

DESCRIPTION: Final = Function(
    vendor=0x1234,
    device=0x11E8,
    class_code=0x00FF00,
    revision=0x10,
    subsystem=(0x1AF4, 0x1100),
    interrupt_pin=1,
    bars={0: Bar(_BAR_SIZE, registers=0xA0, beyond=0xFF, address=0xFEA00000)},
    capabilities=(Msi(1),),
)


class EduOptions(PciOptions, frozen=True):
    """The options of an edu."""

    dma_mask: Annotated[
        U64, Meta(description="the address bits that its DMA engine has, one at least; by default 28 of them")
    ] = 0x0FFFFFFF
    dma_delay: Annotated[float, Meta(ge=0, le=3600, description="seconds that a transfer takes")] = 0.1

    def __post_init__(self) -> None:
        if not self.dma_mask:
            raise ValueError("dma-mask: a whole number from 1 to 2^64 - 1, not 0")


class EduCard(PciHardware):
    """The card.

    Args:
        options: what was said of it.
    """

    def __init__(self, options: EduOptions) -> None:
        super().__init__(DESCRIPTION)
        self._mask = options.dma_mask
        self._delay = options.dma_delay
        self._due: float | None = None
        self.reset_function()

    def reset_function(self) -> None:
        """Reset the card to what it is after power on."""
        self._liveness = 0
        self._factorial = 0
        self._status = 0
        self._irq_status = 0
        self._dma = dict.fromkeys(_DMA_REGISTERS, 0)
        self._due = None
        self.buffer = bytearray(BUFFER_SIZE)

    def function_closed(self) -> None:
        """Drop a transfer that has not been made: the function is no bus master any more."""
        self._dma[DMA_COMMAND] = 0
        self._due = None

    def bar_image(self, bar: int) -> bytes:
        """Return the registers as they are when the mapping is made."""
        return b"".join(self.read_bar(0, offset, 4) for offset in range(0, 0xA0, 4))

    def read_bar(self, bar: int, offset: int, size: int) -> bytes:
        """Read a register; accesses of less than 32 bits are not decoded and read as zero, those of 64 are for DMA registers."""
        if size < 4:
            return bytes(size)
        if size > 4 and offset < DMA_SOURCE:
            return _NOTHING
        value = {
            ID: IDENTIFICATION,
            LIVENESS: self._liveness,
            FACTORIAL: self._factorial,
            STATUS: self._status,
            IRQ_STATUS: self._irq_status,
            **self._dma,
        }.get(offset)
        return _NOTHING[:size] if value is None else value.to_bytes(8, "little")[:size]

    def write_bar(self, bar: int, offset: int, data: bytes) -> Steps[None]:
        """Write a register; accesses of less than 32 bits are lost, and those of 64 below the DMA registers."""
        if len(data) < 4 or (len(data) > 4 and offset < DMA_SOURCE):
            return
        value = int.from_bytes(data, "little")
        if offset == LIVENESS:
            self._liveness = ~value & _U32
        elif offset == FACTORIAL:
            self._factorial = _factorial(value)
            if self._status & STATUS_IRQ:
                yield from self._raise(IRQ_FACTORIAL)
        elif offset == STATUS:
            self._status = value & STATUS_IRQ
        elif offset == IRQ_RAISE:
            yield from self._raise(value)
        elif offset == IRQ_ACK:
            yield from self._acknowledge(value)
        elif offset in self._dma:
            self._write_dma(offset, value)

    def _write_dma(self, offset: int, value: int) -> None:
        if self._dma[DMA_COMMAND] & DMA_RUN or (offset == DMA_COMMAND and not value & DMA_RUN):
            return
        self._dma[offset] = value
        if offset == DMA_COMMAND:
            self.host.wake()

    def _raise(self, bits: int) -> Steps[None]:
        self._irq_status |= bits
        if self._irq_status:
            yield from self.interrupt()

    def _acknowledge(self, bits: int) -> Steps[None]:
        self._irq_status &= ~bits
        if not self._irq_status:
            yield from self.set_intx(False)

    def work(self, now: float) -> Steps[float | None]:
        """Make the transfer that was started, when it is due."""
        command = self._dma[DMA_COMMAND]
        if not command & DMA_RUN:
            return None
        if self._due is None:
            self._due = now + self._delay
        if now < self._due:
            return self._due
        self._due = None
        try:
            yield from self._transfer(command)
        except IoctlError:
            pass  # the bus answers with nothing, and the engine does not care
        self._dma[DMA_COMMAND] &= ~DMA_RUN
        if command & DMA_IRQ:
            yield from self._raise(IRQ_DMA)
        return None

    def _transfer(self, command: int) -> Steps[None]:
        length = self._dma[DMA_LENGTH]
        if command & DMA_TO_MEMORY:
            place = _place(self._dma[DMA_SOURCE], length)
            data = bytes(self.buffer[place : place + length])
            yield from self.dma_write(self._dma[DMA_DESTINATION] & self._mask, data)
        else:
            place = _place(self._dma[DMA_DESTINATION], length)
            data = yield from self.dma_read(self._dma[DMA_SOURCE] & self._mask, length)
            self.buffer[place : place + length] = data


class Edu(VfioPci):
    """QEMU's educational device: factorials, a DMA engine with a buffer of 4 KiB, INTx and MSI."""

    OPTIONS: ClassVar[Mapping[str, str]] = OptionTable(EduOptions)

    def __init__(self, options: Mapping[str, object]) -> None:
        super().__init__(options, EduCard(EduOptions.parse(options)))


def _place(address: int, length: int) -> int:
    """Translate a DMA address to an offset in the buffer; ERANGE for what does not lie in it as a whole."""
    if not BUFFER <= address or address + length > BUFFER + BUFFER_SIZE:
        raise IoctlError(errno.ERANGE, f"{address:#x}+{length:#x} is not in the buffer")
    return address - BUFFER


def _factorial(n: int) -> int:
    """Compute the factorial of n mod 2^32, which is 0 from 34 on."""
    if n >= 34:
        return 0
    result = 1
    for i in range(2, n + 1):
        result = result * i & _U32
    return result
