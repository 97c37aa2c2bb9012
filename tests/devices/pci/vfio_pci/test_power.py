# SPDX-License-Identifier: MIT
"""Low power mode: who wakes the function, and what works meanwhile."""

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.pci.rigs import ADDRESS, CONFIG, SET, Console, at, feature
from vfioemu.devices.pci.cards.e1000e import E1000e
from vfioemu.devices.pci.cards.edu import Edu
from vfioemu.devices.pci.cards.nvme import Nvme
from vfioemu.devices.pci.cards.testdev import PciTestdev
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

ENTRY = SET | c.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
WAKEUP = SET | c.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
EXIT = SET | c.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT


def test_low_power_mode_takes_mappings_away_and_keeps_registers_reachable(bench):
    memory = bench.model.hardware.bar_memory(3)
    assert feature(bench, ENTRY) is None
    assert os.fstat(memory.fd).st_size == 0
    assert not bench.model.hardware.bus_master
    assert feature(bench, ENTRY) == "EINVAL"
    assert bench.pread(2, at(2)) == b"\0\x01"
    assert bench.pread(4, CONFIG) == b"\x01\0\x02\0"
    assert bench.pwrite(b"x", at(2)).ret == 1
    assert os.fstat(memory.fd).st_size == 0

    assert feature(bench, EXIT) is None
    assert feature(bench, EXIT) is None
    assert os.fstat(memory.fd).st_size == 0x2000


@pytest.mark.parametrize("model", [Edu, E1000e, Nvme, PciTestdev])
@settings(deadline=None)
@given(
    index=st.integers(0, 8),
    offset=st.integers(0, 0x40) | st.integers(0, 0x40000),
    size=st.integers(0, 64),
)
def test_low_power_mode_changes_no_answer_to_a_read(model, index, offset, size):
    bench = Bench(model({}), name=ADDRESS)

    def read():
        result = bench.process.pread(bench.fd, bench.arg, size, at(index, offset))
        return result, bench.process.memory.read(bench.arg, result.ret) if result.ret > 0 else b""

    expected = read()
    assert feature(bench, ENTRY) is None

    assert read() == expected


USES = {
    "read": ("read", at(2)),
    "write": ("write", at(2)),
    "config": ("read", CONFIG),
    "lost write": ("write", at(4, 0x1000)),
    "write to what is read-only": ("write", CONFIG + 0x42),
    "refused read": ("read", at(5)),
    "refused write": ("write", at(6)),
    "no VGA": ("read", at(8)),
    "read behind the end": ("read", at(2, 0x800)),
    "read behind config space": ("read", CONFIG + 0x100),
}


@pytest.mark.parametrize("how", ["ioctl", *USES])
def test_the_first_use_wakes_up_and_is_told(bench, how):
    wakeup = bench.process.eventfd()
    assert feature(bench, WAKEUP, struct.pack("<iI", wakeup, 0)) is None
    assert bench.process.fds[wakeup].what.count == 0

    if how == "ioctl":
        bench.ioctl(c.VFIO_DEVICE_GET_INFO, struct.pack("<6I", 24, 0, 0, 0, 0, 0))
    else:
        kind, place = USES[how]
        call = bench.process.pread if kind == "read" else bench.process.pwrite
        call(bench.fd, bench.arg, 1, place)

    assert bench.process.fds[wakeup].what.count == 1
    assert bench.process.fds[wakeup].what.references == 0
    bench.pread(2, at(2))
    assert bench.process.fds[wakeup].what.count == 1
    assert feature(bench, ENTRY) is None


@pytest.mark.parametrize(("size", "place"), [(0, at(2)), (0, CONFIG), (1, at(9)), (1, at(300))])
def test_an_access_to_nothing_is_no_use(bench, size, place):
    wakeup = bench.process.eventfd()
    assert feature(bench, WAKEUP, struct.pack("<iI", wakeup, 0)) is None

    bench.process.pread(bench.fd, bench.arg, size, place)
    bench.process.pwrite(bench.fd, bench.arg, size, place)

    assert bench.process.fds[wakeup].what.count == 0


def test_wakeup_eventfds_that_are_none(bench):
    assert feature(bench, WAKEUP, struct.pack("<iI", -1, 0)) == "EINVAL"
    assert feature(bench, WAKEUP, struct.pack("<iI", 999, 0)) == "EBADF"
    assert feature(bench, WAKEUP, struct.pack("<iI", bench.process.null(), 0)) == "EINVAL"
    eventfd = bench.process.eventfd()
    assert feature(bench, ENTRY) is None
    assert feature(bench, WAKEUP, struct.pack("<iI", eventfd, 0)) == "EINVAL"
    assert bench.process.fds[eventfd].what.references == 0


def test_intx_is_silent_in_low_power_mode():
    console = Console()
    assert console.call(0, 0x24, 0, 1, ["a"]) == ""
    assert feature(console.bench, ENTRY) is None
    console.bench.run(console.bench.model.hardware.set_intx(True))
    assert console.rung()["a"] == 0

    assert feature(console.bench, EXIT) is None
    assert console.rung()["a"] == 1


def test_a_close_ends_low_power_mode(bench):
    wakeup = bench.process.eventfd()
    assert feature(bench, WAKEUP, struct.pack("<iI", wakeup, 0)) is None
    bench.process.close(bench.fd)
    assert bench.process.fds[wakeup].what.references == 0
    bench.fd = bench.open()
    assert feature(bench, ENTRY) is None
