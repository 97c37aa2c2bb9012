# SPDX-License-Identifier: MIT
"""The C bitmap and its Python twin do the same, whatever is done to them."""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.native import twin
from vfioemu.native.bitmap import DirtyBitmap, buffer_runs

# Around words, lines of 512 pages, chunks of 32768, and what one word of the second summary covers.
SIZES = (1, 2, 10, 63, 64, 65, 100, 128, 511, 512, 513, 4096, 32767, 32768, 32769, 65536 + 7, 5 * 32768)
HUGE = 64 * 32768 + 12345

isas = st.sampled_from(["best", "portable"])
shifts = st.integers(0, 63)
words = st.one_of(st.just(0), st.integers(0, 2**64 - 1), st.just(2**64 - 1))


class Machine(RuleBasedStateMachine):
    """Every operation on both."""

    @initialize(nbits=st.one_of(st.sampled_from(SIZES), st.integers(1, 3000)), isa=isas)
    def begin(self, nbits, isa):
        self.nbits = nbits
        self.fast = DirtyBitmap(nbits, isa=isa)
        self.slow = twin.DirtyBitmap(nbits)

    def _range(self, data):
        first = data.draw(st.integers(0, self.nbits))
        return first, data.draw(st.integers(0, self.nbits - first))

    @rule(data=st.data())
    def mark(self, data):
        page = data.draw(st.integers(0, self.nbits - 1))
        self.fast.mark(page)
        self.slow.mark(page)
        assert self.fast.test(page)

    @rule(data=st.data())
    def mark_range(self, data):
        first, count = self._range(data)
        self.fast.mark_range(first, count)
        self.slow.mark_range(first, count)

    @rule(seed=st.integers(0, 2**32), amount=st.sampled_from([1, 10, 100, 3000]))
    def populate(self, seed, amount):
        pages = [random.Random(seed).randrange(self.nbits) for _ in range(min(amount, self.nbits))]
        self.fast.populate(pages)
        self.slow.populate(pages)

    @rule(seed=st.integers(0, 2**32), data=st.data())
    def merge(self, seed, data):
        first, count = self._range(data)
        src_bit = data.draw(st.integers(0, 130))
        bits = random.Random(seed).randbytes((src_bit + count + 63) // 64 * 8)
        self.fast.merge(bits, first, count, src_bit)
        self.slow.merge(bits, first, count, src_bit)

    @rule(seed=st.integers(0, 2**32), data=st.data(), density=st.sampled_from([0, 3, 300]))
    def clear_bits(self, seed, data, density):
        first, count = self._range(data)
        src_bit = data.draw(st.integers(0, 130))
        rng, size = random.Random(seed), (src_bit + count + 63) // 64 * 8
        bits = bytearray(rng.randbytes(size) if density == 3 else size)
        if density == 300 and size:
            bits[rng.randrange(size)] = 1 << rng.randrange(8)
        assert self.fast.clear_bits(bits, first, count, src_bit) == self.slow.clear_bits(
            bits, first, count, src_bit
        )

    @rule()
    def fill(self):
        self.fast.fill()
        self.slow.fill()

    @rule()
    def clear(self):
        self.fast.clear()
        self.slow.clear()

    @rule(
        shift=shifts,
        lead=words,
        odd=st.integers(0, 9),
        after=st.sampled_from(["", "restore_shifted", "unshift"]),
    )
    def harvest(self, shift, lead, odd, after):
        size = self.fast.harvest_size(shift)
        assert size == self.slow.harvest_size(shift)
        room, theirs = bytearray(b"\xa5" * (size + odd + 8)), bytearray(size)
        mine = memoryview(room)[odd : odd + size]
        self.fast.harvest(mine, shift, lead)
        self.slow.harvest(theirs, shift, lead)
        assert mine == theirs
        assert set(room[:odd] + room[odd + size :]) == {0xA5}
        if after == "restore_shifted":
            self.fast.restore_shifted(mine)
            self.slow.restore_shifted(theirs)
        elif after == "unshift" and shift:
            self.fast.unshift(mine, shift)
            self.slow.unshift(theirs, shift)

    @rule(shift=shifts, lead=words, restore=st.booleans())
    def harvest_clean(self, shift, lead, restore):
        mine = bytearray(self.fast.harvest_size(shift))
        theirs = bytearray(len(mine))
        self.fast.harvest_clean(mine, shift, lead)
        self.slow.harvest_clean(theirs, shift, lead)
        assert mine == theirs
        if restore:
            self.fast.restore(mine, shift)
            self.slow.restore(theirs, shift)

    @rule(shift=shifts)
    def shift(self, shift):
        self.fast.shift(shift)
        self.slow.shift(shift)

    @rule(
        data=st.data(),
        dst_bit=st.integers(0, 200),
        seed=st.integers(0, 2**32),
        odd=st.integers(0, 9),
        method=st.sampled_from(["harvest_or", "peek"]),
    )
    def harvest_or(self, data, dst_bit, seed, odd, method):
        first, count = self._range(data)
        size = (dst_bit + count + 63) // 64 * 8
        room = bytearray(random.Random(seed).randbytes(size + odd + 8))
        before, theirs = bytes(room), bytearray(room[odd : odd + size])
        getattr(self.fast, method)(memoryview(room)[odd : odd + size], first, count, dst_bit)
        getattr(self.slow, method)(theirs, first, count, dst_bit)
        assert room == before[:odd] + theirs + before[odd + size :]

    @rule(data=st.data())
    def first_marked(self, data):
        first, _ = self._range(data)
        assert self.fast.first_marked(first) == self.slow.first_marked(first)

    @rule(data=st.data(), dst_bit=st.integers(0, 130), up=st.integers(-5, 12))
    def harvest_scaled(self, data, dst_bit, up):
        first, count = self._range(data)
        bits = count << -up if up < 0 else (count >> up) + 2
        mine = bytearray((dst_bit + bits + 63) // 64 * 8)
        theirs = bytearray(mine)
        self.fast.harvest_scaled(mine, first, count, up=up, dst_bit=dst_bit)
        self.slow.harvest_scaled(theirs, first, count, up=up, dst_bit=dst_bit)
        assert mine == theirs

    @rule()
    def take_runs(self):
        assert self.fast.take_runs() == self.slow.take_runs()

    @rule(limit=st.integers(0, 5))
    def runs_with_limit(self, limit):
        assert self.fast.runs(limit) == self.slow.runs(limit)

    @invariant()
    def same(self):
        assert self.fast.count() == self.slow.count()
        assert self.fast.runs() == self.slow.runs()
        assert self.fast.nbits() == self.slow.nbits()
        assert self.fast.nbytes == self.slow.nbytes


Machine.TestCase.settings = settings(deadline=None, stateful_step_count=25)
TestTwins = Machine.TestCase


@settings(deadline=None, max_examples=settings().max_examples // 10)
@given(
    isa=isas,
    density=st.sampled_from([1, 30, 1000, 30000]),
    shift=shifts,
    seed=st.integers(0, 2**32),
    first=st.integers(0, HUGE),
)
def test_many_chunks(isa, density, shift, seed, first):
    """More chunks than one haul takes, sparse and dense ones mixed, harvested in part and then as a whole."""
    generator = random.Random(seed)
    fast, slow = DirtyBitmap(HUGE, isa=isa), twin.DirtyBitmap(HUGE)
    pages = [generator.randrange(HUGE) for _ in range(density)]
    start = generator.randrange(HUGE)
    bulk = min(generator.randrange(200000), HUGE - start)
    for bitmap in (fast, slow):
        bitmap.populate(pages)
        bitmap.mark_range(start, bulk)
    assert fast.count() == slow.count()
    assert fast.runs() == slow.runs()
    count = generator.randrange(HUGE - first + 1)
    seen, some, theirs = (bytearray((count + shift + 63) // 64 * 8) for _ in range(3))
    fast.peek(seen, first, count, shift)
    fast.harvest_or(some, first, count, shift)
    slow.harvest_or(theirs, first, count, shift)
    assert seen == some == theirs
    rest, theirs = bytearray(fast.harvest_size(shift)), bytearray(fast.harvest_size(shift))
    fast.harvest(rest, shift, 5)
    slow.harvest(theirs, shift, 5)
    assert rest == theirs
    assert fast.count() == slow.count() == 0


@settings(deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.lists(st.sampled_from([b"\0" * 9, b"\xff" * 5, b"\x80", b"\x01", b"\xf0"]), max_size=60).map(
            b"".join
        ),
    ),
    cut=st.integers(0, 70),
    limit=st.none() | st.integers(0, 5),
)
def test_buffer_runs(data, cut, limit):
    nbits = max(len(data) * 8 - cut, 0)
    bits = int.from_bytes(data, "little") & twin.ones(nbits)
    assert buffer_runs(data, nbits, limit) == twin.runs_of(bits)[:limit]
    assert buffer_runs(memoryview(bytearray(data)), nbits, limit) == twin.runs_of(bits)[:limit]


@pytest.mark.parametrize("nbits", [33, 64, 1 << 64])
def test_runs_of_more_bits_than_there_are(nbits):
    with pytest.raises(ValueError, match=f"{nbits} bits do not fit in 4 bytes"):
        buffer_runs(b"\xff" * 4, nbits)


def test_more_runs_than_fit_one_call():
    bitmap = DirtyBitmap(100_000)
    bitmap.populate(range(0, 100_000, 2))
    assert bitmap.runs() == [(page, 1) for page in range(0, 100_000, 2)]
    assert bitmap.runs(20_000) == [(page, 1) for page in range(0, 40_000, 2)]
    out = bytearray(bitmap.harvest_size())
    assert bitmap.take_runs() == [(page, 1) for page in range(0, 100_000, 2)]
    bitmap.harvest(out)
    assert not any(out)


def test_a_run_over_many_calls_is_one_run():
    bitmap = DirtyBitmap(1 << 22)
    bitmap.fill()
    assert bitmap.runs() == bitmap.take_runs() == [(0, 1 << 22)]


def test_stopping_a_walk_loses_nothing():
    """take_runs() stops in the middle when its array is full; what it had found so far must be found again."""
    nbits = 300 * 32768
    bitmap = DirtyBitmap(nbits)
    pages = sorted({*range(0, 40_000, 2), *range(50_000, nbits, 32768 // 3)})
    bitmap.populate(pages)
    assert [first for first, _ in bitmap.take_runs()] == pages
    assert bitmap.count() == 0


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("mark", (-1,)),
        ("mark", (100,)),
        ("mark_range", (90, 11)),
        ("mark_range", (-1, 2)),
        ("mark_range", (5, -1)),
        ("populate", ([3, 100],)),
        ("test", (100,)),
        ("merge", (bytes(16), 50, 51)),
        ("harvest_or", (bytearray(16), 101, 0)),
        ("peek", (bytearray(16), 101, 0)),
    ],
)
def test_pages_outside_are_refused(method, arguments):
    with pytest.raises(IndexError):
        getattr(DirtyBitmap(100), method)(*arguments)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("harvest", (bytearray(15),)),
        ("harvest", (bytearray(16), 29)),
        ("harvest", (bytearray(64), 64)),
        ("harvest_clean", (bytearray(64), -1)),
        ("harvest_or", (bytearray(16), 0, 100, 29)),
        ("harvest_or", (bytearray(15), 0, 100)),
        ("peek", (bytearray(15), 0, 100)),
        ("merge", (bytes(16), 0, 100, 29)),
        ("restore_shifted", (bytes(8),)),
        ("restore_shifted", (bytes(32),)),
    ],
)
def test_buffers_that_are_too_small_are_refused(method, arguments):
    with pytest.raises(ValueError, match=r"bytes|shift"):
        getattr(DirtyBitmap(100), method)(*arguments)


def test_scaling_checks_its_room():
    with pytest.raises(ValueError, match="bits"):
        DirtyBitmap(100).harvest_scaled(bytearray(24), up=-1)
    DirtyBitmap(100).harvest_scaled(bytearray(32), up=-1)
    DirtyBitmap(100).harvest_scaled(bytearray(8), up=1)


def test_sizes_are_checked():
    for nbits in (0, -1, (1 << 44) + 1):
        with pytest.raises(ValueError, match="nbits"):
            DirtyBitmap(nbits)


def test_instructions_are_checked(monkeypatch):
    monkeypatch.setenv("VFIOEMU_ISA", "abacus")
    with pytest.raises(ValueError, match="abacus"):
        DirtyBitmap(1)
    assert DirtyBitmap(1, isa="portable").count() == 0


def test_a_read_only_buffer_is_refused():
    with pytest.raises((TypeError, ValueError, BufferError)):
        DirtyBitmap(64).harvest(memoryview(bytes(8)))
