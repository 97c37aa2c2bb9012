# SPDX-License-Identifier: MIT
"""How accesses to BARs are cut (vfio_pci_core_do_io_rw()), what a fault half way leaves, and which BARs can be mapped."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.pci.rigs import ADDRESS, Recorder, at
from tests.releases import every_release
from vfioemu.devices.pci import Bar, Express, Function, MsiX, PciHardware, VfioPci
from vfioemu.devices.pci.cards.e1000e import E1000e
from vfioemu.devices.pci.cards.edu import Edu
from vfioemu.devices.pci.cards.nvme import Nvme
from vfioemu.devices.pci.cards.plain import PlainFunction
from vfioemu.devices.pci.cards.testdev import PciTestdev
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

PAGE = 4096
TABLE = range(0x1000, 0x1040)  # of MSI-X, in BAR 4 of a Recorder


def pieces(offset, size, table=range(0)):
    """The kernel's loop, in its own order."""
    out = []
    end = offset + size
    while offset < end:
        if offset in table:
            offset = min(end, table.stop)
            continue
        room = min(end, table.start if offset < table.start else end) - offset
        width = next(w for w in (8, 4, 2, 1) if w <= room and offset % w == 0)
        out.append((offset, width))
        offset += width
    return out


@given(
    bar=st.sampled_from([2, 4]),
    offset=st.integers(0, 40) | st.integers(0xFE8, 0x1048) | st.integers(0x7D0, 0x7FF),
    size=st.integers(1, 80),
)
def test_accesses_are_cut_as_by_the_kernel(bar, offset, size):
    bench = Bench(Recorder(), name=ADDRESS)
    end = 0x800 if bar == 2 else 0x2000
    if offset >= end:
        return
    size = min(size, end - offset)
    expected = pieces(offset, size, TABLE if bar == 4 else range(0))

    assert len(bench.pread(size, at(bar, offset))) == size
    assert bench.model.hardware.seen == [("r", bar, *piece) for piece in expected]
    bench.model.hardware.seen.clear()
    assert bench.pwrite(bytes(size), at(bar, offset)).ret == size
    assert bench.model.hardware.seen == [("w", bar, place, bytes(width)) for place, width in expected]


def test_ports_see_two_accesses_of_32_bits():
    bench = Bench(Recorder(), name=ADDRESS)
    bench.pread(8, at(1, 8))
    bench.pwrite(bytes(range(16)), at(1))
    assert bench.model.hardware.seen == [
        ("r", 1, 8, 4),
        ("r", 1, 12, 4),
        ("w", 1, 0, bytes(range(4))),
        ("w", 1, 4, bytes(range(4, 8))),
        ("w", 1, 8, bytes(range(8, 12))),
        ("w", 1, 12, bytes(range(12, 16))),
    ]


@every_release
def test_an_eventfd_that_writes_8_bytes(profile):
    bench = Bench(Recorder(), name=ADDRESS)
    bench.iommu.profile = profile
    eventfd = bench.process.eventfd()

    def rule(place, data=0x1122334455667788):
        request = struct.pack("<IIQQiI", 32, c.VFIO_DEVICE_IOEVENTFD_64, place, data, eventfd, 0)
        return bench.ioctl(c.VFIO_DEVICE_IOEVENTFD, request).err

    assert rule(at(2, 0x7FC)) == "EINVAL"
    if not profile.ioeventfd_64:
        assert rule(at(2, 8)) == rule(at(1, 8)) == "EINVAL"
        return
    assert rule(at(2, 8)) is None
    assert rule(at(1, 8), 1) is None
    bench.process.memory.write(bench.arg, (1).to_bytes(8, "little"))
    bench.process.write(eventfd, bench.arg, 8)
    assert sorted(bench.model.hardware.seen) == [
        ("w", 1, 8, b"\1\0\0\0"),
        ("w", 1, 12, bytes(4)),
        ("w", 2, 8, bytes.fromhex("8877665544332211")),
    ]


# --- what a fault half way leaves ---


