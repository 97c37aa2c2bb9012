# SPDX-License-Identifier: MIT
"""The dma-engine as a PCI function: ring table, interrupts, copies, bus mastering, journal, and all of it in its state."""

import errno
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.testing.bench import GUEST, Bench
from vfioemu.uapi import constants as c

PAGE = 4096
CONFIG = 7 << 40
COMMAND = CONFIG + 4
ADDRESS = "0000:00:05.0"
INTX, MSI, MSIX = 0, 1, 2
STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(1, 8)


class Rig:
    """A dma-engine on a bench, by what a guest's driver and its VMM do."""

    def __init__(self, name=None, migration=None, **options):
        options = {key.replace("_", "-"): value for key, value in options.items()}
        arguments = {"name": name} if name else {}
        self.bench = Bench(DmaEngine(options), migration=migration, **arguments)
        self.model = self.bench.model
        self.memory = self.bench.iommu.memory

    def set(self, **registers):
        for name, value in registers.items():
            assert self.bench.pwrite(struct.pack("<Q", value), Register[name.upper()]).err is None, name

    def get(self, name):
        return struct.unpack("<Q", self.bench.pread(8, Register[name.upper()]))[0]

    def command(self, command, *arguments):
        names = ("arg0", "arg1", "arg2")
        self.set(**dict(zip(names, arguments, strict=False)))
        self.set(command=command)
        return struct.unpack("<q", self.bench.pread(8, Register.RESULT))[0]

    def master(self, on=True):
        assert self.bench.pwrite(struct.pack("<H", 6 if on else 2), COMMAND).ret == 2

    def ring(self, *pages):
        assert self.bench.pwrite(struct.pack(f"<{len(pages)}Q", *pages), RING_OFFSET).err is None
        self.set(pattern=Pattern.RING, size=len(pages) * PAGE)

    def irqs(self, index, count):
        """Eventfds for the first vectors of an index."""
        fds = [self.bench.process.eventfd() for _ in range(count)]
        payload = struct.pack(f"<5I{count}i", 20 + 4 * count, 0x24, index, 0, count, *fds)
        assert self.bench.ioctl(c.VFIO_DEVICE_SET_IRQS, payload).ret == 0
        return fds

    def heard(self, fds):
        """How often each was signalled since the last time."""
        counts = []
        for fd in fds:
            result = self.bench.process.read(fd, self.bench.arg, 8)
            counts.append(struct.unpack("<Q", self.bench.answer(8))[0] if result.ret == 8 else 0)
        return counts

    def state(self, state):
        payload = struct.pack("<Ii", state, -1)
        result, answer = self.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 2, payload)
        return result.err or struct.unpack("<Ii", answer)[1]

    def save(self, *states):
        fd = -1
        for state in (*states, STOP_COPY):
            fd = max(fd, self.state(state))
        data = b""
        while (result := self.bench.process.read(fd, self.bench.arg, 50_000)).ret > 0:
            data += self.bench.answer(result.ret)
        assert result.err is None
        return data

    def load(self, data):
        """Load; the errno of the arc that takes it over, or 0."""
        fd = self.state(RESUMING)
        for at in range(0, len(data), 40_000):
            piece = data[at : at + 40_000]
            self.bench.process.memory.write(self.bench.arg, piece)
            assert self.bench.process.write(fd, self.bench.arg, len(piece)).err is None
        answer = self.state(RUNNING)
        return 0 if answer == -1 else answer


@pytest.fixture
def rig():
    return Rig


# --- what it looks like ---


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


# --- the ring table ---


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


# --- interrupts ---


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


# --- copies ---


