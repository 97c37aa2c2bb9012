# SPDX-License-Identifier: MIT
"""The dma-engine as a PCI function: what it looks like, its ring table, interrupts, bus mastering, registers, options."""

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.dma_engine.rig import (
    ADDRESS,
    COMMAND,
    CONFIG,
    INTX,
    MSI,
    MSIX,
    PAGE,
    Rig,
)
from tests.stamps import Stamp
from vfioemu.abi.dma_engine import (
    COMMAND_INTERRUPT,
    MSI_VECTORS,
    MSIX_VECTORS,
    RING_OFFSET,
    Command,
    Pattern,
    Register,
)
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.uapi import constants as c


def test_it_is_a_function_that_no_driver_binds(rig):
    config = rig().bench.pread(64, CONFIG)

    assert struct.unpack_from("<HH", config) == (0x1AFE, 0x0D01)
    assert config[8:12] == b"\x01\x00\x80\x08"  # system peripheral, other
    assert config[0x3D] == 1


def test_its_regions_and_interrupts(rig):
    regions = rig(big_bar=1 << 20).model.regions()
    mmap = c.VFIO_REGION_INFO_FLAG_MMAP

    assert [region.size if region else 0 for region in regions[:6]] == [0x2000, 0, 0x1000, 0, 1 << 20, 0]
    assert regions[0].flags & mmap
    assert regions[0].caps == (
        (c.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, struct.pack("<IIQQ", 1, 0, 0x1000, 0x1000)),
    )
    assert regions[4].flags & mmap
    assert [irq.count for irq in rig().model.irqs()[:3]] == [1, MSI_VECTORS, MSIX_VECTORS]


def test_the_big_bar_is_a_64_bit_prefetchable_one(rig):
    bench = rig(big_bar=1 << 20).bench
    bench.pwrite(b"\xff" * 8, CONFIG + 0x20)

    assert bench.pread(8, CONFIG + 0x20) == struct.pack("<Q", (-(1 << 20) & (1 << 64) - 1) | 0xC)


@given(
    pages=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    counts=st.lists(st.integers(0, 60), max_size=4),
    batch=st.integers(1, 256),
)
def test_a_ring_is_gone_through_entry_by_entry(pages, counts, batch):
    rig = Rig(id=3)
    rig.ring(*[page * PAGE for page in pages])
    rig.set(batch=batch)
    last, seq = {}, 0

    for count in counts:
        assert rig.command(Command.WRITE, count) == count
        for _ in range(count):
            last[pages[seq % len(pages)]] = seq + 1
            seq += 1

    for page, number in last.items():
        assert Stamp.parse(rig.memory, page * PAGE) == Stamp(3, number, page * PAGE)
    assert rig.bench.iommu.dirty == set(last)


def test_what_is_mapped_is_what_the_device_reads(rig):
    rig = rig(id=3)
    rig.set(pattern=Pattern.RING, size=2 * PAGE)
    fd = rig.model.hardware.bar_memory(0).fd
    os.pwrite(fd, struct.pack("<2Q", 5 * PAGE, 9 * PAGE), RING_OFFSET)

    rig.set(doorbell=2)

    assert rig.bench.iommu.dirty == {5, 9}
    assert rig.bench.pread(16, RING_OFFSET) == struct.pack("<2Q", 5 * PAGE, 9 * PAGE)


def test_entries_that_are_no_pages_are_failed_writes(rig):
    rig = rig()
    rig.ring(PAGE, 5, 1 << 63, 2 * PAGE)

    assert rig.command(Command.WRITE, 4) == 2
    assert (rig.get("failed"), rig.bench.iommu.dirty) == (2, {1, 2})


def test_a_ring_has_no_more_entries_than_its_table(rig):
    rig = rig()
    rig.set(pattern=Pattern.RING, size=513 * PAGE)

    assert rig.command(Command.WRITE, 1) == -errno.EINVAL


@pytest.mark.parametrize(("index", "count"), [(MSI, MSI_VECTORS), (MSIX, MSIX_VECTORS)])
def test_every_vector_arrives_where_it_belongs(rig, index, count):
    rig = rig()
    rig.set(size=4 * PAGE, irq_every=2)
    fds = rig.irqs(index, count)

    for vector in range(count):
        rig.set(irq_vector=vector)
        rig.command(Command.WRITE, 6)
        assert rig.heard(fds) == [3 * (n == vector) for n in range(count)]
        assert rig.get("irq_status") == (2 << vector) - 1


