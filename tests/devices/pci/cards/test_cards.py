# SPDX-License-Identifier: MIT
"""The functions of QEMU: edu with its DMA engine, the registers of e1000e and nvme, pci-testdev, plain memory."""

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfioemu.devices.pci.cards import edu
from vfioemu.devices.pci.cards.e1000e import E1000e
from vfioemu.devices.pci.cards.edu import Edu
from vfioemu.devices.pci.cards.nvme import Nvme
from vfioemu.devices.pci.cards.plain import PlainFunction
from vfioemu.devices.pci.cards.testdev import PciTestdev
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

ADDRESS = "0000:00:12.0"
CONFIG = c.VFIO_PCI_CONFIG_REGION_INDEX << 40
U32 = 0xFFFFFFFF


class Guest:
    """A driver of a function."""

    def __init__(self, model, bar=0):
        self.bench = Bench(model, name=ADDRESS)
        self.base = bar << 40
        self.now = 100.0

    def read(self, place, size=4):
        return int.from_bytes(self.bench.pread(size, self.base + place), "little")

    def write(self, place, value, size=4):
        assert self.bench.pwrite(value.to_bytes(size, "little"), self.base + place).ret == size

    def master(self):
        assert self.bench.pwrite(b"\x06", CONFIG + 4).ret == 1

    def listen(self, index=1, vector=0):
        process = self.bench.process
        number = process.eventfd()
        payload = struct.pack("<5Ii", 24, 0x24, index, vector, 1, number)
        assert self.bench.ioctl(c.VFIO_DEVICE_SET_IRQS, payload).ret == 0
        return process.fds[number].what

    def unmask(self):
        assert self.bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5I", 20, 0x11, 0, 0, 1)).ret == 0

    def work(self, seconds=0.0):
        self.now += seconds
        return self.bench.run(self.bench.device.work(self.now))


# --- edu ---


@given(st.integers(0, U32))
@settings(deadline=None, max_examples=50)
def test_edu_lives(value):
    guest = Guest(Edu({}))
    assert guest.read(edu.ID) == 0x010000ED
    guest.write(edu.LIVENESS, value)
    assert guest.read(edu.LIVENESS) == value ^ U32


@pytest.mark.parametrize("n", [0, 1, 2, 5, 12, 13, 33, 34, 35, U32])
def test_edu_multiplies(n):
    guest = Guest(Edu({}))
    irq = guest.listen()
    guest.master()
    guest.write(edu.FACTORIAL, n)
    assert guest.read(edu.FACTORIAL) == (math.factorial(n) & U32 if n < 100 else 0)
    assert guest.read(edu.IRQ_STATUS) == 0

    guest.write(edu.STATUS, U32)
    assert guest.read(edu.STATUS) == edu.STATUS_IRQ
    guest.write(edu.FACTORIAL, n)
    assert guest.read(edu.IRQ_STATUS) == 1
    assert irq.count == 1


def test_edu_decodes_no_narrow_access():
    guest = Guest(Edu({}))
    guest.write(edu.LIVENESS, 0x12345678)
    guest.write(edu.LIVENESS, 0xAB, size=1)
    assert guest.read(edu.LIVENESS) == 0x12345678 ^ U32
    assert guest.read(edu.ID, 1) == guest.read(edu.ID + 2, 2) == 0
    assert guest.read(0x40) == guest.read(0xFFFFC) == U32


def test_edu_interrupts_by_intx_until_all_is_acknowledged():
    guest = Guest(Edu({}))
    irq = guest.listen(index=0)
    guest.write(edu.IRQ_RAISE, 0x5)
    assert guest.read(edu.IRQ_STATUS) == 5
    assert irq.count == 1
    guest.unmask()
    assert irq.count == 2

    guest.write(edu.IRQ_ACK, 0x1)
    guest.unmask()
    assert irq.count == 3
    guest.write(edu.IRQ_ACK, 0x4)
    guest.unmask()
    assert irq.count == 3
    guest.write(edu.IRQ_RAISE, 0x1)
    assert irq.count == 4


def transfer(guest, source, destination, length, command):
    for place, value in (
        (edu.DMA_SOURCE, source),
        (edu.DMA_DESTINATION, destination),
        (edu.DMA_LENGTH, length),
    ):
        guest.write(place, value)
    guest.write(edu.DMA_COMMAND, command)