@given(
    source=st.integers(0, 3 * PAGE),
    target=st.integers(4 * PAGE, 7 * PAGE),
    size=st.integers(0, 3 * PAGE),
    seed=st.binary(min_size=1, max_size=9),
)
def test_a_copy_copies_and_marks_what_it_wrote(source, target, size, seed):
    rig = Rig()
    rig.memory[: 16 * PAGE] = (seed * (16 * PAGE))[: 16 * PAGE]
    expected = bytearray(rig.memory[: 16 * PAGE])
    expected[target : target + size] = expected[source : source + size]

    assert rig.command(Command.COPY, source, target, size) == size

    assert rig.memory[: 16 * PAGE] == expected
    touched = set(range(target // PAGE, (target + size - 1) // PAGE + 1)) if size else set()
    assert rig.bench.iommu.dirty == touched


def test_a_copy_of_what_is_not_there_fails(rig):
    rig = rig()

    assert rig.command(Command.COPY, GUEST, 0, PAGE) == -errno.EFAULT
    assert rig.command(Command.COPY, 0, GUEST - 10, PAGE) == -errno.EFAULT
    assert rig.command(Command.COPY, 0, 0, (1 << 20) + 1) == -errno.EINVAL
    assert rig.command(Command.COPY, (1 << 64) - 1, 0, 8) == -errno.EINVAL
    assert rig.command(Command.COPY, 0, 4 * PAGE, 1 << 20) in (1 << 20, -errno.EFAULT)


def test_copies_of_a_pinning_device_pin_and_are_logged(rig):
    rig = rig(type=3, pin_from="run")
    ranges = rig.bench.process.memory.allocate(PAGE)
    rig.bench.process.memory.write(ranges, struct.pack("<QQ", 0, 16 * PAGE))
    start = struct.pack("<QIIQ", PAGE, 1, 0, ranges)
    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 6, start)[0].ret == 0

    assert rig.command(Command.COPY, 0, 3 * PAGE + 5, PAGE) == PAGE

    assert set(rig.bench.iommu.pins) == {3 * PAGE, 4 * PAGE}
    report = struct.pack("<QQQQ", 0, 16 * PAGE, PAGE, ranges + 64)
    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_GET | 8, report)[0].ret == 0
    assert rig.bench.process.memory.read(ranges + 64, 8) == struct.pack("<Q", 0b11000)


# --- bus mastering ---


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


# --- the journal ---


@given(
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    npages=st.integers(1, 20),
    pattern=st.integers(0, 2),
    offset=st.integers(0, 100),
    hide=st.integers(0, 3),
    limit=st.integers(1, 30),
)
def test_the_journal_tells_what_memory_holds(counts, npages, pattern, offset, hide, limit):
    rig = Rig(id=8, journal=True, hide=hide)
    rig.set(base=PAGE, size=npages * PAGE, pattern=pattern, offset=offset, write_size=77)
    for count in counts:
        rig.command(Command.WRITE, count)

    writes: list[Any] = []
    following: int | None = 0
    answer: Any = None
    while following is not None:
        answer = rig.model.inspect("writes", {"first": following, "limit": limit})
        writes += answer["writes"]
        following = answer["next"]

    assert (answer["device_id"], answer["seq"], answer["total"]) == (8, sum(counts), len(writes))
    found = {page for page in range(0, len(rig.memory), PAGE) if Stamp.parse(rig.memory, page + offset)}
    assert [iova - offset for iova, _, _ in writes] == sorted(found)
    for iova, seq, size in writes:
        assert rig.memory[iova : iova + 32] == Stamp(8, seq, iova).build()
        assert rig.memory[iova + 32 : iova + size] == bytes([seq & 255]) * (size - 32)


def test_the_journal_outlives_the_client_until_the_next_one(rig):
    rig = rig(journal=True)
    rig.set(size=2 * PAGE)
    rig.command(Command.WRITE, 5)
    rig.bench.process.close(rig.bench.fd)

    assert rig.model.inspect("writes", {})["writes"] == [(0, 5, 64), (PAGE, 4, 64)]
    rig.bench.open()
    assert rig.model.inspect("writes", {})["writes"] == []


def test_a_page_that_was_copied_over_leaves_the_journal(rig):
    rig = rig(journal=True)
    rig.set(size=4 * PAGE)
    rig.command(Command.WRITE, 4)
    rig.command(Command.COPY, 8 * PAGE, PAGE + 100, PAGE)

    assert [iova for iova, _, _ in rig.model.inspect("writes", {})["writes"]] == [0, 3 * PAGE]


