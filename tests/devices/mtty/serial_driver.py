# SPDX-License-Identifier: MIT
"""A guest with a driver for a 16550A, and the VMM between it and a mtty, register for register.

The VMM is as QEMU is without KVM: an eventfd asserts the guest's pin, whenever the main loop gets to it; any access to a
BAR takes the pin back and unmasks INTx. The driver is as Linux's 8250: it looks at IIR until there is nothing, reads what
there is, and fills the FIFO when the transmitter is empty.
"""

import struct

from vfioemu.uapi import constants as c

RX = TX = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7
RDI, THRI, RLSI, MSI = 1, 2, 4, 8
NO_INT = 1
DR, OE, THRE, TEMT = 1, 2, 0x20, 0x40


class Stalled(Exception):
    """The guest waits for an interrupt that does not come."""


class Vmm:
    """What is between guest and device: ports, and INTx."""

    def __init__(self, bench, main_loop=lambda: True):
        self.bench = bench
        self.process = bench.process
        self.main_loop = main_loop  # whether the main loop runs now, between two accesses
        self.event = self.process.eventfd()
        self.pending = False
        self.interrupts = 0
        self.set_irqs(
            c.VFIO_IRQ_SET_DATA_EVENTFD | c.VFIO_IRQ_SET_ACTION_TRIGGER, struct.pack("<i", self.event)
        )

    def set_irqs(self, flags, data=b""):
        payload = struct.pack("<IIIII", 20 + len(data), flags, 0, 0, 1) + data
        result = self.bench.ioctl(c.VFIO_DEVICE_SET_IRQS, payload)
        assert result.err is None, result

    def run_main_loop(self):
        """The eventfd handler."""
        if self.process.read(self.event, self.bench.arg, 8).ret == 8:
            self.pending = True
            self.interrupts += 1

    def inb(self, port, register):
        value = self.bench.pread(1, (port << 40) + register)[0]
        self._accessed()
        return value

    def outb(self, port, register, value):
        assert self.bench.pwrite(bytes([value]), (port << 40) + register).ret == 1
        self._accessed()

    def _accessed(self):
        if self.pending:
            self.pending = False
            self.set_irqs(c.VFIO_IRQ_SET_DATA_NONE | c.VFIO_IRQ_SET_ACTION_UNMASK)
        if self.main_loop():
            self.run_main_loop()


