# SPDX-License-Identifier: MIT
"""What a dma-engine writes, when, and what it tells of it."""

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stamps import Stamp
from vfioemu.abi.dma_engine import ENGINE_ID, Register
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.devices.dma_engine.pace import MAX_LAG, Pace
from vfioemu.devices.dma_engine.registers import DEFAULTS
from vfioemu.testing.bench import GUEST, Bench
from vfioemu.uapi import constants as c

PAGE = 4096


def stamps(memory, offset=0):
    found = ((page, Stamp.parse(memory, page + offset)) for page in range(0, len(memory), PAGE))
    return {page: stamp for page, stamp in found if stamp is not None}


# --- registers ---


def test_registers_begin_with_their_defaults(make):
    driver = make(id=7)

    assert driver.get("id") == ENGINE_ID
    assert driver.get("device_id") == 7
    for register, value in DEFAULTS.items():
        assert driver.get(register.name) == value
    assert driver.get("active") == 0


def test_a_block_of_registers_is_one_write_and_reads_come_in_any_pieces(make):
    driver = make()
    block = struct.pack("<4Q", PAGE, 8 * PAGE, 1, 77)

    assert driver.write(Register.BASE, block).ret == 32
    bar = b"".join(
        driver.process.memory.read(driver.arg, 3)
        for at in range(0, 0x1000 - 3, 3)
        if driver.process.pread(driver.fd, driver.arg, 3, at).ret == 3
    )
    assert bar[Register.BASE : Register.BASE + 32] == block


def test_halves_are_merged(make):
    driver = make()

    driver.write(Register.SEED + 4, struct.pack("<I", 0xAABBCCDD))
    driver.write(Register.SEED, struct.pack("<I", 0x11223344))

    assert driver.get("seed") == 0xAABBCCDD11223344


@pytest.mark.parametrize(("offset", "size"), [(0x10, 3), (0x12, 4), (0x14, 8), (0x10, 12), (0x10, 0)])
def test_other_shapes_of_writes_are_refused_before_they_are_read(make, offset, size):
    driver = make()

    assert driver.process.pwrite(driver.fd, 0x1, size, offset).err == "EINVAL"


def test_read_only_registers_ignore_writes(make):
    driver = make()

    assert driver.write(Register.SEQ, struct.pack("<Q", 5)).ret == 8
    assert driver.write(0x800, struct.pack("<Q", 5)).ret == 8

    assert driver.get("seq") == 0


@pytest.mark.parametrize(
    ("register", "value"),
    [
        ("CONTROL", 2),
        ("CONTROL", 1),  # without an area
        ("BASE", 1),
        ("SIZE", PAGE + 1),
        ("SIZE", 1 << 49),
        ("PATTERN", 4),
        ("IRQ_VECTOR", 8),
        ("WRITE_SIZE", 31),
        ("WRITE_SIZE", PAGE + 1),
        ("OFFSET", PAGE),
        ("HOT_PAGES", 0),
        ("PIN_MODE", 3),
        ("PIN_PAGES", 0),
        ("BATCH", 0),
        ("BATCH", 257),
    ],
)
def test_values_that_make_no_sense_are_refused(make, register, value):
    driver = make()
    before = driver.get(register)

    assert driver.write(Register[register], struct.pack("<Q", value)).err == "EINVAL"

    assert driver.get(register) == before


def test_a_running_device_cannot_be_given_registers_with_which_it_cannot_run(make):
    driver = make()
    driver.set(size=PAGE, write_size=PAGE, control=1)

    assert driver.write(Register.OFFSET, struct.pack("<Q", 8)).err == "EINVAL"
    assert driver.write(Register.SIZE, bytes(8)).err == "EINVAL"


# --- writes ---