@pytest.mark.parametrize("place", [1, 4, 5, 8, 9, 11, 24, 31])
@pytest.mark.parametrize("offset", [0, 1, 2, 6, 8])
def test_a_write_that_faults_has_written_what_was_whole(place, offset):
    """`place` bytes of the caller's 40 are there, in memory without registers as in registers."""
    plain = Bench(PlainFunction({"bars": [0x1000]}), name=ADDRESS)
    plain.pwrite(b"\xaa" * 64, at(0))
    recorder = Bench(Recorder(), name=ADDRESS)
    data = bytes(range(1, place + 1))
    whole = 0
    for start, width in pieces(offset, 40):
        if start - offset + width > place:
            break
        whole = start - offset + width

    for bench, bar in ((plain, 0), (recorder, 2)):
        page = bench.process.memory.allocate(PAGE)
        bench.process.memory.write(page + PAGE - place, data)
        result = bench.process.pwrite(bench.fd, page + PAGE - place, 40, at(bar, offset))
        assert result.err == "EFAULT"

    assert plain.pread(64, at(0)) == (b"\xaa" * offset + data[:whole]).ljust(64, b"\xaa")
    assert b"".join(data for _, _, _, data in recorder.model.hardware.seen) == data[:whole]


def test_a_large_write_that_faults_in_a_later_page():
    bench = Bench(PlainFunction({"bars": [0x10000]}), name=ADDRESS)
    start = bench.process.memory.allocate(3 * PAGE)
    bench.process.memory.write(start, b"\x11" * 3 * PAGE)
    assert bench.process.pwrite(bench.fd, start + 3, 4 * PAGE, at(0)).err == "EFAULT"
    whole = (3 * PAGE - 3) // 8 * 8
    assert bench.pread(4 * PAGE, at(0)) == b"\x11" * whole + bytes(4 * PAGE - whole)