class Driver:
    """The driver of one port."""

    PASSES = 16

    def __init__(self, vmm, port=0):
        self.vmm = vmm
        self.port = port
        self.ier = 0
        self.to_send = b""
        self.received = b""
        self.unhandled = 0

    def inb(self, register):
        return self.vmm.inb(self.port, register)

    def outb(self, register, value):
        self.vmm.outb(self.port, register, value)

    # --- finding out what it is (autoconfig) ---

    def autoconfig(self):
        """'none', or what kind of UART there is, and the size of its FIFO."""
        self.outb(IER, 0)
        nothing = self.inb(IER) & 0x0F
        self.outb(IER, 0x0F)
        everything = self.inb(IER) & 0x0F
        self.outb(IER, 0)
        if (nothing, everything) != (0, 0x0F):
            return "none", 0
        mcr, lcr = self.inb(MCR), self.inb(LCR)
        self.outb(MCR, 0x10 | 0x0A)  # LOOP, OUT2 and RTS
        looped = self.inb(MSR) & 0xF0
        self.outb(MCR, mcr)
        if looped != 0x90:  # DCD and CTS
            return "none", 0
        self.outb(LCR, 0xBF)
        self.outb(FCR, 0)
        self.outb(LCR, 0)
        self.outb(FCR, 1)
        fifos = self.inb(IIR) >> 6
        kind = {0: "8250 or 16450", 2: "16550", 3: "16550A"}[fifos]
        if kind == "16550A" and self.inb(SCR) is not None:
            self.outb(LCR, 0x80)
            enhanced = self.inb(FCR) == 0
            self.outb(LCR, 0xBF)
            enhanced |= self.inb(FCR) == 0
            self.outb(LCR, 0)
            if enhanced:
                kind = "with an EFR"
            self.outb(FCR, 0x21)
            at_0 = self.inb(IIR) >> 5
            self.outb(FCR, 1)
            self.outb(LCR, 0x80)
            self.outb(FCR, 0x21)
            at_dlab = self.inb(IIR) >> 5
            self.outb(FCR, 1)
            self.outb(LCR, 0)
            if (at_0, at_dlab) == (6, 7):
                kind = "16750"
            self.outb(IER, 0x40)
            if self.inb(IER) & 0x40:
                kind = "XScale"
            self.outb(IER, 0)
        size = self.fifo_size()
        self.outb(LCR, lcr)
        self.outb(FCR, 6)
        return kind, size

    def fifo_size(self):
        """Count what the FIFO takes in loopback."""
        self.outb(FCR, 7)
        self.outb(MCR, 0x10)
        self.outb(LCR, 0x80)
        divisor = self.inb(DLL), self.inb(DLM)
        self.outb(DLL, 1)
        self.outb(DLM, 0)
        self.outb(LCR, 3)
        for i in range(256):
            self.outb(TX, i)
        size = 0
        while self.inb(LSR) & DR and size < 256:
            self.inb(RX)
            size += 1
        self.outb(FCR, 7)
        self.outb(MCR, 0)
        self.outb(LCR, 0x80)
        self.outb(DLL, divisor[0])
        self.outb(DLM, divisor[1])
        assert (self.inb(DLL), self.inb(DLM)) == divisor
        self.outb(LCR, 3)
        return size

    # --- running it ---

    def startup(self):
        """As serial8250_do_startup(): whether THRE interrupts can be believed, and then interrupts on."""
        self.outb(FCR, 1)
        self.outb(FCR, 7)
        self.outb(FCR, 0)
        for register in (LSR, RX, IIR, MSR):
            self.inb(register)
        self.outb(LCR, 3)
        self.outb(IER, THRI)
        first = self.inb(IIR)
        self.outb(IER, 0)
        self.outb(IER, THRI)
        second = self.inb(IIR)
        self.outb(IER, 0)
        assert not first & NO_INT
        assert not second & NO_INT  # else a driver works around a bug, with a timer
        self.outb(MCR, 0x0B)  # OUT2, RTS, DTR
        self.outb(LCR, 0x80)
        self.outb(DLL, 12)
        self.outb(DLM, 0)
        self.outb(LCR, 3)
        self.outb(FCR, 0x81)  # trigger at 8 bytes
        self.ier = RLSI | RDI
        self.outb(IER, self.ier)
        for register in (LSR, RX, IIR, MSR):
            self.inb(register)

    def write(self, data):
        """Start to transmit: from here on by interrupts."""
        self.to_send += data
        if not self.ier & THRI:
            self.ier |= THRI
            self.outb(IER, self.ier)

    def interrupt(self):
        """The handler: whether there was anything."""
        handled = False
        for _ in range(self.PASSES):
            iir = self.inb(IIR)
            if iir & NO_INT:
                break
            handled = True
            lsr = self.inb(LSR)
            assert not lsr & OE
            while lsr & DR:
                self.received += bytes([self.inb(RX)])
                lsr = self.inb(LSR)
            if lsr & THRE and self.ier & THRI:
                chunk, self.to_send = self.to_send[:16], self.to_send[16:]
                for byte in chunk:
                    self.outb(TX, byte)
                if not self.to_send:
                    self.ier &= ~THRI
                    self.outb(IER, self.ier)
        self.unhandled += not handled
        return handled


def run(driver, done):
    """Let guest and main loop run until `done()`; Stalled when nothing is left to happen."""
    while not done():
        vmm = driver.vmm
        vmm.run_main_loop()
        if not vmm.pending:
            raise Stalled(f"{len(driver.received)} bytes received, {len(driver.to_send)} to be sent")
        driver.interrupt()
