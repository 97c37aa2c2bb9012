# SPDX-License-Identifier: MIT
"""Opening and closing, what a device leaves behind, and that a stopped device is still."""

import errno
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.files.device import open_device
from vfioemu.core.model.device import DeviceModel
from vfioemu.testing.bench import Bench
from vfioemu.testing.scheduler import Scheduler, Task
from vfioemu.uapi import constants as c

PAGE = 4096
SET_STATE = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE


class Worker(DeviceModel):
    """Writes a page with every call of `work`; never gives a pin back by itself."""

    migration_flags = 7

    def __init__(self):
        super().__init__({})
        self.calls = []
        self.refuse = None
        self.writes = 0
        self.stopped = False

    def open_device(self):
        self.calls.append("open")
        if self.refuse:
            raise self.refuse

    def close_device(self):
        self.calls.append("close")

    def reset(self):
        self.calls.append("reset")

    def dma_unmap(self, iova, size):
        return self.host.unpin_range(iova, size)

    def arc(self, current, target):
        self.stopped = target not in (2, 5, 6, 7)

    def work(self, now):
        for _ in range(3):
            yield from self.host.dma_write(self.writes * PAGE, b"x")
            assert not self.stopped
            self.writes += 1
        return now


@pytest.fixture
def bench():
    return Bench(Worker())


def test_the_driver_sees_the_first_open_and_the_last_close(bench):
    second = bench.open()
    third = bench.process.dup(second)
    assert bench.group.users == 1
    assert bench.iommu.told == [bench.device]

    for fd in (bench.fd, second):
        bench.process.close(fd)
    assert bench.model.calls == ["open"]
    bench.process.close(third)

    assert bench.model.calls == ["open", "close"]
    assert bench.group.users == 0
    assert bench.iommu.told == []


def test_an_open_that_the_driver_refuses_leaves_nothing(bench):
    bench.process.close(bench.fd)
    bench.model.refuse = IoctlError(errno.EIO, "broken")

    with pytest.raises(IoctlError, match="EIO"):
        bench.open()

    assert bench.device.open_count == 0
    assert bench.group.users == 0
    assert bench.iommu.told == []


def test_the_backend_matters_at_the_first_open_only(bench):
    bench.group.backend = None
    assert bench.open() > 0
    bench.group.attached = False
    with pytest.raises(IoctlError, match="EINVAL"):
        bench.open()
    bench.group.attached, bench.group.backend = True, bench.iommu


def test_pins_that_a_driver_forgets_are_taken_back(bench):
    assert bench.run(bench.device.pin(0, 8, 3)) == 8
    assert bench.run(bench.device.pin(PAGE, 1, 3)) == 1
    assert bench.device.npinned == 9

    bench.process.close(bench.fd)

    assert not bench.iommu.pins
    assert bench.device.npinned == 0


@pytest.mark.parametrize(
    ("npages", "errno_name"), [(0, "EINVAL"), (513, "E2BIG"), (-1, "E2BIG"), (4096, "E2BIG")]
)
def test_pin_counts(bench, npages, errno_name):
    with pytest.raises(IoctlError, match=errno_name):
        bench.run(bench.device.pin(0, npages, 3))


def test_a_closed_device_cannot_reach_memory(bench):
    bench.process.close(bench.fd)

    for call in (bench.device.pin(0, 1, 3), bench.device.dma_read(0, 1), bench.device.dma_write(0, b"1")):
        with pytest.raises(IoctlError, match="EINVAL"):
            bench.run(call)
    assert bench.run(bench.device.work(0.0)) is None


def test_a_device_without_reset_or_callbacks():
    class Plain(DeviceModel):
        can_reset = False

    bench = Bench(Plain({}))

    assert bench.ioctl(c.VFIO_DEVICE_RESET).err == "EINVAL"
    assert bench.iommu.told == []
    with pytest.raises(IoctlError, match="EINVAL"):
        bench.run(bench.device.pin(0, 1, 3))


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no such option: colour"):
        DeviceModel({"colour": "red"})


@given(st.randoms(use_true_random=False), st.sampled_from([1, 3, 4]), st.booleans())
def test_a_stopped_device_writes_nothing_more(random, state, reset):
    """Whatever the order in which two turns of work and the arcs to a stopped state meet."""
    bench = Bench(Worker(), Scheduler(random.choice))
    bench.process.memory.write(bench.arg, struct.pack("<IIIi", 16, SET_STATE, state, 0))
    tasks: list[Task[Any]] = [bench.process.start(bench.device.work(0.0), f"work {i}") for i in range(2)]
    tasks.append(bench.process.start_ioctl(bench.fd, c.VFIO_DEVICE_FEATURE, bench.arg))

    scheduler = bench.process.scheduler
    scheduler.run(tasks[2])
    at_stop = bench.model.writes
    assert at_stop % 3 == 0
    for task in tasks:
        scheduler.run(task)

    assert bench.model.writes == at_stop
    assert bench.run(bench.device.work(0.0)) is None
    if reset:
        assert bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
        bench.model.stopped = False
        assert bench.run(bench.device.work(1.0)) == 1.0


@given(st.randoms(use_true_random=False))
def test_opens_and_closes_that_meet_leave_the_device_as_often_open_as_there_are_fds(random):
    bench = Bench(Worker(), Scheduler(random.choice))
    process = bench.process
    tasks: list[Task[Any]] = [process.start(open_device(bench.device), f"open {i}") for i in range(3)]
    tasks.append(process.start(bench.device.close(), "close"))
    files = [process.scheduler.run(task) for task in tasks]

    assert bench.device.open_count == 3
    assert bench.group.users == 1
    assert bench.model.calls in (["open"], ["open", "close", "open"])
    for file in files[:3]:
        bench.run(file.release())
    assert bench.device.open_count == 0
    assert bench.group.users == 0
    assert bench.iommu.told == []