@pytest.mark.parametrize("there", [0, 1, 8, 12, 16, 17])
def test_a_read_that_faults_has_read_no_further(there):
    bench = Bench(Recorder(), name=ADDRESS)
    page = bench.process.memory.allocate(PAGE)
    assert bench.process.pread(bench.fd, page + PAGE - there, 48, at(2)).err == "EFAULT"
    assert bench.model.hardware.seen == [("r", 2, 8 * i, 8) for i in range(there // 8 + 1)]
    assert bench.process.memory.read(page + PAGE - there, there // 8 * 8) == bytes(range(there // 8 * 8))


# --- the models ---


def test_edu_has_64_bits_where_its_dma_registers_are():
    bench = Bench(Edu({}), name=ADDRESS)
    assert bench.pread(8, at(0)) == bench.pread(8, at(0, 0x20)) == b"\xff" * 8
    bench.pwrite(bytes(8), at(0, 0x4 - 4))
    assert bench.pread(4, at(0, 4)) == bytes(4)  # nothing was written
    bench.pwrite(struct.pack("<Q", 0x1_2345_6789), at(0, 0x80))
    assert bench.pread(8, at(0, 0x80)) == struct.pack("<Q", 0x1_2345_6789)
    assert bench.pread(4, at(0, 0x80)) == struct.pack("<I", 0x2345_6789)
    bench.pwrite(struct.pack("<I", 5), at(0, 0x80))
    assert bench.pread(8, at(0, 0x80)) == struct.pack("<Q", 5)


def test_nvme_has_registers_of_64_bits():
    bench = Bench(Nvme({}), name=ADDRESS)
    both = bench.pread(4, at(0)) + bench.pread(4, at(0, 4))
    assert bench.pread(8, at(0)) == both != bytes(8)
    bench.pwrite(struct.pack("<Q", 0x1_0000_2000), at(0, 0x28))
    assert bench.pread(8, at(0, 0x28)) == struct.pack("<Q", 0x1_0000_2000)
    assert bench.pread(4, at(0, 0x2C)) == struct.pack("<I", 1)


def test_e1000e_has_registers_of_32_bits():
    bench = Bench(E1000e({}), name=ADDRESS)
    both = bench.pread(4, at(0)) + bench.pread(4, at(0, 4))
    assert bench.pread(8, at(0)) == both
    bench.pwrite(b"\1\2\3\4\5\6\7\x08", at(0, 0x5400))
    assert bench.pread(4, at(0, 0x5404)) == b"\5\6\7\x08"


def test_testdev_counts_by_the_byte():
    bench = Bench(PciTestdev({}), name=ADDRESS)
    bench.pwrite(b"\0", at(0))
    bench.pwrite(b"\xfa" + bytes(7), at(0, 0x800))
    assert bench.pread(16, at(0))[12:] == b"\1\0\0\0"


# --- small BARs ---


@pytest.mark.parametrize(
    ("bars", "rom", "mapped"),
    [
        ({0: Bar(0x100)}, None, {0}),
        ({0: Bar(0x10), 1: Bar(0x1000)}, None, {0, 1}),
        ({0: Bar(0x100), 1: Bar(0x100)}, None, set()),
        ({0: Bar(0x100, address=0xFE000000), 1: Bar(0x100, address=0xFE001000)}, None, {0, 1}),
        ({0: Bar(0x100, address=0xFE000100)}, None, set()),
        ({0: Bar(0x800, address=0xFE000800), 1: Bar(0x1000, address=0xFE001000)}, None, {1}),
        ({0: Bar(0x100)}, b"\x55\xaa", set()),  # the ROM has the rest of the page
        ({0: Bar(0x100), 2: Bar(0x100, kind="mem64")}, None, {0, 2}),
        ({0: Bar(0x100), 1: Bar(0x10, kind="io", address=0xFE800100)}, None, {0}),
        ({0: Bar(0x100, areas=())}, None, set()),
        ({0: Bar(0x100, areas=((0, 0x1000),))}, None, {0}),
    ],
)
def test_which_bars_can_be_mapped(bars, rom, mapped):
    model = VfioPci({}, PciHardware(Function(vendor=1, device=2, class_code=0, bars=bars, rom=rom)))
    bench = Bench(model, name=ADDRESS)
    found = set()
    for index in bars:
        bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<4I2Q", 32, 0, index, 0, 0, 0))
        flags = struct.unpack("<I", bench.answer(4, 4))[0]
        answer = bench.process.mmap(bench.fd, PAGE, "rw", at(index)).err
        assert (answer is None) == bool(flags & c.VFIO_REGION_INFO_FLAG_MMAP)
        if answer is None:
            found.add(index)
    assert found == mapped


def test_none_is_mapped_if_the_machine_says_so():
    bench = Bench(
        VfioPci({"mmap": False}, PciHardware(Function(vendor=1, device=2, class_code=0, bars={0: Bar(16)})))
    )
    assert bench.process.mmap(bench.fd, PAGE, "rw", at(0)).err == "EINVAL"


# --- eventfds ---


@pytest.mark.parametrize("index", [c.VFIO_PCI_ERR_IRQ_INDEX, c.VFIO_PCI_REQ_IRQ_INDEX])
@pytest.mark.parametrize("number", [-2, -5, -(1 << 31)])
def test_no_eventfd_has_a_number_below_minus_one(index, number):
    bench = Bench(Recorder(capabilities=(Express(),)), name=ADDRESS)
    eventfd = bench.process.eventfd()
    trigger = c.VFIO_IRQ_SET_DATA_EVENTFD | c.VFIO_IRQ_SET_ACTION_TRIGGER

    def give(value):
        return bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5Ii", 24, trigger, index, 0, 1, value)).err

    assert give(eventfd) is None
    assert give(number) == "EINVAL"
    assert bench.process.fds[eventfd].what.references == 1  # as it was
    assert give(-1) is None
    assert bench.process.fds[eventfd].what.references == 0


def test_an_unmask_eventfd_that_was_closed_is_let_go():
    bench = Bench(Recorder(capabilities=(MsiX(1),)), name=ADDRESS)
    process = bench.process
    trigger, unmask = process.eventfd(), process.eventfd()

    def give(action, number):
        flags = c.VFIO_IRQ_SET_DATA_EVENTFD | action
        return bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5Ii", 24, flags, 0, 0, 1, number)).err

    assert give(c.VFIO_IRQ_SET_ACTION_TRIGGER, trigger) is None
    assert give(c.VFIO_IRQ_SET_ACTION_UNMASK, unmask) is None
    held = process.fds[unmask].what
    copy, second = process.dup(unmask), process.eventfd()
    process.close(unmask)
    assert give(c.VFIO_IRQ_SET_ACTION_UNMASK, second) == "EBUSY"
    process.close(copy)
    assert give(c.VFIO_IRQ_SET_ACTION_UNMASK, second) is None
    assert held.references == 0
    assert give(c.VFIO_IRQ_SET_ACTION_UNMASK, trigger) == "EBUSY"
