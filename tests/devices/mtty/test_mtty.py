# SPDX-License-Identifier: MIT
"""The mtty as the kernel's sample driver answers, where no recorded trace looks."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfioemu.devices.mtty import Mtty
from vfioemu.devices.mtty.migrate import data_size, header
from vfioemu.devices.mtty.uart import FIFO_SIZE, PORT, Uart
from vfioemu.devices.registry import load_models
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

CONFIG = 7 << 40
GET = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
SET = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(1, 8)
HEADER = struct.pack("<QIIII", 0x7E9D09898C3E2C4E, 1, 0, 1, 0)


def make(ports=1, **options):
    return Bench(Mtty({"ports": ports, "info-known": True, **options}))


def set_state(bench, state):
    """(errno name or None, data fd)."""
    result, payload = bench.feature(SET, struct.pack("<Ii", state, -1))
    return result.err, struct.unpack("<Ii", payload)[1]


def state(bench):
    return struct.unpack("<Ii", bench.feature(GET, bytes(8))[1])[0]


def save(bench):
    err, fd = set_state(bench, STOP_COPY)
    assert err is None
    size = bench.process.read(fd, bench.arg, 4096).ret
    return bench.answer(size)


def write_data(bench, fd, data):
    bench.process.memory.write(bench.arg, data)
    return bench.process.write(fd, bench.arg, len(data))


def load(bench, data):
    err, fd = set_state(bench, RESUMING)
    assert err is None
    assert write_data(bench, fd, data).ret == len(data)
    return set_state(bench, RUNNING)[0]


@pytest.mark.parametrize(
    "options", [{"ports": 0}, {"ports": 3}, {"ports": True}, {"ports": "1"}, {"info-known": 1}, {"x": 1}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=r"no such option|ports|info-known"):
        Mtty(options)


def test_it_is_installed_by_name():
    assert load_models()["mtty"] is Mtty


# --- config space ---


@pytest.mark.parametrize("ports", [1, 2])
def test_the_config_space_is_that_of_a_serial_card(ports):
    config = make(ports).pread(256, CONFIG)
    assert struct.unpack_from("<HHHH", config) == (0x4348, 0x3253, 1, 0x0200)
    assert config[8:12] == bytes((0x10, 0x02, 0x00, 0x07))
    assert struct.unpack_from("<6I", config, 0x10) == (1, 1 if ports == 2 else 0, 0, 0, 0, 0)
    assert struct.unpack_from("<HH", config, 0x2C) == (0x4348, 0x3253)
    assert config[0x34] == 0
    assert config[0x3D] == 1
    assert config[0x60:0x6F] == b"PCI Serial/UART"


@pytest.mark.parametrize(
    ("ports", "offset", "written", "read"),
    [
        (1, 0x04, "ffffffff", "01000002"),
        (1, 0x06, "ffff", "0002"),
        (1, 0x10, "ffffffff", "f9ffffff"),
        (1, 0x10, "00c00000", "01c00000"),
        (1, 0x10, "00c0", "01c00000"),
        (1, 0x12, "ffff", "0000"),
        (1, 0x14, "ffffffff", "00000000"),
        (2, 0x14, "ffffffff", "f9ffffff"),
        (2, 0x18, "ffffffff", "00000000"),
        (2, 0x24, "ffffffff", "00000000"),
        (1, 0x30, "ffffffff", "00000000"),
        (1, 0x3C, "0a", "0a010000"),
        (1, 0x3C, "0aff", "0a010000"),
        (1, 0x3C, "0affffff", "0a010000"),
        (1, 0x3D, "ff", "01"),
        (1, 0x00, "ffffffff", "48435332"),
    ],
)
def test_writes_to_the_config_space(ports, offset, written, read):
    bench = make(ports)
    data = bytes.fromhex(written)
    assert bench.pwrite(data, CONFIG + offset).ret == len(data)
    assert bench.pread(len(read) // 2, CONFIG + offset).hex() == read


# --- accesses ---


@pytest.mark.parametrize("region", [6, 8, 9, 10, 255])
@pytest.mark.parametrize("write", [False, True])
def test_a_region_that_is_none_is_efault(region, write):
    bench = make()
    if write:
        assert bench.pwrite(bytes(4), region << 40).err == "EFAULT"
    else:
        with pytest.raises(OSError, match="EFAULT"):
            bench.pread(4, region << 40)
    assert bench.process.pread(bench.fd, bench.arg, 0, region << 40).ret == 0


@pytest.mark.parametrize("region", [1, 2, 3, 4, 5])
def test_a_bar_that_is_not_there_can_be_accessed(region):
    bench = make()
    assert bench.pwrite(b"\xff" * 8, region << 40).ret == 8
    assert len(bench.pread(8, region << 40)) == 8
    assert bench.pread(4, (region << 40) + 0x8000) == bytes(4)


def test_a_piece_of_four_bytes_is_one_access_of_its_first_register():
    bench = make()
    bench.pwrite(b"\x5a", 7)
    assert bench.pread(1, 7) == b"\x5a"
    bench.pwrite(b"\x11\x22\x33\x44\x55\x66\x77\x88", 0)  # registers 0 and 4
    assert bench.pread(1, 4) == b"\x55"
    assert bench.pread(1, 3) == b"\x00"
    assert bench.pread(8, 0) == b"\x11\0\0\0\x55\0\0\0"
    bench.pwrite(b"\x66\x77\x88", 5)  # one, two bytes: LSR, and MSR, which take nothing
    assert bench.pread(1, 7) == b"\x5a"
    bench.pwrite(b"\x99", 0x10007)  # the sample's offsets have 16 bits
    assert bench.pread(1, 7) == b"\x99"


def test_what_comes_before_a_failure_has_had_its_effects():
    bench = make()
    bench.pwrite(b"\x01", 2)
    for byte in b"abcdefgh":
        bench.pwrite(bytes([byte]), 0)
    end = bench.process.memory.allocate(4096) + 4096
    assert (
        bench.process.pread(bench.fd, end - 1, 2, 0).err == "EFAULT"
    )  # a piece of two bytes: the first register
    assert bench.pread(1, 0) == b"b"
    assert bench.process.pread(bench.fd, end - 4, 8, 0).err == "EFAULT"
    assert bench.pread(1, 0) == b"d"
    assert bench.process.pwrite(bench.fd, end - 4, 8, 0).err == "EFAULT"
    assert bench.pread(1, 5)[0] & 1


def test_read_and_write_move_the_position():
    bench = make()
    process = bench.process
    process.memory.write(bench.arg, b"\x0f\x0e\x0d\x0c")
    assert process.write(bench.fd, bench.arg, 4).ret == 4
    assert process.read(bench.fd, bench.arg, 4).ret == 4  # MCR and what follows
    assert bench.answer(4) == bytes(4)


def test_a_long_access_is_cut_short():
    bench = make()
    big = bench.process.memory.allocate(1 << 20)
    assert bench.process.pread(bench.fd, big, 1 << 20, CONFIG).ret == 64 << 10


# --- interrupts ---


def irq_info(bench, index=0):
    return bench.ioctl(c.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<4I", 16, 0, index, 0)).err


def test_irqs_are_known_once_somebody_has_asked_for_the_info():
    bench = Bench(Mtty({}))
    assert irq_info(bench) == "EINVAL"
    off = struct.pack("<5I", 20, c.VFIO_IRQ_SET_DATA_NONE | c.VFIO_IRQ_SET_ACTION_TRIGGER, 2, 0, 0)
    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, off).err == "EINVAL"
    assert bench.ioctl(c.VFIO_DEVICE_GET_INFO, struct.pack("<4I", 15, 0, 0, 0)).err == "EINVAL"
    assert irq_info(bench) == "EINVAL"
    assert bench.ioctl(c.VFIO_DEVICE_GET_INFO, struct.pack("<4I", 16, 0, 0, 0)).ret == 0
    assert irq_info(bench) is None
    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, off).err == "ENOTTY"
    bench.process.close(bench.fd)
    bench.fd = bench.open()
    assert irq_info(bench) is None  # for good


def set_irqs(bench, index, flags, data=b"", start=0, count=1):
    return bench.ioctl(
        c.VFIO_DEVICE_SET_IRQS, struct.pack("<5I", 20 + len(data), flags, index, start, count) + data
    ).err


def enable(bench, index):
    event = bench.process.eventfd()
    assert set_irqs(bench, index, 0x24, struct.pack("<i", event)) is None
    return lambda: (
        bench.process.read(event, bench.arg, 8).ret == 8 and struct.unpack("<Q", bench.answer(8))[0]
    )


def test_intx_masks_itself_and_unmasking_looks_again():
    bench = make()
    raised = enable(bench, 0)
    bench.pwrite(b"\x01", 1)  # IER.RDI
    assert not raised()
    bench.pwrite(b"x", 0)
    assert raised() == 1
    bench.pwrite(b"y", 0)
    assert not raised()
    assert set_irqs(bench, 0, 0x11) is None  # unmask
    assert raised() == 1
    assert bench.pread(1, 0) + bench.pread(1, 0) == b"xy"
    assert set_irqs(bench, 0, 0x11) is None
    assert not raised()


def test_masked_intx_waits():
    bench = make()
    raised = enable(bench, 0)
    assert set_irqs(bench, 0, 0x09) is None
    bench.pwrite(b"\x02", 1)  # THRI
    assert not raised()
    assert set_irqs(bench, 0, 0x12, b"\0") is None  # a false UNMASK
    assert not raised()
    assert set_irqs(bench, 0, 0x12, b"\1") is None
    assert raised() == 1
    assert bench.pread(1, 2) == b"\x02"


def test_enabling_interrupts_with_something_pending_raises_them():
    bench = make()
    bench.pwrite(b"\x01", 1)
    bench.pwrite(b"x", 0)
    assert enable(bench, 0)() == 1
    assert set_irqs(bench, 0, 0x21, count=0) is None
    raised = enable(bench, 0)
    assert raised() == 1  # not masked any more, and still pending


def test_asking_for_interrupts_with_bytes_there_raises_one():
    bench = make()
    raised = enable(bench, 0)
    bench.pwrite(b"x", 0)
    assert not raised()
    bench.pwrite(b"\x01", 1)
    assert raised() == 1


def test_a_stopped_device_keeps_its_interrupt_for_later():
    bench = make()
    raised = enable(bench, 0)
    bench.pwrite(b"\x01", 1)
    bench.pwrite(b"x", 0)
    assert raised() == 1
    assert set_state(bench, STOP)[0] is None
    assert set_irqs(bench, 0, 0x11) is None
    assert not raised()
    assert set_state(bench, RUNNING)[0] is None
    assert raised() == 1


def test_the_second_port_has_the_same_interrupt_and_a_hidden_one_has_none():
    for ports in (1, 2):
        bench = make(ports)
        raised = enable(bench, 0)
        bench.pwrite(b"\x01", (1 << 40) + 1)
        assert set_irqs(bench, 0, 0x11) is None
        bench.pwrite(b"\0", (1 << 40) + 1)
        assert not raised()


def test_msi_is_raised_at_events():
    bench = make()
    raised = enable(bench, 1)
    bench.pwrite(b"\x01", 1)
    bench.pwrite(b"a", 0)
    bench.pwrite(b"b", 0)
    assert raised() == 1
    bench.pread(1, 2)
    assert not raised()
    assert set_irqs(bench, 1, 0x11) == "ENOTTY"
    assert set_irqs(bench, 0, 0x11) == "EINVAL"
    assert set_irqs(bench, 0, 0x21, count=0) == "EINVAL"
    assert set_irqs(bench, 1, 0x21, count=0) is None


def test_a_bad_eventfd_leaves_the_interrupt_off():
    bench = make()
    enable(bench, 0)
    assert set_irqs(bench, 0, 0x24, struct.pack("<i", 9999)) == "EBADF"
    assert set_irqs(bench, 0, 0x21) == "EINVAL"
    enable(bench, 1)
    assert set_irqs(bench, 1, 0x24, struct.pack("<i", bench.process.null())) == "EINVAL"
    enable(bench, 0)


@pytest.mark.parametrize("actions", [0, 0x18, 0x28, 0x30, 0x38])
def test_no_action_or_several_do_nothing(actions):
    bench = make()
    assert set_irqs(bench, 0, actions | 1) is None
    assert set_irqs(bench, 1, actions | 1, start=3, count=2) is None
    assert set_irqs(bench, 0, actions | 1, start=3, count=3) == "EINVAL"
    assert set_irqs(bench, 2, actions | 1) == "ENOTTY"


# --- life and migration ---


def test_reset_and_close_leave_the_registers():
    bench = make()
    bench.pwrite(b"\x5a", 7)
    bench.pwrite(b"\x0b", CONFIG + 0x3C)
    bench.ioctl(c.VFIO_DEVICE_RESET)
    assert bench.pread(1, 7) == b"\x5a"
    bench.process.close(bench.fd)
    bench.fd = bench.open()
    assert bench.pread(1, 7) == b"\x5a"
    assert bench.pread(1, CONFIG + 0x3C) == b"\x0b"


@pytest.mark.parametrize("before", range(1, 8))
@pytest.mark.parametrize("after", range(1, 8))
def test_the_migration_state_stays_over_a_close_and_nothing_breaks(before, after):
    bench = make()
    err, fd = set_state(bench, before)
    assert err is None
    bench.process.close(bench.fd)
    bench.fd = bench.open()
    assert state(bench) == before
    if fd >= 0:
        assert "ENODEV" in (bench.process.read(fd, bench.arg, 4).err, write_data(bench, fd, b"x").err)

    err, new = set_state(bench, after)

    if before == STOP_COPY and after in (PRE_COPY, PRE_COPY_P2P):
        assert err == "EINVAL"
    elif before == RESUMING and after != RESUMING:
        assert (err, state(bench)) == ("EINVAL", RESUMING)  # where the kernel follows a null pointer
    else:
        assert err is None
        saves = after in (STOP_COPY, PRE_COPY, PRE_COPY_P2P) and before != after
        if saves and (after == STOP_COPY or before not in (PRE_COPY, PRE_COPY_P2P)):
            assert bench.process.read(new, bench.arg, 4096).ret == (60 if after == STOP_COPY else 24)
    bench.ioctl(c.VFIO_DEVICE_RESET)
    assert state(bench) == RUNNING


def test_with_v1_the_last_close_is_a_new_beginning():
    bench = Bench(Mtty({}), migration="v1")
    bench.pwrite(struct.pack("<I", 4), 9 << 40)
    bench.process.close(bench.fd)
    bench.fd = bench.open()
    assert bench.pread(4, 9 << 40) == struct.pack("<I", 1)
    assert bench.pwrite(struct.pack("<I", 2), 9 << 40).err is None
    assert struct.unpack("<Q", bench.pread(8, (9 << 40) + 8)) == (60,)


def test_an_untouched_device_has_the_recorded_stream():
    assert save(make(1)) == HEADER + bytes(33) + b"\x10\0\0"
    assert len(save(make(2))) == data_size(2) == 96


def test_the_interrupt_line_travels():
    source, destination = make(), make()
    source.pwrite(b"\x0b", CONFIG + 0x3C)
    stream = save(source)
    assert load(destination, stream) is None
    assert destination.pread(1, CONFIG + 0x3C) == b"\x0b"
    assert save(destination) == stream


def test_more_than_a_state_is_refused_even_after_its_end():
    bench = make()
    _, fd = set_state(bench, RESUMING)
    assert write_data(bench, fd, bytes(61)).err == "ENOMEM"
    assert write_data(bench, fd, HEADER + bytes(36)).ret == 60
    assert write_data(bench, fd, b"x").err == "ENOMEM"
    assert write_data(bench, fd, b"").ret == 0
    set_state(bench, STOP)
    assert write_data(bench, fd, bytes(61)).err == "ENOMEM"
    assert write_data(bench, fd, bytes(60)).err == "ENODEV"
    assert write_data(bench, fd, b"").err == "ENODEV"


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 20])
@pytest.mark.parametrize("cut", [1, 23, 24, 60])
def test_a_wrong_header_is_efault_and_its_bytes_are_taken(offset, cut):
    bad = bytearray(HEADER + bytes(36))
    bad[offset] ^= 0x80
    bench = make()
    _, fd = set_state(bench, RESUMING)
    first = write_data(bench, fd, bytes(bad[:cut]))
    assert first.err == ("EFAULT" if cut >= 24 else None)
    rest = write_data(bench, fd, bytes(bad[cut:]))
    assert rest.err == ("EFAULT" if cut < 24 else None)
    assert set_state(bench, STOP)[0] is None  # the kernel looks at the length only


@given(st.integers(1, 2), st.binary(min_size=72, max_size=72))
def test_a_state_that_nobody_touches_is_saved_as_it_came(ports, data):
    """The sample copies ports whole, whatever is in them: it looks at the header, and at the length."""
    bench = make(ports)
    stream = header(ports) + data[: 36 * ports]

    assert load(bench, stream) is None
    assert save(bench) == stream


@given(
    st.binary(min_size=36, max_size=36),
    st.lists(st.tuples(st.integers(0, 7), st.none() | st.integers(0, 255))),
)
def test_any_state_can_be_loaded_and_lived_with(data, accesses):
    """Treat what is loaded as hostile: no access fails afterwards, and the state is one that can be saved."""
    bench = make()
    assert load(bench, HEADER + data) is None
    for register, value in accesses:
        if value is None:
            assert len(bench.pread(1, register)) == 1
        else:
            assert bench.pwrite(bytes([value]), register).ret == 1
    again = make()
    stream = save(bench)
    assert load(again, stream) is None
    assert save(again) == stream


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.none() | st.integers(0, 255)), max_size=40), st.data())
def test_a_state_that_a_driver_can_reach_is_moved_whole(accesses, data):
    """Whatever is done afterwards, source and destination answer the same."""
    source, destination = Uart(), None
    for register, value in accesses:
        source.read(register) if value is None else source.write(register, value)
    destination = Uart.load(source.save())
    for register, value in data.draw(st.lists(st.tuples(st.integers(0, 7), st.none() | st.integers(0, 255)))):
        if value is None:
            assert source.read(register) == destination.read(register)
        else:
            assert source.write(register, value) == destination.write(register, value)
        assert source.pending == destination.pending
    assert source.save() == destination.save()


@given(st.binary(max_size=80))
def test_the_fifo_is_first_in_first_out_and_says_so_when_it_is_full(data):
    uart = Uart()
    uart.write(2, 1)
    for byte in data:
        uart.write(0, byte)
    assert bool(uart.read(5)[0] & 2) == (len(data) > FIFO_SIZE)
    assert not uart.read(5)[0] & 2
    kept = data[:FIFO_SIZE]
    for byte in kept:
        assert uart.read(5)[0] & 0x61 == 1
        assert uart.read(0)[0] == byte
    assert uart.read(5)[0] & 0x61 == 0x60
    assert uart.read(0)[0] == 0


def test_without_fifos_there_is_room_for_one():
    uart = Uart()
    uart.write(2, 0)
    uart.write(0, 1)
    uart.write(0, 2)
    assert uart.read(5)[0] & 3 == 3
    assert uart.read(0)[0] == 1
    assert uart.read(2)[0] == 1


def test_the_divisor_latch():
    uart = Uart()
    uart.write(3, 0x80)
    uart.write(0, 0x0C)
    uart.write(1, 0x01)
    uart.write(0, 0x0D)
    assert (uart.read(0)[0], uart.read(1)[0]) == (0x0D, 0x01)
    uart.write(3, 3)
    uart.write(3, 0x83)
    assert (uart.read(0)[0], uart.read(1)[0]) == (0x0D, 0x01)
    assert PORT.unpack(uart.save())[8] == 0x010D


def test_modem_lines():
    uart = Uart()
    assert uart.read(6)[0] == 0xB3
    uart.write(4, 0x20)  # flow control by hardware: no CTS while the FIFO is full
    uart.write(2, 0)
    uart.write(0, 1)
    assert uart.read(6)[0] == 0xA2
    for line, bit in ((1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)):
        uart.write(4, 0x10 | line)
        assert uart.read(6)[0] == bit
    uart.write(1, 8)
    assert uart.write(4, 0x08)
    assert uart.write(4, 0x01)
    assert not uart.write(4, 0)
    assert uart.read(2)[0] & 0x0F == 1  # as the sample: modem status is no cause


def test_causes_come_by_urgency():
    uart = Uart()
    uart.write(2, 1)
    uart.write(1, 0x07)
    assert uart.read(2)[0] == 0xC2
    for _ in range(17):
        uart.write(0, 1)
    assert uart.read(2)[0] == 0xC6
    uart.read(5)
    assert uart.read(2)[0] == 0xC4
    uart.write(1, 0x02)
    assert uart.read(2)[0] == 0xC1
    uart.write(2, 7)
    assert uart.read(2)[0] == 0xC2


def test_a_failure_to_load_is_no_loss():
    bench = make()
    _, fd = set_state(bench, RESUMING)
    write_data(bench, fd, HEADER)
    assert set_state(bench, RUNNING)[0] == "EINVAL"
    assert state(bench) == RESUMING
    assert write_data(bench, fd, bytes(36)).ret == 36
    assert set_state(bench, RUNNING)[0] is None


def test_logging_can_be_started_twice_and_reports_nothing():
    bench = make()
    ranges = bench.process.memory.allocate(4096)
    bench.process.memory.write(ranges, struct.pack("<QQ", 0, 1 << 20))
    start = struct.pack("<QIIQ", 4096, 1, 0, ranges)
    set_start = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START
    for _ in range(2):
        result, payload = bench.feature(set_start, start)
        assert result.ret == 0
        assert payload[:8] == struct.pack("<Q", 4096)
    report = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
    bitmap = bench.process.memory.allocate(4096)
    assert bench.feature(report, struct.pack("<4Q", 0, 1 << 20, 4096, bitmap))[0].ret == 0
    assert bench.process.memory.read(bitmap, 32) == bytes(32)


def test_bytes_behind_the_largest_offset_are_refused_by_the_file_and_not_by_the_device():
    bench = Bench(Mtty({}))

    for size, err in ((8, "EINVAL"), (4, "EINVAL"), (3, "EFAULT"), (1, "EFAULT")):
        assert bench.process.pread(bench.fd, bench.arg, size, (1 << 63) - 4).err == err
        assert bench.process.pwrite(bench.fd, bench.arg, size, (1 << 63) - 4).err == err