def test_failed_writes_are_not_in_the_journal(rig):
    rig = rig(journal=True)
    rig.set(base=GUEST - PAGE, size=2 * PAGE)
    rig.command(Command.WRITE, 2)

    assert rig.model.inspect("writes", {})["writes"] == [(GUEST - PAGE, 1, 64)]


def test_what_cannot_be_inspected(rig):
    rig = rig()

    assert rig.model.inspect("registers", {})["IRQ_STATUS"] == 0
    with pytest.raises(KeyError):
        rig.model.inspect("writes", {})
    with pytest.raises(KeyError):
        rig.model.inspect("weather", {})


def test_what_no_container_lets_through_is_in_no_journal(rig):
    """The whole batch is refused: a vaddr is invalid, the backend is gone."""
    rig = rig(type=3, journal=True)
    rig.set(size=4 * PAGE)
    rig.bench.iommu.rw_batch = _refused

    assert rig.command(Command.WRITE, 4) == 0
    assert (rig.get("failed"), rig.model.inspect("writes", {})["total"]) == (4, 0)


def test_writes_to_nowhere_cost_no_memory(rig):
    """What a device of type 3 has written it has to pin later; what it only tried to write it has not."""
    rig = rig(type=3)
    before = DirtyBitmap.large
    rig.set(size=1 << 48, pattern=Pattern.RANDOM)

    assert rig.command(Command.WRITE, 4096) < 10
    assert DirtyBitmap.large <= before + 1


def _refused(*_):
    yield from ()
    raise IoctlError(errno.EBUSY, "a mapping waits for its vaddr")


# --- logging that fails ---


def test_logging_that_is_told_to_fail_fails_and_the_device_lives(rig):
    rig = rig(fail_logging_start="ENOMEM")
    ranges = rig.bench.process.memory.allocate(PAGE)
    rig.bench.process.memory.write(ranges, struct.pack("<QQ", 0, 16 * PAGE))
    start = struct.pack("<QIIQ", PAGE, 1, 0, ranges)

    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 6, start)[0].err == "ENOMEM"
    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 7, b"")[0].ret == 0
    rig.set(size=PAGE)
    assert rig.command(Command.WRITE, 1) == 1


# --- migration ---


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("states", [(), (PRE_COPY,)])
def test_everything_moves(rig, states, config):
    source, target = (rig(name=ADDRESS, big_bar=1 << 20, config=config) for _ in range(2))
    source.master()
    source.bench.pwrite(struct.pack("<I", 0xFEBC0000), CONFIG + 0x10)
    source.ring(3 * PAGE, 5 * PAGE, 7 * PAGE)
    source.set(irq_vector=4)
    source.command(Command.WRITE | COMMAND_INTERRUPT, 4)
    source.bench.pwrite(b"somewhere in it", (4 << 40) + 0x81234)
    target.bench.pwrite(b"left over", (4 << 40) + 0x100)

    assert target.load(source.save(*states)) == 0

    if config:
        assert target.bench.pread(256, CONFIG) == source.bench.pread(256, CONFIG)
    else:  # whoever migrates it restores that
        assert target.bench.pread(2, COMMAND) == b"\x03\1"
        assert target.command(Command.WRITE, 1) == -errno.EIO
        target.master()
    assert target.bench.pread(PAGE, RING_OFFSET) == source.bench.pread(PAGE, RING_OFFSET)
    big = [bench.pread(32 << 10, (4 << 40) + 0x80000) for bench in (source.bench, target.bench)]
    assert big[0] == big[1] != bytes(32 << 10)
    assert target.bench.pread(16, (4 << 40) + 0x100) == bytes(16)
    for name in ("irq_status", "irq_vector", "seq", "irqs", "device_id", "pattern"):
        assert target.get(name) == source.get(name), name
    assert target.command(Command.WRITE, 1) == 1  # it may do DMA, and goes on in the ring
    assert Stamp.parse(target.memory, 5 * PAGE).seq == 5


