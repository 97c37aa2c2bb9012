# SPDX-License-Identifier: MIT
"""A dma-engine moves: it goes on where it stopped, and takes nothing but a whole state of its own kind."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.releases import having
from vfioemu.devices.dma_engine.migrate import LIMIT, REGISTERS_SIZE
from vfioemu.uapi import constants as c

PAGE = 4096
ERROR, STOP, RUNNING, STOP_COPY, RESUMING = 0, 1, 2, 3, 4
RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = 5, 6, 7
INFO_V2 = c.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
NUMBERS = ["device_id", "seq", "writes", "bytes", "failed", "irqs", "last_iova", "control", "seed", "batch"]


def save(driver, *states):
    """Go through the states up to STOP_COPY, and read the stream of the session."""
    data_fd = -1
    for state in (*states, STOP_COPY):
        given_fd = driver.state(state)
        assert isinstance(given_fd, int), given_fd
        data_fd = max(data_fd, given_fd)
    data, error = driver.read_all(data_fd)
    assert error is None
    assert driver.state(STOP) == -1
    return data


def load(driver, data):
    data_fd = driver.state(RESUMING)
    driver.write_all(data_fd, data)
    return driver.state(STOP)


@given(
    pattern=st.integers(0, 2),
    first=st.integers(0, 200),
    second=st.integers(0, 200),
    states=st.sampled_from([(), (PRE_COPY,), (PRE_COPY, PRE_COPY_P2P), (RUNNING_P2P, PRE_COPY_P2P)]),
    type_=st.sampled_from([1, 2, 3]),
)
def test_the_destination_goes_on_as_if_nothing_had_happened(make, pattern, first, second, states, type_):
    source, destination, stayed = make(type=type_), make(type=type_, id=5), make(type=type_)
    for driver in (source, stayed):
        driver.set(
            base=2 * PAGE, size=30 * PAGE, pattern=pattern, seed=77, hot_pages=3, irq_every=7, offset=8
        )
        driver.command("write", first)

    assert load(destination, save(source, *states)) == -1
    destination.state(RUNNING)
    for driver in (destination, stayed):
        driver.command("write", second)

    assert [destination.get(name) for name in NUMBERS] == [stayed.get(name) for name in NUMBERS]
    now = [driver.device.model.hardware.writer.next_pages(50) for driver in (destination, stayed)]
    assert now[0] == now[1]


def test_a_running_device_runs_on(make):
    source, destination = make(), make()
    source.set(size=8 * PAGE, rate=1000, control=1)
    source.work(until=0.1)
    before = source.get("seq")
    woken = []
    destination.device.on_wake.append(lambda: woken.append(1))

    assert load(destination, save(source, PRE_COPY)) == -1
    assert destination.get("active") == 0
    destination.work(until=0.1)
    assert destination.get("seq") == before
    woken.clear()
    destination.state(RUNNING)

    assert woken
    destination.work(until=0.2)
    assert destination.get("seq") == pytest.approx(before + 100, abs=5)
    source.work(until=0.2)
    assert source.get("seq") == before


def test_pre_copy_tells_registers_again_when_they_change(make):
    driver = make()
    data_fd = driver.state(PRE_COPY)
    info = lambda: precopy_info(driver, data_fd)  # noqa: E731

    assert info() == (REGISTERS_SIZE, 0)
    assert driver.read_all(data_fd)[1] == "ENOMSG"
    assert info() == (0, 0)
    assert driver.process.poll(data_fd) == 0
    driver.set(seed=9)
    assert info() == (0, REGISTERS_SIZE)
    assert driver.process.poll(data_fd) != 0
    data, error = driver.read_all(data_fd)
    assert (len(data), error) == (REGISTERS_SIZE, "ENOMSG")
    driver.state(STOP_COPY)
    data, error = driver.read_all(data_fd)
    assert (len(data), error) == (driver.device.model.stop_copy_size(), None)
    assert len(data) < 1200  # the ring table is all zeros
    assert driver.feature(c.VFIO_DEVICE_FEATURE_GET | 9, bytes(8))[1] == len(data).to_bytes(8, "little")


def precopy_info(driver, data_fd):
    driver.process.memory.write(driver.arg, (24).to_bytes(4, "little") + bytes(20))
    assert driver.process.ioctl(data_fd, c.VFIO_MIG_GET_PRECOPY_INFO, driver.arg).err is None
    answer = driver.process.memory.read(driver.arg, 24)
    return int.from_bytes(answer[8:16], "little"), int.from_bytes(answer[16:24], "little")


def test_flags_of_precopy_info_come_back_until_somebody_promises_to_take_them_for_an_output(make):
    driver = make()
    driver.iommu.profile = having("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2")
    data_fd = driver.state(PRE_COPY)

    assert precopy_flags(driver, data_fd) == 0xFF
    assert driver.feature(c.VFIO_DEVICE_FEATURE_SET | INFO_V2) == (0, b"")
    assert precopy_flags(driver, data_fd) == 0
    assert driver.process.ioctl(driver.fd, c.VFIO_DEVICE_RESET, 0).ret == 0
    assert precopy_flags(driver, driver.state(PRE_COPY)) == 0


def precopy_flags(driver, data_fd):
    driver.process.memory.write(driver.arg, struct.pack("<IIQQ", 24, 0xFF, 0, 0))
    assert driver.process.ioctl(data_fd, c.VFIO_MIG_GET_PRECOPY_INFO, driver.arg).err is None
    return struct.unpack("<I", driver.process.memory.read(driver.arg + 4, 4))[0]


@given(st.data())
def test_anything_but_a_whole_stream_is_refused_and_loses_the_device(make, data):
    source, destination = make(), make()
    source.set(size=4 * PAGE, seed=1)
    source.command("write", 5)
    stream = bytearray(save(source, *data.draw(st.sampled_from([(), (PRE_COPY,)]))))
    how = data.draw(st.sampled_from(["cut", "flip", "append", "twice"]))
    if how == "cut":
        del stream[data.draw(st.integers(0, len(stream) - 1)) :]
    elif how == "flip":
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "append":
        stream += data.draw(st.binary(min_size=1, max_size=40))
    else:
        stream *= 2

    assert load(destination, stream) == "EINVAL"

    assert destination.current() == ERROR
    assert destination.get("seq") == 0
    assert destination.state(RUNNING) == "EINVAL"
    destination.ioctl(c.VFIO_DEVICE_RESET)
    assert destination.current() == RUNNING


def test_a_state_of_another_type_is_refused(make):
    assert load(make(type=1), save(make(type=2))) == "EINVAL"


def test_a_stream_without_end_is_refused(make):
    driver = make()
    data_fd = driver.state(RESUMING)
    chunk = 60000
    for _ in range(LIMIT // chunk):
        assert driver.process.write(data_fd, driver.arg, chunk).ret == chunk

    assert driver.process.write(data_fd, driver.arg, chunk).err == "ENOMEM"


def test_a_device_without_pre_copy_has_none(make):
    driver = make(migration=["stop-copy"])

    assert driver.state(PRE_COPY) == "EINVAL"
    assert driver.state(STOP_COPY) >= 0
    assert make(migration=[]).state(STOP) == "ENOTTY"
