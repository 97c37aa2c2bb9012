# SPDX-License-Identifier: MIT
"""SET_IRQS of a PCI function against a small model, every header and random histories; INTx as a level; watched eventfds."""

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.pci.irq_model import (
    BAD,
    BOOL,
    CLOSED,
    COUNTS,
    EVENTFD,
    MASK,
    NONE,
    OK,
    TRIGGER,
    UNMASK,
    Interrupts,
)
from tests.devices.pci.rigs import ADDRESS, CONFIG, MASTER, NAMES, Console, Subject
from tests.sample import sampled
from vfioemu.devices.pci import PowerManagement
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c


@pytest.mark.parametrize("on", sampled([None, 2, 0, 1], 2))
def test_every_header_with_every_interrupt_on(on):
    """All flags, indices, starts and counts that lie at some edge; each from the same state."""
    numbers = (0, 1, 4, 7, 8, 0xFFFFFFFE, 0xFFFFFFFF)
    data = bytes(4 * 9)  # as bools: all false; as eventfds: fd 0, which is not open

    console = Console()
    for index, flags, start, count in itertools.product(range(6), (*range(0x40), 0x64), numbers, numbers):
        model = Interrupts()
        if on is not None:
            assert (
                console.call(on, EVENTFD | TRIGGER, 0, 1, ["a"])
                == model.call(on, EVENTFD | TRIGGER, 0, 1, ["a"])
                == OK
            )
        expected = model.header(index, flags, start, count, len(data))
        if expected == OK:
            given_data = [0] * count if flags & 7 != EVENTFD else [CLOSED] * count
            expected = model.call(index, flags, start, count, given_data)

        got = console.set_irqs(index, flags, start, count, data)

        assert got == expected, (index, hex(flags), start, count)
        if model.on is not None:
            assert console.call(model.on, NONE | TRIGGER, 0, 0, []) == OK


@st.composite
def requests(draw):
    index = draw(st.integers(0, 4))
    kind = draw(st.sampled_from([NONE, BOOL, EVENTFD]))
    action = draw(st.sampled_from([TRIGGER, TRIGGER, TRIGGER, MASK, UNMASK, 0, MASK | TRIGGER]))
    start = draw(st.integers(0, COUNTS[index] - 1))
    count = draw(st.integers(0, COUNTS[index] - start))
    names = st.sampled_from([*NAMES, *NAMES, None, None, BAD, CLOSED])
    element = names if kind == EVENTFD else st.integers(0, 1)
    data = draw(st.lists(element, min_size=count, max_size=count))
    if (
        kind == EVENTFD and action == UNMASK
    ):  # what is watched keeps no count, so it is none of those we count
        data = ["watched" if name in NAMES else name for name in data]
    return index, kind | action, start, count, data


@settings(deadline=None)
@given(st.lists(requests(), min_size=1, max_size=40))
def test_histories_are_those_of_the_model(history):
    console, model = Console(), Interrupts()
    console.command(MASTER)

    for request in history:
        assert console.call(*request) == model.call(*request), request
        assert console.rung() == {name: model.rings.get(name, 0) for name in NAMES}
        for (index, vector), name in [*model.heard.items()]:
            if index in (1, 2):  # the device itself reaches the same eventfd
                console.bench.run(console.bench.model.interrupts.raise_vector(vector))
                model.rings[name] = model.rings.get(name, 0) + 1
        assert console.rung() == {name: model.rings.get(name, 0) for name in NAMES}