@pytest.mark.parametrize("written", [b"", b"x"])
@pytest.mark.parametrize(
    ("there", "here"),
    [(0x10000, 0x20000), (0x20000, 0x10000), (0x10000, 0), (0, 0x10000), (0x1000, 0x4000000)],
)
def test_a_state_of_other_bars_is_refused_whatever_is_in_them(rig, there, here, written):
    source, target = rig(big_bar=there), rig(big_bar=here)
    if written and there:
        source.bench.pwrite(written, (4 << 40) + there - 1)

    assert target.load(source.save()) == "EINVAL"


@pytest.mark.parametrize("there", [True, False])
def test_a_state_with_config_space_is_for_a_device_that_wants_it(rig, there):
    source, target = rig(config=there), rig(config=not there)
    assert target.load(source.save()) == "EINVAL"


def test_the_size_of_a_state_is_told_as_it_is(rig):
    rig = rig(big_bar=64 << 20)

    def told():
        result, answer = rig.bench.feature(c.VFIO_DEVICE_FEATURE_GET | 9, bytes(8))
        assert result.ret == 0
        return int.from_bytes(answer, "little")

    assert told() == rig.model.stop_copy_size() < 1200
    rig.bench.pwrite(b"x" * 100, (4 << 40) + 0x12345)
    rig.bench.pwrite(b"x", (4 << 40) + (64 << 20) - 1)
    rig.bench.pwrite(bytes(1 << 20), (4 << 40) + (2 << 20))  # zeros are not sent
    assert 2 * (16 << 10) < told() < 34_000
    size = told()
    rig.ring(3 * PAGE)
    assert told() > size
    size = told()
    assert len(rig.save()) == size


def test_pending_vectors_move(rig):
    source, target = rig(name=ADDRESS), rig(name=ADDRESS)
    for one in (source, target):
        one.master()
        one.irqs(2, 1)
    source.command(Command.INTERRUPT, 3)
    assert source.bench.pread(8, (2 << 40) + 0x800) == b"\x08" + bytes(7)
    assert target.load(source.save()) == 0
    assert target.bench.pread(8, (2 << 40) + 0x800) == b"\x08" + bytes(7)
    assert target.heard(target.irqs(2, 4)) == [0, 0, 0, 1]


def test_a_line_moves_without_config_space(rig):
    source, target = rig(), rig()
    source.command(Command.INTERRUPT, 2)
    assert target.load(source.save()) == 0
    assert target.heard(target.irqs(0, 1)) == [1]
    target.set(irq_status=4)
    assert not target.bench.pread(2, CONFIG + 6)[0] & 8


# --- states without DMA to other devices ---

P2P = [(RUNNING_P2P, RUNNING), (PRE_COPY_P2P, PRE_COPY), (PRE_COPY_P2P, RUNNING)]


def work(rig, now):
    return rig.bench.run(rig.bench.device.work(now))


@pytest.mark.parametrize("type_", [1, 2, 3])
@pytest.mark.parametrize(("quiet", "loud"), P2P)
def test_no_dma_begins_in_a_p2p_state_and_none_is_lost(rig, quiet, loud, type_):
    rig = rig(type=type_)
    rig.set(size=8 * PAGE, rate=1000, control=1)
    work(rig, 100.0)
    work(rig, 100.01)
    before = rig.get("seq")
    assert before > 0
    assert rig.get("active") == 1

    rig.state(quiet)
    for later in (100.02, 100.5, 101.0):
        assert work(rig, later) is None
    assert (rig.get("seq"), rig.get("active")) == (before, 0)
    assert rig.command(Command.WRITE, 3) == -errno.EINPROGRESS
    rig.bench.pwrite(struct.pack("<Q", 2), Register.DOORBELL)
    assert rig.command(Command.COPY, 0, 5 * PAGE, 64) == -errno.EINPROGRESS
    rig.memory[:64] = b"c" * 64
    assert (rig.get("seq"), rig.memory[5 * PAGE]) == (before, rig.memory[5 * PAGE])
    assert rig.get("irq_status") == 0

    rig.state(loud)
    done = []
    for _ in range(3):
        assert work(rig, 101.0) == 101.0
        done.append(struct.unpack("<q", rig.bench.pread(8, Register.RESULT))[0])
    assert done == [3, 2, 64]
    assert rig.memory[5 * PAGE : 5 * PAGE + 64] == b"c" * 64
    assert rig.get("seq") == before + 5
    assert rig.get("irq_status") == 1  # the doorbell's
    work(rig, 101.0)
    work(rig, 101.01)
    assert before + 5 < rig.get("seq") < before + 100  # it makes up for nothing


