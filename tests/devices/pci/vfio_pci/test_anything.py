# SPDX-License-Identifier: MIT
"""Anything at all may be asked of a PCI function: the answer is an errno of the registry's, and nothing is left behind."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.pci.vfio_pci.test_config import QEMU, Rich
from tests.releases import PROFILES
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind

NAME = "0000:02:01.0"
CALLS = (
    c.VFIO_DEVICE_GET_INFO,
    c.VFIO_DEVICE_GET_REGION_INFO,
    c.VFIO_DEVICE_GET_IRQ_INFO,
    c.VFIO_DEVICE_SET_IRQS,
    c.VFIO_DEVICE_RESET,
    c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    c.VFIO_DEVICE_PCI_HOT_RESET,
    c.VFIO_DEVICE_IOEVENTFD,
)
small = st.integers(0, 9) | st.integers(0, 0xFFFFFFFF)
words = st.lists(small, min_size=5, max_size=12).map(
    lambda numbers: struct.pack(f"<{len(numbers)}I", *numbers)
)
irqs = st.builds(
    lambda kind, action, index, start, count, data: (
        struct.pack("<5I", 64, kind | action, index, start, count) + data
    ),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([8, 16, 32]),
    st.integers(0, 4),
    st.integers(0, 8),
    st.integers(0, 9),
    st.binary(min_size=36, max_size=36)
    | st.just(bytes(range(3, 12)) * 4)
    | st.just(struct.pack("<9i", *range(3, 12))),
)
places = st.builds(
    lambda index, offset: (index << 40) + offset,
    st.integers(0, 10),
    st.sampled_from([0, 4, 0x10, 0x60, 0x98, 0xFF8, 0x1FFC, 0x2000]) | st.integers(0, 0x21000),
)
operations = st.one_of(
    st.tuples(st.just("ioctl"), st.sampled_from(CALLS), words),
    st.tuples(st.just("ioctl"), st.just(c.VFIO_DEVICE_SET_IRQS), irqs),
    st.tuples(
        st.just("feature"),
        st.integers(0, 13) | st.integers(0, 0xFFFF),
        st.integers(0, 7),
        st.binary(max_size=40),
    ),
    st.tuples(st.just("read"), places, st.integers(0, 600)),
    st.tuples(st.just("write"), places, st.binary(max_size=40)),
    st.tuples(st.just("map"), places, st.integers(1, 3)),
    st.tuples(st.just("ring"), st.integers(0, 2)),
    st.tuples(st.just("work"), st.floats(0, 1)),
    st.tuples(st.just("raise"), st.integers(0, 70)),
)


@pytest.mark.parametrize("model", [*QEMU, Rich])
@settings(deadline=None)
@given(st.lists(operations, max_size=40), st.sampled_from([*PROFILES]))
def test_anything_is_answered(model, history, release):
    bench = Bench(model({}), name=NAME)
    bench.iommu.profile = profile = PROFILES[release]
    process = bench.process
    eventfds = [process.eventfd() for _ in range(3)]
    now = 0.0

    for what, *arguments in history:
        if what == "ioctl":
            number, payload = arguments
            result = bench.ioctl(number, payload)
            assert result.err is None or result.err in profile.errnos(FdKind.DEVICE, number)
        elif what == "feature":
            number, ops, payload = arguments
            result, _ = bench.feature(number | ops << 16, payload)
            allowed = profile.errnos(FdKind.DEVICE, c.VFIO_DEVICE_FEATURE)
            assert result.err is None or result.err in allowed
        elif what == "read":
            result = process.pread(bench.fd, bench.arg, arguments[1], arguments[0])
            assert result.err in (None, "EINVAL", "EIO", "EFAULT", "ENOMEM")
        elif what == "write":
            assert bench.pwrite(arguments[1], arguments[0]).err in (None, "EINVAL", "EIO", "EFAULT")
        elif what == "map":
            place = arguments[0] & ~4095
            assert process.mmap(bench.fd, 4096 * arguments[1], "rw", place).err in (None, "EINVAL")
        elif what == "ring":
            process.memory.write(bench.arg, (1).to_bytes(8, "little"))
            process.write(eventfds[arguments[0]], bench.arg, 8)
        elif what == "work":
            now += arguments[0]
            bench.run(bench.device.work(now))
        else:
            bench.run(bench.model.hardware.interrupt(arguments[0]))

    process.close(bench.fd)
    process.scheduler.run_all(1000)
    assert [process.fds[fd].what.references for fd in eventfds] == [0, 0, 0]
    assert not bench.group.users
    bench.fd = bench.open()
    assert bench.pread(2, (7 << 40) + 4) == b"\x03\x01"
    assert len(bench.pread(64, 7 << 40)) == 64