def test_nothing_is_left_behind_by_a_close():
    console = Console()
    for index in (2, 3, 4):
        assert console.call(index, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    process = console.bench.process
    assert process.fds[console.fds["a"]].what.references == 3

    process.close(console.bench.fd)

    assert process.fds[console.fds["a"]].what.references == 0
    assert console.bench.model.interrupts.active is None


def raise_line(console, level=True):
    console.bench.run(console.bench.model.hardware.set_intx(level))


def status(console):
    return int.from_bytes(console.bench.pread(2, CONFIG + 6), "little")


def test_a_level_is_delivered_once_until_it_is_unmasked():
    console = Console()
    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK

    raise_line(console)
    raise_line(console)
    assert console.rung()["a"] == 1
    assert status(console) & 8

    assert console.call(0, NONE | UNMASK, 0, 1, []) == OK  # still asserted: at once again, and masked again
    assert console.rung()["a"] == 2

    raise_line(console, False)
    assert not status(console) & 8
    assert console.call(0, NONE | UNMASK, 0, 1, []) == OK
    assert console.rung()["a"] == 2
    raise_line(console)
    assert console.rung()["a"] == 3


def test_a_masked_line_is_delivered_when_it_is_unmasked():
    console = Console()
    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert console.call(0, NONE | MASK, 0, 1, []) == OK
    raise_line(console)
    assert console.rung()["a"] == 0

    assert console.call(0, BOOL | UNMASK, 0, 1, [0]) == OK
    assert console.rung()["a"] == 0
    assert console.call(0, BOOL | UNMASK, 0, 1, [1]) == OK
    assert console.rung()["a"] == 1


def test_a_line_that_is_asserted_already_is_delivered_when_intx_is_enabled():
    console = Console()
    raise_line(console)

    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK

    assert console.rung()["a"] == 1


def test_the_guests_intx_disable_bit_masks_and_unmasks():
    console = Console()
    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert console.bench.pwrite(b"\x03\x05", CONFIG + 4).ret == 2
    assert console.bench.pread(2, CONFIG + 4) == b"\x03\x05"

    raise_line(console)
    assert console.call(0, NONE | TRIGGER, 0, 1, []) == OK  # nor by hand
    assert console.call(0, NONE | UNMASK, 0, 1, []) == OK  # nor by unmasking
    assert console.rung()["a"] == 0

    assert console.bench.pwrite(b"\x05", CONFIG + 5).ret == 1  # the upper byte alone, unchanged
    assert console.rung()["a"] == 0
    assert console.bench.pwrite(b"\x01", CONFIG + 5).ret == 1
    assert console.rung()["a"] == 1


def test_an_eventfd_unmasks():
    console = Console()
    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert console.call(0, EVENTFD | UNMASK, 0, 1, ["b"]) == OK
    assert console.call(0, EVENTFD | UNMASK, 0, 1, ["c"]) == "EBUSY"
    raise_line(console)

    console.write_eventfd("b")
    assert console.rung() == {"a": 2, "b": 0, "c": 0}  # taken away, and asserted still
    raise_line(console, False)
    console.write_eventfd("b")
    raise_line(console)
    assert console.rung() == {"a": 3, "b": 0, "c": 0}

    assert console.call(0, EVENTFD | UNMASK, 0, 1, [None]) == OK
    console.write_eventfd("b")
    assert console.rung() == {"a": 3, "b": 1, "c": 0}  # nobody watches it any more
    assert console.bench.process.fds[console.fds["b"]].what.references == 0


def test_an_eventfd_that_is_signalled_already_unmasks_at_once():
    console = Console()
    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    raise_line(console)
    raise_line(console, False)
    console.write_eventfd("b")

    assert console.call(0, EVENTFD | UNMASK, 0, 1, ["b"]) == OK
    console.bench.process.scheduler.run_all()
    raise_line(console)

    assert console.rung() == {"a": 2, "b": 0, "c": 0}


def test_an_eventfd_that_unmasks_and_is_signalled_by_it_is_a_storm_and_no_hang():
    console = Console()
    assert console.call(0, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert console.call(0, EVENTFD | UNMASK, 0, 1, ["a"]) == OK
    raise_line(console)

    console.write_eventfd("a")
    assert console.call(0, NONE | TRIGGER, 0, 0, []) == OK
    console.bench.process.scheduler.run_all()

    assert console.bench.process.fds[console.fds["a"]].what.references == 0


def test_enabling_shows_in_the_capabilities():
    console = Console()
    msi, msix = 0x40, console.bench.model.hardware.config.caps[0x11]

    assert console.call(2, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert console.bench.pread(2, CONFIG + msix + 2) == b"\x07\x80"
    assert console.call(2, NONE | TRIGGER, 0, 0, []) == OK
    assert console.bench.pread(2, CONFIG + msix + 2) == b"\x07\x00"

    assert console.bench.pwrite(b"\x31", CONFIG + msi + 2).ret == 1  # enabled by ioctl only
    assert console.bench.pread(1, CONFIG + msi + 2)[0] & 0x71 == 0
    assert console.call(1, EVENTFD | TRIGGER, 0, 3, ["a", "b", "c"]) == OK
    assert console.bench.pwrite(b"\x31", CONFIG + msi + 2).ret == 1
    assert console.bench.pread(1, CONFIG + msi + 2)[0] & 0x71 == 0x21  # 8 asked for, 4 are there


@given(vectors=st.integers(1, 4), asked=st.integers(0, 7), closes=st.integers(0, 2))
@settings(deadline=None)
def test_the_guest_gets_as_many_messages_as_were_ever_enabled_last(vectors, asked, closes):
    """vfio-pci forgets at no close how many MSI vectors were enabled (msi_qmax)."""
    console = Console()
    bench = console.bench
    assert console.call(1, TRIGGER | EVENTFD, 0, vectors, [None] * vectors) == OK
    for _ in range(closes):
        bench.process.close(bench.fd)
        bench.fd = bench.open()
    flags = CONFIG + bench.model.hardware.config.caps[5] + 2

    assert bench.pwrite(bytes((asked << 4,)), flags).ret == 1

    assert bench.pread(1, flags)[0] >> 4 & 7 == min(asked, (vectors - 1).bit_length())


@pytest.mark.parametrize(("index", "refused"), [(1, "EINVAL"), (2, "ERANGE")])
def test_no_vectors_in_d3hot(index, refused):
    """MSI looks at the power state first, MSI-X at the number (__pci_enable_msi_range(), __pci_enable_msix_range())."""
    console = Console(PowerManagement())
    place = CONFIG + console.bench.model.hardware.config.caps[1] + 4
    assert console.bench.pwrite(b"\x03", place).ret == 1

    assert console.call(index, TRIGGER | EVENTFD, 0, 0, []) == refused
    assert console.call(index, TRIGGER | EVENTFD, 0, 1, [None]) == "EINVAL"


def test_a_host_with_few_vectors_says_how_many():
    bench = Bench(Subject({"host-vectors": 2}), name=ADDRESS)
    data = struct.pack("<5I4i", 36, EVENTFD | TRIGGER, 2, 0, 4, -1, -1, -1, -1)

    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, data).ret == 2
    assert (
        bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5I", 20, NONE | TRIGGER, 2, 0, 0)).err == "EINVAL"
    )
    assert (
        bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5I2i", 28, EVENTFD | TRIGGER, 2, 0, 2, -1, -1)).ret
        == 0
    )


def test_a_signalled_msi_vector_wraps_around_those_that_were_enabled():
    console = Console()
    console.command(MASTER)
    assert console.call(1, EVENTFD | TRIGGER, 0, 2, ["a", "b"]) == OK

    for vector in (0, 1, 2, 3, 3):
        assert console.bench.run(console.bench.model.hardware.interrupt(vector))

    assert console.rung() == {"a": 2, "b": 3, "c": 0}


def test_error_and_removal_interrupts():
    console = Console()
    model = console.bench.model
    assert console.bench.run(model.raise_error()) is False
    assert console.call(3, EVENTFD | TRIGGER, 0, 1, ["a"]) == OK
    assert console.call(4, EVENTFD | TRIGGER, 0, 1, ["b"]) == OK

    assert console.bench.run(model.raise_error())
    assert console.bench.run(model.request_removal())

    assert console.rung() == {"a": 1, "b": 1, "c": 0}