def test_commands_and_the_doorbell_interrupt_when_they_are_done(rig):
    rig = rig()
    rig.set(size=4 * PAGE, irq_vector=5)
    fds = rig.irqs(MSIX, MSIX_VECTORS)

    assert rig.command(Command.WRITE | COMMAND_INTERRUPT, 3) == 3
    rig.set(doorbell=2)
    assert rig.command(Command.INTERRUPT, 2) == 1
    assert rig.command(Command.INTERRUPT, 8) == -errno.EINVAL

    assert rig.heard(fds) == [0, 0, 1, 0, 0, 2, 0, 0]
    assert (rig.get("writes"), rig.get("irqs"), rig.get("irq_status")) == (5, 3, 0x24)


def test_intx_is_high_until_all_is_acknowledged(rig):
    rig = rig()
    (fd,) = rig.irqs(INTX, 1)
    unmask = struct.pack("<5I", 20, 0x11, INTX, 0, 1)

    rig.command(Command.INTERRUPT, 1)
    rig.command(Command.INTERRUPT, 3)
    assert rig.heard([fd]) == [1]  # it is masked until somebody unmasks it
    assert rig.get("irq_status") == 0xA
    rig.set(irq_status=2)
    assert rig.bench.ioctl(c.VFIO_DEVICE_SET_IRQS, unmask).ret == 0
    assert rig.heard([fd]) == [1]  # still asserted
    rig.set(irq_status=8)
    assert rig.bench.ioctl(c.VFIO_DEVICE_SET_IRQS, unmask).ret == 0

    assert rig.heard([fd]) == [0]
    rig.command(Command.INTERRUPT, 0)
    assert rig.heard([fd]) == [1]


def test_halves_execute_once(rig):
    """A driver without 64-bit stores: what happens, happens with the low half."""
    rig = rig()
    rig.set(size=PAGE, arg0=3)

    for offset in (Register.COMMAND + 4, Register.DOORBELL + 4):
        assert rig.bench.pwrite(bytes(4), offset).ret == 4
    assert rig.get("writes") == 0
    rig.bench.pwrite(struct.pack("<I", Command.WRITE), Register.COMMAND)
    rig.bench.pwrite(struct.pack("<I", 2), Register.DOORBELL)

    assert rig.get("writes") == 5


def test_behind_a_pci_address_there_is_no_dma_without_bus_mastering(rig):
    rig = rig(name=ADDRESS)
    rig.set(size=4 * PAGE)

    assert rig.command(Command.WRITE, 4) == -errno.EIO
    assert rig.command(Command.COPY, 0, PAGE, 8) == -errno.EIO
    rig.set(rate=0, control=1)
    rig.bench.run(rig.bench.device.work(1.0))
    assert (rig.get("seq"), rig.get("failed") > 0, any(rig.memory)) == (0, True, False)
    rig.set(control=0)
    rig.master()
    assert rig.command(Command.WRITE, 4) == 4
    rig.master(on=False)
    assert rig.command(Command.WRITE, 4) == -errno.EIO
    assert rig.bench.iommu.dirty == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "option", "answer"), [(None, True, -5), (ADDRESS, False, 1), (None, None, 1)]
)
def test_whether_bus_mastering_counts_can_be_chosen(rig, name, option, answer):
    rig = rig(name=name, **({} if option is None else {"bus_master": option}))
    rig.set(size=PAGE)

    assert rig.command(Command.WRITE, 1) == answer


@pytest.mark.parametrize(
    "options",
    [
        {"journal": 1},
        {"big-bar": 5000},
        {"big-bar": 1 << 30},
        {"p2p": "no"},
        {"precopy": 0},
        {"bus-master": "on"},
        {"fail-logging-start": "ESOMETHING"},
        {"fail-logging-start": 12},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DmaEngine(options)


def test_registers_answer_while_memory_is_decoded(rig):
    rig = rig()
    rig.set(seed=7)

    rig.bench.pwrite(bytes(2), COMMAND)
    with pytest.raises(OSError, match="EIO"):
        rig.get("seed")
    assert rig.bench.pwrite(bytes(8), Register.SEED).err == "EIO"
    rig.bench.pwrite(b"\x02\0", COMMAND)
    assert rig.get("seed") == 7


def test_a_large_write_is_taken_from_the_caller_in_pieces(rig):
    """Others are served in between, and the daemon never holds all of it."""
    size = 64 << 20
    assert 0 < rig(big_bar=size).model.next_piece(4, 0, size) <= 1 << 20
