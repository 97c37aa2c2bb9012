# SPDX-License-Identifier: MIT
"""What MSI, MSI-X and INTx need before they come, and what is pending meanwhile."""

import struct

import pytest

from tests.devices.pci.irq_model import EVENTFD, NONE, OK, TRIGGER
from tests.devices.pci.rigs import ADDRESS, CONFIG, MASTER, Console
from vfioemu.devices.pci import Bar, Function, Msi, MsiX, PciHardware, PowerManagement, VfioPci
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

INTX_DISABLE = 0x400
PBA = (1 << 40) + 0x800


def ring(console, vector=0):
    return console.bench.run(console.bench.model.hardware.interrupt(vector))


def capability(bench, wanted):
    at = bench.pread(1, CONFIG + 0x34)[0]
    while bench.pread(1, CONFIG + at)[0] != wanted:
        at = bench.pread(1, CONFIG + at + 1)[0]
    return CONFIG + at


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("command", [0, 1, 2, 3, 0x400, 0x100 | 3])
def test_no_message_without_bus_mastering(index, command):
    console = Console()
    assert console.call(index, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    console.command(command)
    assert not ring(console)
    console.command(command | 4)
    assert console.rung()["a"] == 0  # it was lost
    assert ring(console)
    assert console.rung()["a"] == 1
    console.command(command)
    assert not ring(console)
    assert console.rung()["a"] == 1


@pytest.mark.parametrize("index", [1, 2])
def test_software_needs_no_bus_master(index):
    console = Console()
    assert console.call(index, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    console.command(0)
    assert console.call(index, NONE | TRIGGER, 0, 1, []) == OK
    assert console.rung()["a"] == 1


@pytest.mark.parametrize("index", [1, 2])
def test_no_message_from_d3hot(index):
    console = Console(PowerManagement(no_soft_reset=True))
    console.command(MASTER)
    assert console.call(index, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    power = capability(console.bench, 1) + 4
    console.bench.pwrite(b"\x03", power)
    assert not ring(console)
    console.bench.pwrite(b"\x00", power)
    assert ring(console)
    assert console.rung()["a"] == 1


def test_a_guest_turns_msi_off_and_on():
    console = Console()
    console.command(MASTER)
    assert console.call(1, EVENTFD | TRIGGER, 0, 2, ["a", "b"]) == OK
    flags = capability(console.bench, 5) + 2
    assert ring(console, 1)  # SET_IRQS has enabled it, which the guest does not see

    console.bench.pwrite(b"\x10", flags)
    assert not ring(console, 1)
    assert (
        console.bench.pread(2, CONFIG + 6)[0] & 8
    )  # a function that has no MSI asserts INTx, which is disabled
    assert console.rung() == {"a": 0, "b": 1, "c": 0}
    console.bench.pwrite(b"\x11", flags)
    assert ring(console, 1)
    assert console.rung() == {"a": 0, "b": 2, "c": 0}


def test_a_guest_allows_fewer_messages():
    console = Console()
    console.command(MASTER)
    assert console.call(1, EVENTFD | TRIGGER, 0, 4, ["a", "b", "b", "b"]) == OK
    flags = capability(console.bench, 5) + 2
    assert ring(console, 3)
    console.bench.pwrite(b"\x01", flags)
    assert ring(console, 3)
    assert console.rung() == {"a": 1, "b": 1, "c": 0}


class Masking(PciHardware):
    def __init__(self, *, wide):
        caps = (Msi(8, is_64bit=wide, maskable=True),)
        super().__init__(Function(vendor=1, device=2, class_code=0, interrupt_pin=1, capabilities=caps))


@pytest.mark.parametrize("wide", [False, True])
def test_masked_msi_vectors_are_pending(wide):
    bench = Bench(VfioPci({}, Masking(wide=wide)), name=ADDRESS)
    bench.pwrite(b"\6", CONFIG + 4)
    eventfds = [bench.process.eventfd() for _ in range(8)]
    request = struct.pack("<5I8i", 52, EVENTFD | TRIGGER, 1, 0, 8, *eventfds)
    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, request).ret == 0
    mask = capability(bench, 5) + (16 if wide else 12)

    def counts():
        return [bench.process.fds[fd].what.count for fd in eventfds]

    bench.pwrite(struct.pack("<I", 0b1010), mask)
    for vector in (0, 1, 1, 3):
        bench.run(bench.model.hardware.interrupt(vector))
    assert counts() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert bench.pread(4, mask + 4) == b"\x0a\0\0\0"
    bench.pwrite(b"\xff" * 4, mask + 4)  # read-only
    assert bench.pread(4, mask + 4) == b"\x0a\0\0\0"

    bench.pwrite(b"\x08", mask)
    assert counts() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert bench.pread(4, mask + 4) == b"\x08\0\0\0"

    bench.pwrite(b"\2", CONFIG + 4)  # no bus master: it stays pending
    bench.pwrite(b"\0", mask)
    assert bench.pread(4, mask + 4) == b"\x08\0\0\0"
    bench.pwrite(b"\6", CONFIG + 4)
    assert counts() == [1, 1, 0, 1, 0, 0, 0, 0]
    assert bench.pread(4, mask + 4) == bytes(4)


def test_a_vector_of_msix_without_an_eventfd_is_pending():
    console = Console()
    console.command(MASTER)
    assert console.call(2, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert not ring(console, 5)
    assert not ring(console, 5)
    assert console.bench.pread(8, PBA) == b"\x20" + bytes(7)
    assert console.bench.pread(2, PBA) == b"\x20\0"
    assert console.bench.pread(16, PBA - 8) == bytes(8) + b"\x20" + bytes(7)

    assert console.call(2, EVENTFD | TRIGGER, 5, 1, ["b"]) == OK
    assert console.rung() == {"a": 0, "b": 1, "c": 0}
    assert console.bench.pread(8, PBA) == bytes(8)


@pytest.mark.parametrize("how", ["off", "reset"])
def test_nothing_is_pending_afterwards(how):
    console = Console(PowerManagement())
    console.command(MASTER)
    assert console.call(2, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    ring(console, 5)
    if how == "off":
        assert console.call(2, NONE | TRIGGER, 0, 0, []) == OK
        assert console.call(2, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    else:
        assert console.bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
    assert console.bench.pread(8, PBA) == bytes(8)
    assert console.call(2, EVENTFD | TRIGGER, 5, 1, ["b"]) == OK
    assert console.rung()["b"] == 0


def test_intx_needs_no_bus_master_but_its_disable_bit_clear():
    console = Console()
    console.command(2)
    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert ring(console)
    assert console.rung()["a"] == 1
    console.bench.run(console.bench.model.hardware.set_intx(False))
    assert console.call(0, NONE | 16, 0, 1, []) == OK

    console.command(2 | INTX_DISABLE)
    ring(console)
    assert console.rung()["a"] == 1
    console.command(2)
    assert console.rung()["a"] == 2


def test_pending_bits_lie_where_the_function_says():
    class Far(PciHardware):
        def __init__(self):
            super().__init__(
                Function(
                    vendor=1,
                    device=2,
                    class_code=0,
                    bars={2: Bar(0x4000, registers=0, beyond=0xEE)},
                    capabilities=(MsiX(70, table_bar=2, table_offset=0x1000, pba_bar=2, pba_offset=0x3008),),
                ),
            )

    bench = Bench(VfioPci({}, Far()), name=ADDRESS)
    bench.pwrite(b"\6", CONFIG + 4)
    request = struct.pack("<5Ii", 24, EVENTFD | TRIGGER, 2, 0, 1, bench.process.eventfd())
    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, request).ret == 0
    bench.run(bench.model.hardware.interrupt(69))
    for beyond in (70, 128, 4096):  # a mistake of the model's: there are no such vectors
        bench.run(bench.model.hardware.interrupt(beyond))
    assert bench.pread(32, (2 << 40) + 0x3000) == b"\xee" * 8 + bytes(8) + b"\x20" + bytes(7) + b"\xee" * 8
