# SPDX-License-Identifier: MIT
"""One port: a 16550A whose line is looped back, so that what is transmitted is received.

There is one FIFO of 16 bytes, which is the transmitter's and the receiver's at once: the transmitter is empty when all
has been read, and so nobody who waits for that can lose a byte. Data ready is reported at the first byte, whatever
trigger level is set, which makes a receive time-out unnecessary. So does the sample driver of the kernel (handle_bar_write
and handle_bar_read in samples/vfio-mdev/mtty.c), and registers, their values and the events that raise an interrupt are
those of the sample, but where a driver for a 16550A would stumble:

* A full FIFO is full; the sample takes it for an empty one (it compares head and tail), and loses the 16 bytes.
* Reading LSR clears the overrun bit; in the sample the next byte written does, and the cause in IIR stays until then.
* The divisor latch keeps what is written to it; the sample ORs, and forgets it when DLAB is set.
* With MCR.LOOP set, MSR shows the bits of MCR, which drivers try before they believe in a port.
* IIR shows FIFOs only if they are on.
"""

import struct
from typing import Final, Self

RX_TX, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)
REGISTERS: Final = 8

FIFO_SIZE: Final = 16
PORT: Final = struct.Struct("<8s16sBBB?BBHBBBx")
"""struct serial_port: registers, FIFO, head, tail, count, dlab, overrun, (unused), divisor, fcr, FIFO size, trigger."""

_IER_RDI, _IER_THRI, _IER_RLSI, _IER_MSI = 1, 2, 4, 8
_IER_MASK: Final = 0x0F
_FCR_ENABLE: Final = 0x01
_FCR_CLEAR: Final = 0x06
_LCR_DLAB: Final = 0x80
_MCR_DTR, _MCR_RTS, _MCR_OUT1, _MCR_OUT2, _MCR_LOOP, _MCR_AFE = 1, 2, 4, 8, 0x10, 0x20
_LSR_DR, _LSR_OE, _LSR_THRE, _LSR_TEMT = 1, 2, 0x20, 0x40
_MSR_DCTS, _MSR_DDSR, _MSR_CTS, _MSR_DSR, _MSR_RI, _MSR_DCD = 1, 2, 0x10, 0x20, 0x40, 0x80
_IIR_NONE, _IIR_THRI, _IIR_RDI, _IIR_RLSI = 1, 2, 4, 6
_IIR_FIFO: Final = 0xC0
_LOOPED: Final = ((_MCR_RTS, _MSR_CTS), (_MCR_DTR, _MSR_DSR), (_MCR_OUT1, _MSR_RI), (_MCR_OUT2, _MSR_DCD))