@pytest.mark.parametrize("quiet", [RUNNING_P2P, PRE_COPY_P2P])
def test_a_device_in_a_p2p_state_answers_and_interrupts(rig, quiet):
    rig = rig(big_bar=1 << 16)
    rig.set(size=PAGE)
    rig.state(quiet)
    assert rig.bench.pwrite(b"from another device", (4 << 40) + 0x100).ret == 19
    assert rig.bench.pread(4, (4 << 40) + 0x100) == b"from"
    rig.set(seed=5)
    assert rig.get("seed") == 5
    assert rig.command(Command.INTERRUPT, 3) == 1
    assert rig.get("irq_status") == 8
    assert rig.command(Command.PIN, 0, 1, 2) == 1
    assert rig.command(Command.UNPIN_ALL) == 1


def test_only_so_much_is_put_off(rig):
    rig = rig()
    rig.set(size=PAGE)
    rig.state(RUNNING_P2P)
    for _ in range(64):
        assert rig.command(Command.WRITE, 1) == -errno.EINPROGRESS
    assert rig.command(Command.WRITE, 1) == -errno.EBUSY
    rig.bench.ioctl(c.VFIO_DEVICE_RESET)
    rig.set(size=PAGE)
    work(rig, 1.0)
    assert rig.get("seq") == 0  # a reset forgets


@pytest.mark.parametrize("quiet", [RUNNING_P2P, PRE_COPY_P2P])
def test_what_was_put_off_goes_on_at_the_destination(rig, quiet):
    source, target = rig(), rig()
    source.set(size=8 * PAGE)
    assert source.command(Command.WRITE, 2) == 2
    data = b""
    fd = source.state(quiet)
    assert source.command(Command.WRITE | COMMAND_INTERRUPT, 3) == -errno.EINPROGRESS
    fd = max(fd, source.state(STOP_COPY))
    while (result := source.bench.process.read(fd, source.bench.arg, 50_000)).ret > 0:
        data += source.bench.answer(result.ret)
    assert source.command(Command.WRITE, 1) == -errno.EBUSY

    assert target.load(data) == 0
    assert target.get("seq") == 2
    assert work(target, 1.0) == 1.0
    assert (target.get("seq"), target.get("irq_status"), target.get("result")) == (5, 1, 3)


@pytest.mark.parametrize(
    ("options", "flags"),
    [({}, 7), ({"p2p": False}, 5), ({"precopy": False}, 3), ({"p2p": False, "precopy": False}, 1)],
)
def test_it_can_be_told_to_know_less(rig, options, flags):
    result, answer = rig(**options).bench.feature(c.VFIO_DEVICE_FEATURE_GET | 1, bytes(8))

    assert (result.ret, int.from_bytes(answer, "little")) == (0, flags)


def test_it_moves_by_the_region_of_v1_as_well(rig):
    source, target = rig(migration="v1"), rig(migration="v1")
    base = 9 << 40
    source.ring(3 * PAGE, 5 * PAGE)
    source.command(Command.WRITE, 3)
    field = lambda rig, at, size: int.from_bytes(rig.bench.pread(size, base + at), "little")  # noqa: E731
    put = lambda rig, at, value, size: rig.bench.pwrite(value.to_bytes(size, "little"), base + at)  # noqa: E731

    for low in (3, 2):
        assert put(source, 0, low, 4).ret == 4
        put(target, 0, 4, 4)
        while field(source, 8, 8):
            offset, size = field(source, 16, 8), field(source, 24, 8)
            piece = source.bench.pread(size, base + offset)
            assert target.bench.pwrite(piece, base + field(target, 16, 8)).ret == size
            assert put(target, 24, size, 8).ret == 8
            field(source, 8, 8)
    assert put(target, 0, 1, 4).ret == 4

    assert target.command(Command.WRITE, 1) == 1
    assert Stamp.parse(target.memory, 5 * PAGE).seq == 4


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
