# SPDX-License-Identifier: MIT
"""The oracle where no trace goes: absurd arguments, and its dirty log against a set of pages."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.files import data
from vfioemu.core.model.streams import DEFAULT_CHUNK
from vfioemu.devices.oracle import Oracle
from vfioemu.devices.oracle.dirty_log import PageRuns
from vfioemu.devices.oracle.migrate import stream_bytes
from vfioemu.testing.bench import GUEST, Bench
from vfioemu.uapi import constants as c

PAGE = 4096
PIN, UNPIN, RW, NOTIFY, LOG_DIRTY, ARCS, FAIL, SIZES, IRQ, NPINNED = range(1, 11)
CONFIG = 7 << 40


@pytest.fixture
def bench():
    return Bench(Oracle({"variant": "migspc"}))


def command(bench, *words):
    numbers = [word % (1 << 64) for word in words]
    assert bench.pwrite(struct.pack("<8Q", *numbers, *[0] * (8 - len(words))), 0).ret == 64
    return struct.unpack("<8q", bench.pread(64, 0))[0]


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "take"]), st.integers(0, 60), st.integers(0, 12)),
        max_size=30,
    )
)
def test_runs_of_pages_are_a_set_of_pages(steps):
    runs = PageRuns()
    model = set()

    for kind, first, count in steps:
        pages = set(range(first, first + count + 1))
        if kind == "add":
            runs.add(first, first + count)
            model |= pages
        else:
            taken = runs.take(first, first + count)
            assert taken == sorted(taken)
            assert [page for low, high in taken for page in range(low, high + 1)] == sorted(model & pages)
            model -= pages

    assert {page for low, high in runs.take(0, 100) for page in range(low, high + 1)} == model


@given(
    st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 1 << 20), min_size=8, max_size=8),
    st.integers(0, 12),
)
def test_any_command_is_answered_at_once(words, operation):
    bench = Bench(Oracle({"variant": "migspc"}))
    payload = struct.pack("<QIIQ", PAGE, 1, 0, bench.arg + 0x8000)
    bench.process.memory.write(bench.arg + 0x8000, struct.pack("<QQ", 0, 1 << 62))
    assert bench.feature(c.VFIO_DEVICE_FEATURE_SET | 6, payload)[0].ret == 0
    command(bench, PIN, 0, 5, 3)

    result = command(bench, operation, *words[:7])

    assert result >= 0 or -result in range(1, 200) or operation == LOG_DIRTY
    assert command(bench, NPINNED) == bench.iommu.pins.total()


def test_counts_of_pins_are_as_wide_as_in_c(bench):
    assert command(bench, PIN, 0, 1 << 32, 3) == -22
    assert command(bench, PIN, 0, (1 << 32) + 2, 3) == 2
    assert command(bench, PIN, 0, -1, 3) == -7
    assert command(bench, UNPIN, 0, -1) == 0
    assert command(bench, UNPIN, 0, 1 << 62) == 2
    assert command(bench, 11) == -22


def test_the_window_holds_what_was_read(bench):
    bench.iommu.memory[PAGE : PAGE + 5] = b"12345"

    assert command(bench, RW, PAGE, 5, 0) == 0
    assert bench.pread(5, 0x1000) == b"12345"
    assert command(bench, RW, PAGE, 0x10001, 0) == -7
    assert command(bench, RW, GUEST, 1, 0) == -22
    assert bench.pread(5, 0x1000) == b"12345"
    assert bench.pread(8, 0x10FFC) == bytes(4)


@pytest.mark.parametrize(("offset", "size"), [(0, 63), (0, 65), (8, 64), (0x11000, 4), (0x20000, 64)])
def test_the_command_window_has_one_shape(bench, offset, size):
    assert bench.process.pwrite(bench.fd, bench.arg, size, offset).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, size, offset).err == "EINVAL"


def test_the_config_space_takes_writes_without_looking(bench):
    assert bench.process.pwrite(bench.fd, 0x10, 300, CONFIG).ret == 256
    assert bench.process.pread(bench.fd, bench.arg, 300, CONFIG).ret == 256
    assert bench.answer(4) == bytes.fromhex("0f1d1e0d")


def test_a_told_failure_leaves_the_state(bench):
    set_state = c.VFIO_DEVICE_FEATURE_SET | 2
    command(bench, FAIL, 2, 110)

    result, _ = bench.feature(set_state, struct.pack("<Ii", 3, -1))

    assert result.err == "ETIMEDOUT"
    assert command(bench, ARCS) == 2
    assert bench.pread(4, 0x1000) == bytes([2, 5, 5, 1])
    assert bench.feature(c.VFIO_DEVICE_FEATURE_GET | 2, bytes(8))[1] == struct.pack("<Ii", 5, -1)


@pytest.mark.parametrize("options", [{"variant": "huge"}, {"variant": 3}, {"colour": "red"}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"variant|colour"):
        Oracle(options)


def test_an_access_of_no_bytes_is_refused_where_one_of_some_would_be(bench):
    assert bench.process.pread(bench.fd, bench.arg, 0, 0).err == "EINVAL"
    assert bench.process.pwrite(bench.fd, bench.arg, 0, 0).err == "EINVAL"
    assert bench.process.pwrite(bench.fd, bench.arg, 0, 0x1000).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 0, 0x1000).ret == 0
    assert bench.process.pread(bench.fd, bench.arg, 0, 0x11000).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 0, CONFIG + 255).ret == 0
    assert bench.process.pwrite(bench.fd, bench.arg, 0, CONFIG).ret == 0
    assert bench.process.pread(bench.fd, bench.arg, 0, CONFIG + 256).err == "EINVAL"


@pytest.mark.parametrize(
    ("log_page", "report_page", "origin"), [(PAGE, PAGE, 0), (2 * PAGE, PAGE, 0), (PAGE, PAGE, 5)]
)
def test_each_page_is_a_record_of_its_own_so_that_a_hole_in_the_bitmap_swallows_only_its_own(
    bench, log_page, report_page, origin
):
    memory = bench.process.memory
    at = memory.allocate(4 * PAGE)
    memory.protect(at + PAGE, PAGE, "none")
    size = 3 * 8 * PAGE * PAGE
    memory.write(bench.arg + PAGE, struct.pack("<2Q", 0, size))
    start = struct.pack("<Q2IQ", log_page, 1, 0, bench.arg + PAGE)
    assert (
        bench.feature(c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, start)[0].ret == 0
    )
    assert command(bench, LOG_DIRTY, 0, size) == size // log_page

    report = struct.pack("<4Q", 0, size, report_page, at + origin)
    assert (
        bench.feature(c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, report)[0].ret
        == 0
    )

    memory.protect(at + PAGE, PAGE, "rw")
    assert memory.read(at, PAGE) == bytes(origin) + b"\xff" * (PAGE - origin)
    assert memory.read(at + PAGE, PAGE) == bytes(PAGE)
    assert memory.read(at + 2 * PAGE, PAGE) == b"\xff" * PAGE
    assert memory.read(at + 3 * PAGE, PAGE) == b"\xff" * origin + bytes(PAGE - origin)


def test_a_report_to_nowhere_comes_back(bench):
    memory = bench.process.memory
    size = 1 << 62
    memory.write(bench.arg + PAGE, struct.pack("<2Q", 0, size))
    start = struct.pack("<Q2IQ", PAGE, 1, 0, bench.arg + PAGE)
    assert (
        bench.feature(c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, start)[0].ret == 0
    )
    assert command(bench, LOG_DIRTY, 0, size) == size // PAGE

    for nowhere in (0, 1 << 46, (1 << 64) - PAGE):
        report = struct.pack("<4Q", 0, size, PAGE, nowhere)
        assert (
            bench.feature(c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, report)[0].ret
            == 0
        )
        command(bench, LOG_DIRTY, 0, size)


STOP_COPY, RESUMING = c.VFIO_DEVICE_STATE_STOP_COPY, c.VFIO_DEVICE_STATE_RESUMING
STATE = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE


def data_fd(bench, state):
    return struct.unpack("<Ii", bench.feature(STATE, struct.pack("<Ii", state, -1))[1])[1]


def test_a_large_state_is_read_in_large_pieces(bench):
    size = 16 << 20
    command(bench, SIZES, size, 96, 64)
    fd = data_fd(bench, STOP_COPY)
    buffer = bench.process.memory.allocate(size)
    before = bench.process.fallible

    assert bench.process.read(fd, buffer, size).ret == size

    assert bench.process.fallible - before == 16
    assert bench.process.memory.peek(buffer, size) == stream_bytes(0, size)
    assert bench.process.read(fd, buffer, size).ret == 0


def test_a_large_state_is_written_in_large_pieces(bench):
    size = 1 << 20
    command(bench, SIZES, size, 96, 64)
    fd = data_fd(bench, RESUMING)
    buffer = bench.process.memory.allocate(size)
    bench.process.memory.poke(buffer, stream_bytes(0, size))
    before = bench.process.fallible

    assert bench.process.write(fd, buffer, size).ret == size

    assert bench.process.fallible - before == 1
    assert bench.feature(STATE, struct.pack("<Ii", c.VFIO_DEVICE_STATE_STOP, -1))[0].ret == 0


@pytest.mark.parametrize("offset", [0, 10, 63])
@pytest.mark.parametrize("hole", [0, 1, 5])
def test_where_memory_ends_a_read_stops_as_the_driver_does(monkeypatch, offset, hole):
    seen = []
    for at_once in (64, DEFAULT_CHUNK):
        monkeypatch.setattr(data, "DEFAULT_CHUNK", at_once)
        bench = Bench(Oracle({"variant": "migspc"}))
        command(bench, SIZES, 40000, 96, 64)
        fd = data_fd(bench, STOP_COPY)
        buffer = bench.process.memory.allocate(8 * PAGE)
        bench.process.memory.protect(buffer + hole * PAGE, PAGE, "none")
        refused = bench.process.read(fd, buffer + offset, 30000)
        bench.process.memory.protect(buffer + hole * PAGE, PAGE, "rw")
        written = bench.process.memory.peek(buffer, 8 * PAGE)
        assert bench.process.read(fd, buffer, 8 * PAGE).ret > 0  # what comes next tells how much was consumed
        seen.append((refused, written, bench.process.memory.peek(buffer, 8 * PAGE)))

    assert seen[0] == seen[1]
    assert seen[0][0].err == "EFAULT"


@pytest.mark.parametrize(
    ("size", "hole", "error"),
    [(0x100040, None, "ENOMEM"), (0x100000, 3, "EFAULT"), (0x101000, 255, "EFAULT")],
)
def test_a_write_that_is_refused_has_taken_what_the_driver_takes(monkeypatch, size, hole, error):
    seen = []
    for at_once in (64, DEFAULT_CHUNK):
        monkeypatch.setattr(data, "DEFAULT_CHUNK", at_once)
        bench = Bench(Oracle({"variant": "migspc"}))
        fd = data_fd(bench, RESUMING)
        buffer = bench.process.memory.allocate(0x102000)
        if hole is not None:
            bench.process.memory.protect(buffer + hole * PAGE, PAGE, "none")
        refused = bench.process.write(fd, buffer + 10, size)
        seen.append((refused, vars(bench.device.migration.session.stream)))

    assert seen[0] == seen[1]
    assert seen[0][0].err == error