@given(
    base=st.integers(0, 8),
    npages=st.integers(1, 40),
    pattern=st.integers(0, 2),
    size=st.integers(32, 300),
    offset=st.integers(0, PAGE - 300),
    counts=st.lists(st.integers(0, 100), max_size=5),
    batch=st.integers(1, 256),
)
def test_every_write_is_stamped_where_it_goes(base, npages, pattern, size, offset, counts, batch):
    bench = Bench(DmaEngine({"id": 99}))
    registers = (base * PAGE, npages * PAGE, pattern, 1000, size, offset, 5, 3)
    bench.pwrite(struct.pack("<8Q", *registers), Register.BASE)
    bench.pwrite(struct.pack("<Q", batch), Register.BATCH)

    for count in counts:
        assert bench.pwrite(struct.pack("<4Q", count, 0, 0, 3), Register.ARG0).ret == 32

    memory = bench.iommu.memory
    found = stamps(memory, offset)
    total = sum(counts)
    assert {page // PAGE for page in found} == bench.iommu.dirty
    assert all(base <= page // PAGE < base + npages for page in found)
    for page, stamp in found.items():
        assert stamp == Stamp(99, stamp.seq, page + offset)
        assert 1 <= stamp.seq <= total
        filler = memory[page + offset + 32 : page + offset + size]
        assert filler == bytes([stamp.seq & 0xFF]) * (size - 32)
    seq, writes, bytes_ = struct.unpack("<3Q", bench.pread(24, Register.SEQ))
    assert (seq, writes, bytes_) == (total, total, total * size)
    if pattern == 0:
        expected = {(i % npages + base) * PAGE: i + 1 for i in range(total)}
        assert {page: stamp.seq for page, stamp in found.items()} == expected


def test_nine_of_ten_writes_are_hot(make):
    driver = make()
    driver.set(size=1000 * PAGE, pattern=2, hot_pages=10)
    pages = Counter(driver.device.model.hardware.writer.next_pages(10000))

    hot = sum(count for page, count in pages.items() if page < 10 * PAGE)

    assert 0.88 < hot / 10000 < 0.93
    assert len(pages) > 500


def test_writes_that_reach_no_memory_are_counted(make):
    driver = make()
    driver.set(base=GUEST - PAGE, size=2 * PAGE)

    assert driver.command("write", 10) == 5

    assert (driver.get("writes"), driver.get("failed"), driver.get("seq")) == (5, 5, 10)


def test_commands_refuse_what_they_cannot_do(make):
    driver = make()

    assert driver.command("write", 1) == -22
    driver.set(size=PAGE)
    assert driver.command("write", 1 << 20) == -22
    assert driver.command("pin", 0, 513, 2) == -7
    assert driver.command("pin", GUEST, 1, 2) == -22
    assert driver.command("pin", 0, 3, 2) == 3
    assert driver.command("unpin", PAGE, 1 << 40) == 2
    assert driver.command("unpin_all") == 1
    assert not driver.iommu.pins


def test_an_interrupt_comes_after_so_many_writes(make):
    driver = make()
    eventfd = driver.process.eventfd()
    header = struct.pack("<5Ii", 24, 0x24, 1, 0, 1, eventfd)
    assert driver.ioctl(c.VFIO_DEVICE_SET_IRQS, header).ret == 0
    driver.set(size=4 * PAGE, irq_every=10)

    driver.command("write", 35)

    driver.process.read(eventfd, driver.arg, 8)
    assert driver.process.memory.read(driver.arg, 8) == struct.pack("<Q", 3)
    assert driver.get("irqs") == 3


# --- time ---


@given(
    rate=st.integers(1, 500_000),
    duration=st.floats(0.01, 1.0),
    batch=st.integers(1, 256),
    hold=st.floats(0, 0.2),
)
def test_a_rate_is_kept_whenever_it_is_asked(rate, duration, batch, hold):
    pace = Pace()
    now, asked, total, calls = 5.0, 5.0, 0, 0
    while now <= 5.0 + duration:
        asked = now
        calls += 1
        count = pace.due(now, rate, 1024)
        pace.done(count)
        total += count
        now = pace.next(now, rate, batch)
        if calls == 3:
            now += hold

    behind = rate * (asked - 5.0) - total
    assert -1 <= behind <= max(1, rate * hold - 1024, 0) + 1
    assert calls <= 5 + rate * duration / max(1, min(batch, int(rate * 0.002)))


def test_what_a_device_missed_for_too_long_is_forgotten():
    pace = Pace()
    pace.due(0.0, 1000, 1024)

    assert pace.due(100.0, 1000, 1024) == 1024
    pace.done(1024)
    assert pace.due(100.0, 1000, 1024) == 0
    assert MAX_LAG < 100


def test_as_many_as_possible_is_at_once():
    pace = Pace()

    assert pace.due(1.0, 0, 1024) == 1024
    assert pace.next(1.0, 0, 64) == 1.0


def test_a_running_device_writes_at_its_rate_and_stops_at_its_limit(make):
    driver = make(pins="keep")
    driver.set(size=16 * PAGE, rate=1000, limit=300, control=1)
    assert driver.get("active") == 1

    driver.work(until=0.1)
    assert driver.get("seq") == pytest.approx(100, abs=5)
    assert driver.get("pinned") == 16
    driver.work(until=2.0)

    assert driver.get("seq") == 300
    assert driver.get("control") == 0
    assert driver.get("pinned") == 0
    assert driver.process.scheduler.call(driver.device.work(9.0), driver.process) is None


def test_starting_wakes_the_worker(make):
    driver = make()
    woken = []
    driver.device.on_wake.append(lambda: woken.append(1))
    driver.set(size=PAGE)
    woken.clear()

    driver.set(control=1)

    assert woken


def test_reset_is_power_on(make):
    driver = make()
    driver.set(size=PAGE, seed=5, control=1)
    driver.command("write", 3)
    driver.command("pin", 0, 1, 2)

    assert driver.ioctl(c.VFIO_DEVICE_RESET).ret == 0

    assert (driver.get("control"), driver.get("seq"), driver.get("pinned")) == (0, 0, 0)
    assert not driver.iommu.pins


@pytest.mark.parametrize(
    "options",
    [
        {"type": 0},
        {"type": 4},
        {"type": True},
        {"id": -1},
        {"migration": "all"},
        {"migration": ["p2p"]},
        {"migration": ["warp"]},
        {"logging": 1},
        {"pins": "some"},
        {"type": 2, "pins": "keep"},
        {"pin-from": "run"},
        {"hide": "x"},
        {"hide-page": 5},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=list(options)[-1]):
        DmaEngine(options)