def test_edu_copies_to_its_buffer_and_back():
    guest = Guest(Edu({}))
    guest.master()
    irq = guest.listen()
    memory = guest.bench.iommu.memory
    memory[0x3000:0x3100] = bytes(range(256))

    transfer(guest, 0x3000, edu.BUFFER + 0x10, 256, edu.DMA_RUN)
    assert guest.read(edu.DMA_COMMAND) & edu.DMA_RUN
    guest.write(edu.DMA_LENGTH, 1)  # registers do not change while it runs
    assert guest.work() == guest.now + 0.1
    assert guest.work(0.05) == guest.now + 0.05
    assert guest.work(0.1) is None
    assert guest.read(edu.DMA_COMMAND) & edu.DMA_RUN == 0
    assert irq.count == 0

    transfer(guest, edu.BUFFER + 0x10, 0x7000, 256, edu.DMA_RUN | edu.DMA_TO_MEMORY | edu.DMA_IRQ)
    guest.work()
    guest.work(0.1)
    assert memory[0x7000:0x7100] == bytes(range(256))
    assert guest.bench.iommu.dirty == {7}
    assert irq.count == 1
    assert guest.read(edu.IRQ_STATUS) == edu.IRQ_DMA


@pytest.mark.parametrize(
    ("source", "destination", "length", "command"),
    [
        (0x3000, edu.BUFFER - 1, 4, 1),
        (0x3000, edu.BUFFER + 0xFFD, 4, 1),
        (0x3000, edu.BUFFER, 0x1001, 1),
        (edu.BUFFER, 0x3000, 0x2000, 3),
        (edu.BUFFER, 0x0FFF_F000, 16, 3),  # beyond guest memory
        (edu.BUFFER, 0x3000, 0, 3),
    ],
)
def test_edu_survives_transfers_that_cannot_be_made(source, destination, length, command):
    guest = Guest(Edu({"dma-delay": 0}))
    guest.master()
    before = bytes(guest.bench.iommu.memory)

    transfer(guest, source, destination, length, command | edu.DMA_IRQ)
    assert guest.work() is None

    assert guest.read(edu.DMA_COMMAND) & edu.DMA_RUN == 0
    assert guest.read(edu.IRQ_STATUS) == edu.IRQ_DMA
    assert bytes(guest.bench.iommu.memory) == before


def test_edu_does_no_dma_without_bus_mastering_and_cuts_addresses():
    guest = Guest(Edu({"dma-delay": 0, "dma-mask": 0xFFFF}))
    guest.bench.model.hardware.buffer[:4] = b"data"
    transfer(guest, edu.BUFFER, 0x2000, 4, 3)
    guest.work()
    assert guest.bench.iommu.memory[0x2000:0x2004] == bytes(4)

    guest.master()
    transfer(guest, edu.BUFFER, 0xABC2000, 4, 3)
    guest.work()
    assert guest.bench.iommu.memory[0x2000:0x2004] == b"data"


def test_edu_keeps_its_registers_and_drops_its_transfer_when_it_is_closed():
    guest = Guest(Edu({}))
    guest.write(edu.LIVENESS, 1)
    guest.write(edu.DMA_COMMAND, edu.DMA_RUN)
    guest.bench.process.close(guest.bench.fd)
    guest.bench.fd = guest.bench.open()
    assert guest.read(edu.LIVENESS) == U32 ^ 1
    assert guest.read(edu.DMA_COMMAND) == 0


@pytest.mark.parametrize(
    "options", [{"dma-mask": 0}, {"dma-mask": True}, {"dma-delay": -1}, {"dma-delay": "1"}]
)
def test_options_of_edu_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Edu(options)


# --- e1000e ---


def test_e1000e_registers_and_its_second_way_to_them():
    guest, ports = Guest(E1000e({})), None
    assert guest.read(0) == guest.read(4) == 0x00140241
    guest.write(4, 0x41)
    assert guest.read(0) == 0x41
    assert guest.read(1, 1) == 0
    guest.write(0x2800, 0x12345678)  # RDBAL 0
    guest.write(0x2800, 0xFF, size=1)
    assert guest.read(0x2800) == 0x12345678
    guest.write(8, 0)
    assert guest.read(8) == 0x302

    ports = guest.bench
    assert ports.pwrite(struct.pack("<I", 0x2800), 2 << 40).ret == 4
    assert ports.pread(8, 2 << 40) == struct.pack("<II", 0x2800, 0x12345678)
    assert ports.pwrite(struct.pack("<I", 7), (2 << 40) + 4).ret == 4
    assert guest.read(0x2800) == 7

    guest.write(0, 1 << 26)
    assert guest.read(0x2800) == 0
    assert guest.read(0) == 0x00140241


