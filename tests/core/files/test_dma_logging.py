# SPDX-License-Identifier: MIT
"""DMA logging: the checks of START and REPORT, and what a report leaves in memory, against bits set one by one."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vfioemu.core.base.effects import Breathe, Locked, ReadUser, WriteUser
from vfioemu.core.files import dma_logging
from vfioemu.core.model.device import DeviceModel
from vfioemu.testing.bench import Bench
from vfioemu.testing.scheduler import Scheduler
from vfioemu.uapi import constants as c

PAGE = 4096
START = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START
STOP = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP
REPORT = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
TOP = 1 << 64


class Logger(DeviceModel):
    """Takes any range, and reports what it is given."""

    has_dma_logging = True

    def __init__(self):
        super().__init__({})
        self.ranges = None
        self.records = []

    def log_start(self, page_size, ranges):
        self.ranges = [(range_.start, range_.last) for range_ in ranges]
        return 0x2000

    def log_stop(self):
        self.ranges = None

    def log_report(self, iova, length, sink):
        records, self.records = self.records, []
        for record in records:
            if isinstance(record[1], bytes):
                sink.merge(*record)
            else:
                sink.set(*record)


def start(bench, page_size, *ranges, mode="rw"):
    at = bench.arg + 0x8000
    bench.process.memory.write(at, b"".join(struct.pack("<QQ", *range_) for range_ in ranges))
    payload = struct.pack("<QIIQ", page_size, len(ranges), 0xABCD, at)
    return bench.feature(START, payload)


@pytest.mark.parametrize(
    ("page_size", "ranges", "errno"),
    [
        (PAGE, [], "EINVAL"),
        (PAGE, [(0, PAGE)] * 257, "E2BIG"),
        (PAGE, [(i * PAGE, PAGE) for i in range(256)], None),
        (PAGE, [(0x800, PAGE)], "EINVAL"),
        (PAGE, [(0, 0x800)], "EINVAL"),
        (PAGE, [(TOP - PAGE, PAGE)], "EOVERFLOW"),
        (PAGE, [(TOP - 2 * PAGE, PAGE)], None),
        (PAGE, [(0, 2 * PAGE), (PAGE, PAGE)], "EINVAL"),
        (PAGE, [(PAGE, PAGE), (PAGE, PAGE)], "EINVAL"),
        (PAGE, [(PAGE, PAGE), (0, PAGE), (2 * PAGE, PAGE)], None),
        (PAGE, [(PAGE, 0)], None),
        (PAGE, [(PAGE, 0), (PAGE, 0)], None),
        (PAGE, [(PAGE, 0), (0, 2 * PAGE)], "EINVAL"),
        (PAGE, [(0, 0), (8 * PAGE, PAGE)], "EINVAL"),
        (PAGE, [(PAGE, 0), (PAGE, PAGE)], None),
        (0, [(0, 0)], None),
        (0, [(0, 1)], "EINVAL"),
        (6000, [(0, 1 << 30)], None),
        (6000, [(0x1000, 1 << 30)], "EINVAL"),
    ],
)
def test_start_checks_what_the_core_checks(page_size, ranges, errno):
    bench = Bench(Logger())

    result, payload = start(bench, page_size, *ranges)

    assert result.err == errno
    if errno is None:
        assert bench.model.ranges == sorted(
            ((iova, (iova + length - 1) % TOP) for iova, length in ranges), key=lambda range_: range_[0]
        )
        assert payload[:16] == struct.pack("<QII", 0x2000, len(ranges), 0xABCD)
    else:
        assert bench.model.ranges is None


class Busy(Logger):
    """Writes something that takes its time."""

    tells_p2p = True

    def work(self, now):
        yield Breathe()
        return None


def until(steps, memory, wanted):
    """Drive a handler up to an effect that cannot be performed at once; None: to its end."""
    result = None
    try:
        while True:
            effect = steps.send(result)
            result = None
            if isinstance(effect, ReadUser):
                result = memory.read(effect.addr, effect.size)
            elif isinstance(effect, WriteUser):
                memory.write(effect.addr, bytes(effect.data))
            elif isinstance(effect, wanted) and (
                not isinstance(effect, Locked) or not effect.lock.acquire(lambda: None)
            ):
                return effect
    except StopIteration:
        return None


def test_log_begins_when_no_transfer_is_under_way():
    """What such a one writes after the log has begun is in no log: it was not there when the transfer began."""
    bench = Bench(Busy())
    memory = bench.process.memory
    memory.write(bench.arg, struct.pack("<QIIQ", PAGE, 1, 0, bench.arg + PAGE))
    memory.write(bench.arg + PAGE, struct.pack("<QQ", 0, PAGE))
    work = bench.device.work(0.0)
    assert isinstance(until(work, memory, (Breathe, Locked)), Breathe)
    begin = dma_logging.start(bench.device, bench.arg)

    assert isinstance(until(begin, memory, Locked), Locked)
    assert bench.model.ranges is None

    assert until(work, memory, Locked) is None
    assert until(begin, memory, Locked) is None
    assert bench.model.ranges == [(0, PAGE - 1)]


def test_start_reads_every_range_before_the_driver_is_asked():
    bench = Bench(Logger())
    payload = struct.pack("<QIIQ", PAGE, 2, 0, bench.arg + 0xFFF0)

    assert bench.feature(START, payload)[0].err == "EFAULT"
    assert bench.model.ranges is None


def test_logging_ends_again_when_start_cannot_be_answered():
    bench = Bench(Logger())
    memory = bench.process.memory
    memory.write(bench.arg, struct.pack("<IIQIIQ", 32, START, PAGE, 1, 0, bench.arg + PAGE))
    memory.write(bench.arg + PAGE, struct.pack("<QQ", 0, PAGE))
    memory.protect(bench.arg, PAGE, "r")

    assert bench.process.ioctl(bench.fd, c.VFIO_DEVICE_FEATURE, bench.arg).err == "EFAULT"
    assert bench.model.ranges is None


@pytest.mark.parametrize(
    ("iova", "length", "page_size", "errno"),
    [
        (0, PAGE, 0x800, "EINVAL"),
        (0, PAGE, 0x3000, "EINVAL"),
        (0, PAGE, 0, "EINVAL"),
        (TOP - PAGE, PAGE, PAGE, "EOVERFLOW"),
        (TOP - PAGE, PAGE - 1, PAGE, None),
        (0x123, 0x77, PAGE, None),
        (0, 0, PAGE, None),
    ],
)
def test_report_checks_what_the_core_checks(iova, length, page_size, errno):
    bench = Bench(Logger())

    assert bench.feature(REPORT, struct.pack("<QQQQ", iova, length, page_size, 0))[0].err == errno


def test_a_report_to_nowhere_is_no_error_and_loses_what_was_dirty():
    bench = Bench(Logger())
    bench.model.records = [(PAGE, PAGE)]

    assert bench.feature(REPORT, struct.pack("<QQQQ", 0, 1 << 20, PAGE, 0))[0].ret == 0
    assert bench.model.records == []


ADDRESSES = st.integers(0, 3000).map(lambda page: page * 0x800)
SIZES = st.integers(1, 200).map(lambda pages: pages * 0x800)
RECORDS = st.lists(st.tuples(ADDRESSES, SIZES), max_size=12)
PLANES = st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=24)), max_size=3)
PROTECTIONS = st.lists(st.sampled_from(["rw", "rw", "rw", "r", "none"]), min_size=4, max_size=4)


@given(
    base=ADDRESSES,
    length=st.integers(1, 3000).map(lambda pages: pages * 0x800),
    shift=st.sampled_from([12, 12, 13, 16]),
    offset=st.integers(3 * PAGE - 300, 3 * PAGE + 300) | st.integers(0, 64),
    fill=st.sampled_from([0, 0xA5]),
    records=RECORDS,
    planes=PLANES,
    protections=PROTECTIONS,
)
def test_a_report_sets_what_bits_set_one_by_one_would(
    base, length, shift, offset, fill, records, planes, protections
):
    bench = Bench(Logger())
    memory = bench.process.memory
    at = memory.allocate(4 * PAGE)
    memory.write(at, bytes([fill]) * (4 * PAGE))
    total = (length - 1 >> shift + 3) + 1
    records = [
        (iova, min(size, base + length - iova)) for iova, size in records if base <= iova < base + length
    ]
    planes = [(where, bits) for where, bits in planes if where + len(bits) <= total]
    bench.model.records = [*records, *planes]
    expected = bytearray([fill]) * (4 * PAGE)
    bits = {
        bit
        for iova, size in records
        for bit in range(iova - base >> shift, (iova + size - 1 - base >> shift) + 1)
    }
    bits |= {
        where * 8 + i for where, data in planes for i in range(8 * len(data)) if data[i // 8] >> i % 8 & 1
    }
    for bit in bits:
        where = offset + bit // 8
        if where < 4 * PAGE and protections[where // PAGE] == "rw":
            expected[where] |= 1 << bit % 8
    for i, protection in enumerate(protections):
        memory.protect(at + i * PAGE, PAGE, protection)

    result, _ = bench.feature(REPORT, struct.pack("<QQQQ", base, length, 1 << shift, at + offset))

    for i in range(4):
        memory.protect(at + i * PAGE, PAGE, "rw")
    assert result.ret == 0
    assert memory.read(at, 4 * PAGE) == bytes(expected)


@given(
    base=st.integers(0, 1 << 20),
    shift=st.sampled_from([12, 13, 16]),
    room=st.integers(1, 40),
    records=st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(0, 1 << 20)), min_size=1, max_size=6),
)
@example(base=0x800, shift=12, room=1, records=[(0x800, 0x10000)])
def test_a_bitmap_that_ends_too_early_gets_the_bits_that_it_has_room_for(base, shift, room, records):
    """Also where the report begins, and a record ends, in the middle of a page: the kernel goes round for ever there."""
    bench = Bench(Logger())
    at = bench.process.memory.allocate(PAGE)
    bench.model.records = [(base + offset, size) for offset, size in records]
    expected = bytearray(PAGE)
    for offset, size in records:
        for bit in range(offset >> shift, (offset + size - 1 >> shift) + 1 if size else 0):
            if bit < 8 * room:
                expected[PAGE - room + bit // 8] |= 1 << bit % 8

    payload = struct.pack("<QQQQ", base, 1 << 23, 1 << shift, at + PAGE - room)
    result, _ = bench.feature(REPORT, payload)

    assert result.ret == 0
    assert bench.process.memory.read(at, PAGE) == expected


@pytest.mark.parametrize("iova", [0, PAGE + 0x800, TOP - PAGE])
def test_a_report_of_nothing_ends_and_writes_nothing(iova):
    """Asked about no bytes in the middle of one of its pages, a device reports no bytes from there on."""
    bench = Bench(Logger())
    at = bench.process.memory.allocate(2 * PAGE)
    bench.model.records = [(iova, 0)]

    result, _ = bench.feature(REPORT, struct.pack("<QQQQ", iova, 0, PAGE, at + 5))

    assert result.ret == 0
    assert bench.process.memory.read(at, 2 * PAGE) == bytes(2 * PAGE)


def test_a_huge_report_costs_what_is_there():
    bench = Bench(Logger())
    at = bench.process.memory.allocate(2 * PAGE)
    bench.model.records = [(0, 1 << 60)]

    result, _ = bench.feature(REPORT, struct.pack("<QQQQ", 0, 1 << 62, PAGE, at + 5))

    assert result.ret == 0
    assert bench.process.memory.read(at, 2 * PAGE) == bytes(5) + b"\xff" * (2 * PAGE - 5)


class OnePage(Logger):
    """Reports a page of each range that it is asked for."""

    def log_report(self, iova, length, sink):
        return sink.set(iova + PAGE * (iova // PAGE % 8), PAGE)


@given(st.randoms(use_true_random=False))
def test_two_reports_of_one_process_do_not_lose_each_others_bits(random):
    bench = Bench(OnePage(), Scheduler(random.choice))
    memory = bench.process.memory
    at = memory.allocate(PAGE)
    for i in range(2):
        payload = struct.pack("<IIQQQQ", 40, REPORT, i * PAGE, 8 * PAGE, PAGE, at)
        memory.write(bench.arg + i * 256, payload)

    tasks = [
        bench.process.start_ioctl(bench.fd, c.VFIO_DEVICE_FEATURE, bench.arg + i * 256) for i in range(2)
    ]
    for task in tasks:
        bench.process.scheduler.run(task)

    assert memory.read(at, 1) == b"\x03"


def test_a_record_ends_at_a_page_that_is_missing():
    """iova_bitmap_set() returns when it cannot pin on; another record behind the hole is not affected."""
    bench = Bench(Logger())
    memory = bench.process.memory
    at = memory.allocate(3 * PAGE)
    memory.protect(at + PAGE, PAGE, "none")
    page_of_bits = 8 * PAGE * PAGE
    bench.model.records = [(0, 3 * page_of_bits), (2 * page_of_bits + 8 * PAGE, PAGE)]

    result, _ = bench.feature(REPORT, struct.pack("<QQQQ", 0, 3 * page_of_bits, PAGE, at))

    assert result.ret == 0
    assert memory.read(at, PAGE) == b"\xff" * PAGE
    assert memory.read(at + 2 * PAGE, PAGE) == bytes([0, 1]) + bytes(PAGE - 2)
