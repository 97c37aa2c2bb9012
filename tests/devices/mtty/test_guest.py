# SPDX-License-Identifier: MIT
"""A mtty as a guest's driver uses it: found, tried, 64 KiB through it by interrupts, and migrated on the way."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.mtty.serial_driver import MCR, RDI, RLSI, SCR, Driver, Stalled, Vmm, run
from vfioemu.devices.mtty import Mtty
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

SET = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = 1, 2, 3, 4, 6


def guest(port=0, ports=2, main_loop=lambda: True, model=Mtty):
    bench = Bench(model({"ports": ports}))
    bench.ioctl(c.VFIO_DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
    return Driver(Vmm(bench, main_loop), port)


@pytest.mark.parametrize("port", [0, 1])
def test_a_driver_finds_a_16550a(port):
    driver = guest(port)
    assert driver.autoconfig() == ("16550A", 16)
    driver.outb(SCR, 0x5A)
    assert driver.inb(SCR) == 0x5A


@pytest.mark.parametrize(
    ("port", "loop", "kib"),
    [pytest.param(0, 0x10, 64, marks=pytest.mark.slow), (0, 0x10, 8), (1, 0x10, 4), (0, 0, 4), (1, 0, 4)],
)
def test_what_is_sent_arrives_by_interrupts(port, loop, kib):
    driver = guest(port)
    driver.autoconfig()
    driver.startup()
    driver.outb(MCR, 0x0B | loop)
    data = random.Random(port).randbytes(kib << 10)

    driver.write(data)
    run(driver, lambda: len(driver.received) == len(data))

    assert driver.received == data
    assert driver.vmm.interrupts > kib
    assert driver.unhandled <= driver.vmm.interrupts // 2


@pytest.mark.parametrize("size", range(1, 40))
def test_the_last_bytes_arrive_however_few(size):
    driver = guest()
    driver.startup()
    data = bytes(range(size))
    driver.write(data)
    run(driver, lambda: len(driver.received) == size)
    assert driver.received == data


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 300), st.integers(0, 5))
def test_whenever_the_main_loop_runs_nothing_is_lost(pattern, size, seed):
    """A pattern of turns of the main loop between accesses."""
    choice = random.Random(seed)
    turns = iter(lambda: pattern[choice.randrange(len(pattern))], None)
    driver = guest(main_loop=lambda: next(turns))
    driver.startup()
    data = choice.randbytes(size)

    driver.write(data)
    run(driver, lambda: len(driver.received) == size)

    assert driver.received == data


class EventsOnly(Mtty):
    """The sample as it is: unmasking looks at nothing."""

    def _raise_level(self):
        yield from ()


def test_a_device_that_raises_at_events_only_is_caught():
    """Negative control: the tests above can tell."""
    driver = guest(model=EventsOnly)
    driver.startup()
    driver.write(bytes(4 << 10))
    with pytest.raises(Stalled):
        run(driver, lambda: len(driver.received) == 4 << 10)


def set_state(bench, state):
    result, payload = bench.feature(SET, struct.pack("<Ii", state, -1))
    assert result.err is None, result
    return struct.unpack("<Ii", payload)[1]


def move_v2(source, destination):
    data_fd = set_state(source, PRE_COPY)
    stream = b""
    while size := source.process.read(data_fd, source.arg, 7).ret:
        stream += source.answer(size)
    set_state(source, STOP_COPY)
    while size := source.process.read(data_fd, source.arg, 7).ret:
        stream += source.answer(size)
    set_state(source, STOP)
    data_fd = set_state(destination, RESUMING)
    for at in range(0, len(stream), 11):
        destination.process.memory.write(destination.arg, stream[at : at + 11])
        assert destination.process.write(data_fd, destination.arg, len(stream[at : at + 11])).err is None
    set_state(destination, RUNNING)


def move_v1(source, destination):
    base = 9 << 40

    def field(bench, offset, size):
        return int.from_bytes(bench.pread(size, base + offset), "little")

    def write(bench, offset, size, value):
        assert bench.pwrite(value.to_bytes(size, "little"), base + offset).err is None

    write(destination, 0, 4, 4)
    write(source, 0, 4, 3)
    for state in (2, 0):
        while field(source, 8, 8):
            offset, size = field(source, 16, 8), field(source, 24, 8)
            data = source.pread(size, base + offset)
            assert destination.pwrite(data, base + field(destination, 16, 8)).err is None
            write(destination, 24, 8, size)
        write(source, 0, 4, state)
    write(destination, 0, 4, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["v1", "v2"]),
    st.integers(0, 1),
    st.integers(1, 200),
    st.lists(st.integers(0, 120), min_size=1, max_size=3),
    st.integers(0, 3),
)
def test_a_guest_that_is_moved_at_any_access_loses_nothing(protocol, port, size, moments, seed):
    """Between any two accesses of the driver; with an interrupt under way, or not."""
    choice = random.Random(seed)
    clock = [0]

    def main_loop():
        clock[0] += 1
        if moments and clock[0] >= moments[0]:
            clock[0] = 0
            moments.pop(0)
            migrate()
        return choice.random() < 0.5

    def new_bench():
        return Bench(Mtty({"ports": 2, "info-known": True}), migration=protocol)

    bench = new_bench()
    driver = Driver(Vmm(bench, main_loop), port)

    def migrate():
        new = new_bench()
        (move_v1 if protocol == "v1" else move_v2)(driver.vmm.bench, new)
        driver.vmm = Vmm(new, main_loop)

    driver.startup()
    data = choice.randbytes(size)
    driver.write(data)
    run(driver, lambda: len(driver.received) == size)
    assert driver.received == data


def test_an_interrupt_that_was_under_way_comes_again_after_a_migration():
    source = guest(ports=1)
    source.startup()
    destination = Bench(Mtty({"info-known": True}))
    move_v2(source.vmm.bench, destination)

    vmm = Vmm(destination)
    vmm.run_main_loop()

    pending = vmm.pending
    assert vmm.inb(0, 2) == 0xC1
    vmm.run_main_loop()
    assert (pending, vmm.pending) == (
        True,
        False,
    )  # whether there is anything or not: the guest's pin may be up
    assert destination.pread(1, 1) == bytes([RDI | RLSI])