def test_e1000e_interrupt_causes():
    guest = Guest(E1000e({}))
    irq = guest.listen(index=0)
    guest.write(0xC8, 0x4)
    assert irq.count == 0
    guest.write(0xD0, 0x6)
    assert irq.count == 1
    assert guest.read(0xC0) == 4  # clears
    guest.unmask()
    assert irq.count == 1
    guest.write(0xC8, 0x2)
    assert irq.count == 2
    guest.write(0xD8, 0x2)
    guest.unmask()
    assert irq.count == 2
    guest.write(0xC0, 0x2)
    assert guest.read(0xC0) == 0


# --- nvme ---


def test_nvme_gets_ready_and_shuts_down():
    guest = Guest(Nvme({}))
    assert guest.read(0, 8) == 0x00401820_0F0107FF
    assert guest.read(8) == 0x00010400
    assert guest.read(1, 1) == 7
    guest.write(0x24, 0x001F001F)
    guest.write(0x28, 0x12345_FFF_0000_1FFF, size=8)
    assert guest.read(0x28, 8) == 0x12345_FFF_0000_1000

    guest.write(0x14, 0x00460001)
    assert guest.read(0x1C) == 1
    guest.write(0x14, 0x00464001)
    assert guest.read(0x1C) == 9
    guest.write(0x14, 0x00460000)
    assert guest.read(0x1C) == 0
    assert guest.read(0x24) == 0x001F001F

    guest.write(0x0C, 0x5)
    assert guest.read(0x10) == 5
    guest.write(0x10, 0x1)
    assert guest.read(0x0C) == 4
    guest.write(0x1000, 3)  # a doorbell
    assert guest.bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
    assert guest.read(0x24) == guest.read(0x0C) == 0


# --- pci-testdev ---


@pytest.mark.parametrize(("bar", "half", "kind"), [(0, 0x800, 0), (1, 0x80, 1)])
def test_testdev_counts_what_it_asks_for(bar, half, kind):
    guest = Guest(PciTestdev({}), bar)
    assert guest.read(0, 8) == 0
    for number, name in enumerate((b"no-eventfd", b"wildcard-eventfd", b"datamatch-eventfd")):
        guest.write(0, number, size=1)
        offset = half + 3 * kind + number
        data = 0xCE if number == 1 else 0xFA
        assert guest.read(0, 1) == 3 * kind + number
        assert guest.read(4) == offset
        assert guest.read(8, 1) == data
        assert guest.bench.pread(8, guest.base + 16)[:6] == ((b"portio-" if kind else b"mmio-") + name)[:6]
        for value in (0xFA, 0xFB, 0xFA):
            guest.write(offset, value, size=1)
        guest.write(offset + 5, 0xFA, size=1)
        assert guest.read(12) == (2 if number == 0 else 0)
    guest.write(0, 3, size=1)
    assert guest.read(0) == 0


# --- plain memory ---


def test_plain_functions_have_capabilities_that_were_asked_for():
    bench = Bench(PlainFunction({"msi": 4, "msix": 16, "reset": True, "bars": [4096]}), name=ADDRESS)
    assert bench.pwrite(b"abcdefg", 1).ret == 7
    assert bench.pread(9, 0) == b"\0abcdefg\0"
    for index, count in ((0, 1), (1, 4), (2, 16), (3, 1), (4, 1)):
        assert bench.ioctl(c.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<4I", 16, 0, index, 0)).ret == 0
        assert bench.answer(4, 12) == count.to_bytes(4, "little")
    assert bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
    assert bench.pread(4, 1) == bytes(4)


@pytest.mark.parametrize(
    "options", [{"msi": 3}, {"msix": 1, "bars": [16] * 6}, {"pcie": 1}, {"reset": "yes"}]
)
def test_plain_functions_that_cannot_be(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PlainFunction(options)
