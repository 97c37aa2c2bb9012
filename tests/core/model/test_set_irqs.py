# SPDX-License-Identifier: MIT
"""SET_IRQS: the kernel's validation against a plain restatement, and eventfds that come, are signalled and go."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.files.irqs import validate_and_prepare
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.irqs import Irq
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import IrqSet

NONE, BOOL, EVENTFD = c.VFIO_IRQ_SET_DATA_NONE, c.VFIO_IRQ_SET_DATA_BOOL, c.VFIO_IRQ_SET_DATA_EVENTFD
TRIGGER = c.VFIO_IRQ_SET_ACTION_TRIGGER
SIZES = {NONE: 0, BOOL: 1, EVENTFD: 4}
INTX, MSI = 0, 1
U32 = st.integers(0, 6) | st.integers(0xFFFFFFFA, 0xFFFFFFFF) | st.integers(0, 0xFFFFFFFF)


def allowed(header, num_irqs, max_irqs):
    """What vfio_set_irqs_validate_and_prepare() lets pass, said in another way."""
    size = SIZES.get(header.flags & 7)
    return (
        header.argsz >= 20
        and header.index < max_irqs
        and header.start + header.count < 0xFFFFFFFF
        and header.flags < 0x40
        and header.start < num_irqs
        and header.start + header.count <= num_irqs
        and size is not None
        and header.argsz >= 20 + header.count * size
    )


@given(
    st.builds(
        IrqSet, argsz=st.integers(0, 60) | U32, flags=st.integers(0, 0x47), index=U32, start=U32, count=U32
    ),
    st.integers(0, 5),
)
def test_validation_is_that_of_the_kernel(header, num_irqs):
    if allowed(header, num_irqs, 5):
        assert validate_and_prepare(header, num_irqs, 5) == header.count * SIZES[header.flags & 7]
    else:
        with pytest.raises(IoctlError, match="EINVAL"):
            validate_and_prepare(header, num_irqs, 5)


class Interrupting(DeviceModel):
    """One INTx, four MSI."""

    def __init__(self):
        super().__init__({})

    def irqs(self):
        return (Irq(1), Irq(4), Irq(0), None, Irq(0))


@pytest.fixture
def bench():
    return Bench(Interrupting())


def set_irqs(bench, flags, index=MSI, start=0, count=1, data=b""):
    header = struct.pack("<5I", 20 + len(data), flags, index, start, count)
    return bench.ioctl(c.VFIO_DEVICE_SET_IRQS, header + data).err or 0


def give(bench, *numbers, start=0):
    data = struct.pack(f"<{len(numbers)}i", *numbers)
    return set_irqs(bench, EVENTFD | TRIGGER, start=start, count=len(numbers), data=data)


def counts(bench, fds):
    found = []
    for fd in fds:
        result = bench.process.read(fd, bench.arg, 8)
        found.append(0 if result.err else int.from_bytes(bench.answer(8), "little"))
    return found


def test_each_vector_signals_its_own_eventfd(bench):
    fds = [bench.process.eventfd() for _ in range(4)]
    assert give(bench, *fds) == 0

    assert set_irqs(bench, NONE | TRIGGER, count=4) == 0
    assert counts(bench, fds) == [1, 1, 1, 1]
    assert set_irqs(bench, BOOL | TRIGGER, count=4, data=b"\1\0\0\7") == 0
    assert counts(bench, fds) == [1, 0, 0, 1]
    assert give(bench, -1, start=1) == 0
    assert bench.run(bench.device.signal_irq(MSI, 1)) is False
    assert bench.run(bench.device.signal_irq(MSI, 2)) is True
    assert counts(bench, fds) == [0, 0, 1, 0]


def test_references_are_dropped_when_replaced_turned_off_and_closed(bench):
    old, new = bench.process.eventfd(), bench.process.eventfd()
    held = [bench.process.fds[fd].what for fd in (old, new)]
    give(bench, old, old)
    assert held[0].references == 2
    give(bench, new)
    assert [eventfd.references for eventfd in held] == [1, 1]
    set_irqs(bench, NONE | TRIGGER, count=0)
    assert [eventfd.references for eventfd in held] == [0, 0]
    give(bench, new, old, old)
    bench.process.close(bench.fd)
    assert [eventfd.references for eventfd in held] == [0, 0]


def test_what_is_no_eventfd_stops_half_way(bench):
    good = bench.process.eventfd()

    assert give(bench, good, bench.process.null(), good) == "EINVAL"
    assert bench.run(bench.device.signal_irq(MSI, 0)) is True
    assert bench.run(bench.device.signal_irq(MSI, 2)) is False
    assert give(bench, 999) == "EBADF"
    assert give(bench, bench.fd) == "EINVAL"


@pytest.mark.parametrize(
    ("flags", "count", "errno"),
    [
        (NONE, 1, "ENOTTY"),
        (NONE | c.VFIO_IRQ_SET_ACTION_MASK, 1, "ENOTTY"),
        (NONE | TRIGGER | c.VFIO_IRQ_SET_ACTION_UNMASK, 1, "ENOTTY"),
        (NONE | TRIGGER, 5, "EINVAL"),
        (BOOL | TRIGGER, 0, 0),
        (EVENTFD | TRIGGER, 0, 0),
        (NONE | TRIGGER, 0, 0),
    ],
)
def test_actions(bench, flags, count, errno):
    assert set_irqs(bench, flags, count=count) == errno


def test_data_is_copied_after_the_header_was_found_good(bench):
    memory = bench.process.memory
    at = bench.arg + (64 << 10) - 20
    memory.write(at, struct.pack("<5I", 24, EVENTFD | TRIGGER, MSI, 0, 1))
    assert bench.process.ioctl(bench.fd, c.VFIO_DEVICE_SET_IRQS, at).err == "EFAULT"
    memory.write(at, struct.pack("<5I", 23, EVENTFD | TRIGGER, MSI, 0, 1))
    assert bench.process.ioctl(bench.fd, c.VFIO_DEVICE_SET_IRQS, at).err == "EINVAL"


@pytest.mark.parametrize(
    ("index", "errno"), [(INTX, None), (2, None), (3, "EINVAL"), (4, None), (5, "EINVAL")]
)
def test_irq_info(bench, index, errno):
    result = bench.ioctl(c.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<4I", 99, 0xEE, index, 0xEE))

    assert result.err == errno
    if errno is None:
        count = (1, 4, 0, None, 0)[index]
        assert bench.answer(16) == struct.pack("<4I", 99, c.VFIO_IRQ_INFO_EVENTFD, index, count)
