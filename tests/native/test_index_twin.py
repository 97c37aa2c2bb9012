# SPDX-License-Identifier: MIT
"""The IOVA index, the DMA batch and the dirty log against their Python twins."""

import ctypes
import random
import struct

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.native import twin
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.native.dma import Dma, DmaBatch, Op, Status
from vfioemu.native.index import PROT_READ, PROT_WRITE, IovaIndex
from vfioemu.native.log import DirtyLog

TOP = 1 << 64
RAM = 1 << 15
# Small numbers so that things meet, and the upper end of the address space so that they overflow.
near = st.one_of(st.integers(0, RAM), st.integers(TOP - RAM, TOP - 1))
prots = st.sampled_from([0, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE])
PGSHIFT = 6


def address_of(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Machine(RuleBasedStateMachine):
    """Mappings come and go, and devices read and write."""

    @initialize(with_log=st.booleans())
    def begin(self, with_log):
        self.fast, self.slow = IovaIndex(PGSHIFT), twin.IovaIndex(PGSHIFT)
        self.mine, self.theirs = bytearray(RAM), bytearray(RAM)
        self.bitmaps = {}
        ranges = [(TOP - 5000, 5000), (100, 700), (900, 1), (5000, 12345)]
        self.logs = (DirtyLog(5, ranges), twin.DirtyLog(5, ranges)) if with_log else (None, None)

    @rule(iova=near, size=st.integers(1, RAM // 4), prot=prots, backed=st.booleans(), marked=st.booleans())
    def insert(self, iova, size, prot, backed, marked):
        size = min(size, TOP - iova)
        offset = random.Random(iova).randrange(RAM - size + 1)
        npages = -(-size // (1 << PGSHIFT))
        bitmaps = (DirtyBitmap(npages), twin.DirtyBitmap(npages)) if marked else (None, None)
        memory = memoryview(self.theirs)[offset : offset + size] if backed else None
        try:
            self.slow.insert(iova, size, prot, memory, bitmaps[1])
        except ValueError:
            with pytest.raises(ValueError, match="overlaps"):
                self.fast.insert(iova, size, prot, 0, bitmaps[0])
            return
        host = address_of(self.mine) + offset if backed else 0
        self.fast.insert(iova, size, prot, host, bitmaps[0])
        self.bitmaps[iova] = bitmaps

    @rule(data=st.data())
    def remove(self, data):
        iova = self._pick(data)
        if iova in self.bitmaps:
            self.fast.remove(iova)
            self.slow.remove(iova)
            del self.bitmaps[iova]
        else:
            with pytest.raises(KeyError):
                self.fast.remove(iova)

    @rule(data=st.data(), marked=st.booleans())
    def set_bitmap(self, data, marked):
        iova = self._pick(data)
        if iova not in self.bitmaps:
            with pytest.raises(KeyError):
                self.fast.set_bitmap(iova, None)
            return
        npages = -(-self.slow.at(iova).size // (1 << PGSHIFT))
        bitmaps = (DirtyBitmap(npages), twin.DirtyBitmap(npages)) if marked else (None, None)
        self.fast.set_bitmap(iova, bitmaps[0])
        self.slow.at(iova).bitmap = bitmaps[1]
        self.bitmaps[iova] = bitmaps

    @rule(iova=near)
    def lookup(self, iova):
        found, expected = self.fast.lookup(iova), self.slow.find(iova)
        if expected is None:
            assert found is None
        else:
            assert found is not None
            assert found[:3] == (expected.iova, expected.size, expected.prot)
            assert bool(found[3]) == (expected.memory is not None)

    @rule(data=st.data(), count=st.integers(0, 70), seed=st.integers(0, 2**32))
    def dma(self, data, count, seed):
        generator = random.Random(seed)
        batches = [DmaBatch(bytearray(generator.randbytes(500)), 80)]
        batches.append(DmaBatch(bytearray(batches[0].local), 80))
        for _ in range(count):
            arguments = self._descriptor(generator)
            for batch in batches:
                batch.add(*arguments)
        assert self.fast.dma(batches[0], self.logs[0]) == self.slow.dma(batches[1], self.logs[1])
        assert list(batches[0]) == list(batches[1])
        assert batches[0].local == batches[1].local

    def _descriptor(self, generator):
        starts = [0, TOP - 1, *self.bitmaps]
        iova = (generator.choice(starts) + generator.choice([0, 0, 1, 63, 64, 1000, TOP - 1])) % TOP
        size = generator.choice([0, 1, 4, 64, 65, 300, 500, 501, TOP - 1, TOP - iova])
        local = generator.choice([0, 1, 100, 499, 500, 501, TOP - 1])
        return generator.choice([*Op, Op.WRITE]), iova, size % TOP, local

    def _pick(self, data):
        return data.draw(st.sampled_from([7, *self.bitmaps]))

    @invariant()
    def same(self):
        assert self.mine == self.theirs
        assert len(self.fast) == len(self.slow.mappings)
        for fast, slow in self.bitmaps.values():
            assert fast is None or fast.runs() == slow.runs()
        if self.logs[0] is not None:
            for (*mine, fast), (*theirs, slow) in zip(self.logs[0].ranges, self.logs[1].ranges, strict=True):
                assert mine == theirs
                assert fast.runs() == slow.runs()


Machine.TestCase.settings = settings(deadline=None, stateful_step_count=30)
TestTwins = Machine.TestCase


@settings(deadline=None, max_examples=settings().max_examples // 5)
@given(seed=st.integers(0, 2**32), ascending=st.booleans())
def test_thousands_of_mappings(seed, ascending):
    """Blocks are split, emptied and dropped; what is found agrees with a dict at each stage."""
    generator = random.Random(seed)
    index, present = IovaIndex(), set()
    numbers = list(range(3000)) if ascending else generator.sample(range(3000), 3000)
    for number in numbers:
        index.insert(number * 8192, 4096, 3)
        present.add(number)
    for number in generator.sample(range(3000), 2900):
        index.remove(number * 8192)
        present.discard(number)
    for number in generator.sample(sorted(set(range(3000)) - present), 500):
        index.insert(number * 8192, 4096, 3)
        present.add(number)
    assert len(index) == len(present)
    for number in range(3000):
        assert (index.lookup(number * 8192 + 4095) is not None) == (number in present)
        assert index.lookup(number * 8192 + 4096) is None


def test_one_mapping_of_everything():
    index = IovaIndex()
    index.insert(0, TOP, 3)
    assert index.lookup(TOP - 1) == (0, TOP, 3, 0)
    with pytest.raises(ValueError, match="overlaps"):
        index.insert(TOP - 1, 1, 3)


@pytest.mark.parametrize("arguments", [(0, 0), (TOP - 1, 2), (-1, 1), (1, TOP), (0, 16, 3, TOP - 15)])
def test_mappings_that_wrap_are_refused(arguments):
    with pytest.raises(ValueError, match="mapping"):
        IovaIndex().insert(*arguments, *[3][: 3 - len(arguments)])


def test_a_bitmap_must_cover_its_mapping():
    index = IovaIndex()
    with pytest.raises(ValueError, match="bitmap"):
        index.insert(0, 8193, 3, 0, DirtyBitmap(2))
    index.insert(0, 8193, 3, 0, DirtyBitmap(3))
    with pytest.raises(ValueError, match="2 pages"):
        index.set_bitmap(0, DirtyBitmap(2))


def test_an_index_keeps_its_bitmaps_alive():
    memory = bytearray(8192)
    index, bitmap = IovaIndex(), DirtyBitmap(2)
    index.insert(0, 8192, 3, address_of(memory), bitmap)
    bitmap.close()
    del bitmap
    batch = DmaBatch(bytearray(b"x" * 100))
    batch.add(Op.WRITE, 4090, 10, 0)
    assert index.dma(batch) == 1
    assert memory[4090:4100] == b"x" * 10


def test_what_c_does_not_do_is_listed():
    memory = bytearray(4096)
    index = IovaIndex()
    index.insert(0x1000, 4096, PROT_READ, address_of(memory))
    index.insert(0x2000, 4096, PROT_READ | PROT_WRITE, 0)
    batch = DmaBatch(bytearray(64), 5)
    batch.add(Op.READ, 0x1000, 64, 0)
    batch.add(Op.WRITE, 0x1000, 64, 0)
    batch.add(Op.READ, 0x1FFF, 2, 0)
    batch.add(Op.READ, 0x2000, 64, 0)
    batch.add(Op.READ, 0x1000, 65, 0)
    assert index.dma(batch) == 1
    assert [dma.status for dma in batch] == [
        Status.DONE,
        Status.SLOW,
        Status.SLOW,
        Status.SLOW,
        Status.BAD,
    ]
    assert batch.pending() == [1, 2, 3, 4]
    batch.set_status(3, Status.DONE)
    assert batch.pending() == [1, 2, 4]
    assert batch[3] == Dma(0x2000, 64, 0, Op.READ, Status.DONE)


def test_a_batch_is_full_and_can_be_used_again():
    batch = DmaBatch(bytearray(8), 1)
    batch.add(Op.READ, 0, 8, 0)
    with pytest.raises(IndexError):
        batch.add(Op.READ, 0, 8, 0)
    with pytest.raises(IndexError):
        batch[1]
    with pytest.raises(IndexError):
        batch.set_status(1, Status.DONE)
    batch.clear()
    assert len(batch) == 0
    with pytest.raises(struct.error):
        batch.add(Op.READ, -1, 8, 0)


@settings(deadline=None)
@given(
    pgshift=st.integers(0, 20),
    writes=st.lists(st.tuples(near, st.integers(1, 100_000)), max_size=20),
    ranges=st.lists(st.tuples(near, st.integers(1, 20_000)), min_size=1, max_size=6),
)
def test_log(pgshift, writes, ranges):
    apart, end = [], 0
    for iova, size in sorted(ranges):
        start = max(iova, end)
        if start < TOP:
            apart.append((start, min(size, TOP - start)))
            end = start + size
    log, slow = DirtyLog(pgshift, apart[::-1]), twin.DirtyLog(pgshift, apart)
    for iova, size in writes:
        log.mark(iova, min(size, TOP - iova))
        slow.mark(iova, min(size, TOP - iova))
    for (*mine, fast_bits), (*theirs, slow_bits) in zip(log.ranges, slow.ranges, strict=True):
        assert mine == theirs
        assert fast_bits.runs() == slow_bits.runs()
    assert log.count() == sum(bits.count() for *_, bits in slow.ranges)


@pytest.mark.parametrize("ranges", [[(0, 0)], [(TOP - 1, 2)], [(-1, 5)], [(0, 10), (9, 10)], [(5, -1)]])
def test_log_ranges_are_checked(ranges):
    with pytest.raises(ValueError, match="range"):
        DirtyLog(12, ranges)


def test_log_writes_are_checked():
    log = DirtyLog(12, [(0, 4096)])
    for iova, size in ((0, 0), (-1, 4), (TOP - 1, 2), (TOP, 1)):
        with pytest.raises(ValueError, match="write"):
            log.mark(iova, size)