class Uart:
    """A port; see the module.

    Attributes:
        unused: a byte that travels with the state of the port and means nothing to it.
    """

    def __init__(self) -> None:
        self.unused = 0
        self._registers = bytearray(REGISTERS)  # what is kept of writes: IER, LCR, MCR, SCR
        self._fifo = bytearray(FIFO_SIZE)
        self._head = self._tail = self._count = 0
        self._dlab = False
        self._overrun = False
        self._divisor = 0
        self._fcr = 0
        self._size = FIFO_SIZE  # before FCR is written, as in the sample: mtty_init_dev()
        self._trigger = 0
        self._came = self._accepted = b""  # what was loaded, and what was made of it

    # --- interrupts ---

    @property
    def pending(self) -> bool:
        """True if IIR has something to tell."""
        return self._cause() != _IIR_NONE

    @property
    def in_use(self) -> bool:
        """True if a driver wants any interrupt."""
        return bool(self._registers[IER] & _IER_MASK)

    def _cause(self) -> int:
        """Return IIR without its FIFO bits: the most urgent cause. Modem status is never one, as in the sample."""
        ier = self._registers[IER]
        if ier & _IER_RLSI and self._overrun:
            return _IIR_RLSI
        if ier & _IER_RDI and self._count >= max(1, self._trigger):
            return _IIR_RDI
        if ier & _IER_THRI and not self._count:
            return _IIR_THRI
        return _IIR_NONE

    # --- registers ---

    def read(self, register: int) -> tuple[int, bool]:
        """Read a register: its value, and whether an event has come of it that raises an interrupt."""
        if register == RX_TX:
            return (self._divisor & 0xFF, False) if self._dlab else self._receive()
        if register == IER:
            return (self._divisor >> 8 if self._dlab else self._registers[IER] & _IER_MASK), False
        if register == IIR_FCR:
            return self._cause() | (_IIR_FIFO if self._fcr & _FCR_ENABLE else 0), False
        if register == LSR:
            return self._read_lsr(), False
        if register == MSR:
            return self._read_msr(), False
        return self._registers[register], False

    def write(self, register: int, value: int) -> bool:
        """Write a register; returns whether an event has come of it that raises an interrupt."""
        if register == RX_TX:
            if self._dlab:
                self._divisor = self._divisor & 0xFF00 | value
                return False
            return self._transmit(value)
        if register == IER:
            if self._dlab:
                self._divisor = self._divisor & 0xFF | value << 8
                return False
            self._registers[IER] = value
            return bool(value & _IER_THRI) and not self._count
        if register == IIR_FCR:
            self._write_fcr(value)
            return False
        if register in (LSR, MSR):
            return False
        self._registers[register] = value
        if register == LCR:
            self._dlab = bool(value & _LCR_DLAB)
        changes_lines = register == MCR and value & (_MCR_OUT2 | _MCR_RTS | _MCR_DTR)
        return bool(changes_lines and self._registers[IER] & _IER_MSI)

    def _transmit(self, value: int) -> bool:
        if self._count >= self._size:
            self._overrun = True
            return bool(self._registers[IER] & _IER_RLSI)
        self._fifo[self._head] = value
        self._head = (self._head + 1) % FIFO_SIZE
        self._count += 1
        return bool(self._registers[IER] & _IER_RDI) and self._count == max(1, self._trigger)

    def _receive(self) -> tuple[int, bool]:
        value = 0
        if self._count:
            value = self._fifo[self._tail]
            self._tail = (self._tail + 1) % FIFO_SIZE
            self._count -= 1
        return value, not self._count and bool(self._registers[IER] & _IER_THRI)

    def _write_fcr(self, value: int) -> None:
        self._fcr = value
        if value & _FCR_CLEAR:
            self._head = self._tail = self._count = 0
        self._trigger = 1
        self._size = FIFO_SIZE if value & _FCR_ENABLE else 1

    def _read_lsr(self) -> int:
        value = _LSR_DR if self._count else _LSR_THRE | _LSR_TEMT
        if self._overrun:
            value |= _LSR_OE
            self._overrun = False
        return value

    def _read_msr(self) -> int:
        mcr = self._registers[MCR]
        if mcr & _MCR_LOOP:
            return sum(bit for line, bit in _LOOPED if mcr & line)
        value = _MSR_DSR | _MSR_DDSR | _MSR_DCD
        if not mcr & _MCR_AFE or self._count < self._size:
            value |= _MSR_CTS | _MSR_DCTS
        return value

    # --- state ---

    def save(self) -> bytes:
        """Pack the port as the sample keeps it in memory and writes it to its stream; as it came, if nothing has changed."""
        packed = self._pack()
        return self._came if packed == self._accepted else packed

    def _pack(self) -> bytes:
        return PORT.pack(
            bytes(self._registers),
            bytes(self._fifo),
            self._head,
            self._tail,
            self._count,
            self._dlab,
            self._overrun,
            self.unused,
            self._divisor,
            self._fcr,
            self._size,
            self._trigger,
        )

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Make a port from such bytes. Any are accepted, as the sample does; what cannot be is made possible.

        The sample keeps even that, and a port which nobody touches is moved on with it.
        """
        port = cls()
        registers, fifo, head, _, count, dlab, overrun, port.unused, port._divisor, fcr, size, trigger = (
            PORT.unpack(data)
        )
        port._registers[:] = registers
        port._fifo[:] = fifo
        port._head = head % FIFO_SIZE
        port._count = min(count, FIFO_SIZE)
        port._tail = (port._head - port._count) % FIFO_SIZE
        port._dlab, port._overrun = dlab, bool(overrun)
        port._fcr = fcr
        port._size = min(max(size, 1), FIFO_SIZE)
        port._trigger = min(trigger, FIFO_SIZE)
        port._came, port._accepted = bytes(data), port._pack()
        return port
