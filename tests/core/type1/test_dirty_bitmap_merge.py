# SPDX-License-Identifier: MIT
"""GET_BITMAP: to the bit what update_user_bitmap() does, in a model that works word by word as C does."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

PAGE = 4096
M64 = (1 << 64) - 1

pytestmark = pytest.mark.usefixtures("size_of_windows")


class KernelBitmap:
    """A dirty bitmap of the kernel: words, one more than needed, and the functions of lib/bitmap.c on them."""

    def __init__(self, nbits):
        self.nbits = nbits
        self.words = [0] * ((nbits + 63) // 64 + 1)

    def set(self, bit):
        self.words[bit // 64] |= 1 << bit % 64

    def shift_left(self, shift, nbits):
        for k in range((nbits + 63) // 64 - 1, -1, -1):
            lower = self.words[k - 1] >> (64 - shift) if k else 0
            self.words[k] = (self.words[k] << shift & M64) | lower

    def clear(self):
        for bit in range(self.nbits):
            self.words[bit // 64] &= ~(1 << bit % 64)

    def update_user(self, user, offset, readable):
        """update_user_bitmap(): merge into the words `user`, of which the first `readable` can be reached."""
        word, shift = divmod(offset, 64)
        if shift:
            self.shift_left(shift, self.nbits + shift)
            if word >= readable:
                return False
            self.words[0] |= user[word]
        count = (self.nbits + shift + 63) // 64
        for k in range(count):
            if word + k >= readable:
                return False
            user[word + k] = self.words[k]
        return True


mappings = st.lists(
    st.tuples(st.integers(0, 70), st.one_of(st.integers(1, 6), st.integers(1, 140))), min_size=1, max_size=4
)
events = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 3), st.integers(0, 139)),
    st.tuples(st.just("pin"), st.integers(0, 3), st.integers(0, 139)),
    st.tuples(st.just("unpin"), st.integers(0, 3), st.integers(0, 139)),
    st.tuples(
        st.just("get"),
        st.tuples(st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.integers(0, 30), st.sampled_from([0, 1, 0xA5A5A5A5A5A5A5A5, M64]), st.integers(0, 12)),
    ),
)


@given(gaps=mappings, script=st.lists(events, max_size=30))
def test_get_bitmap_is_the_kernels_to_the_bit(rig, gaps, script):
    client = rig()
    at, spans = 64, []
    for gap, count in gaps:
        at += gap
        spans.append((at, count))
        assert client.map(at * PAGE, count * PAGE) == 0
        at += count
    client.start()
    bitmaps = [KernelBitmap(count) for _, count in spans]
    pins = [{} for _ in spans]
    for op, which, detail in script:
        if op == "get":
            one, other = sorted(n % len(spans) for n in which)
            before, pattern, short = detail
            end_of_previous = sum(spans[one - 1]) if one else 0
            first = max(end_of_previous, spans[one][0] - before)
            npages = sum(spans[other]) - first
            count = (npages + 63) // 64
            readable = count - short if 0 < short <= count else count
            data = client.bitmap + PAGE - 8 * readable
            if readable:
                client.memory.poke(data, struct.pack("<Q", pattern) * readable)
            user = [pattern] * count
            expected: int | str = 0
            for n in range(one, other + 1):
                if not bitmaps[n].update_user(user, spans[n][0] - first, readable):
                    expected = "EFAULT"
                    break
                bitmaps[n].clear()
                for page in pins[n]:
                    bitmaps[n].set(page)
            assert client.get_bitmap(first * PAGE, npages * PAGE, 8 * count, data) == expected
            if readable:
                words = struct.unpack(f"<{readable}Q", client.memory.peek(data, 8 * readable))
                assert list(words) == user[:readable]
            continue
        n = which % len(spans)
        page = detail % spans[n][1]
        iova = (spans[n][0] + page) * PAGE
        if op == "write":
            assert client.write(iova, b"x") is None
            bitmaps[n].set(page)
        elif op == "pin":
            assert client.pin(iova) == 1
            if page not in pins[n]:
                bitmaps[n].set(page)
            pins[n][page] = pins[n].get(page, 0) + 1
        elif page in pins[n]:
            assert client.unpin(iova) == 1
            pins[n][page] -= 1
            if not pins[n][page]:
                del pins[n][page]
    client.finish()


@given(gaps=mappings, script=st.lists(events, max_size=30))
def test_get_bitmap_with_clean_quirks_reports_each_page_exactly(rig, gaps, script):
    client = rig(quirks="clean")
    at, spans = 64, []
    for gap, count in gaps:
        at += gap
        spans.append((at, count))
        assert client.map(at * PAGE, count * PAGE) == 0
        at += count
    client.start()
    dirty, pinned = set(), set()
    for op, which, detail in script:
        if op == "get":
            short = detail[2]
            npages = at - 64
            count = (npages + 63) // 64
            if 0 < short <= count:
                short_data = client.bitmap + PAGE - 8 * (count - short)
                assert client.get_bitmap(64 * PAGE, npages * PAGE, 8 * count, short_data) in (0, "EFAULT")
            words = client.harvest(64 * PAGE, npages)
            if 0 < short <= count:
                reported = {
                    n * 64 + bit for n, word in enumerate(words) for bit in range(64) if word >> bit & 1
                }
                mapped = {page - 64 for first, n in spans for page in range(first, first + n)}
                assert reported <= mapped
            else:
                assert words == [sum(1 << p - 64 * n for p in dirty if p // 64 == n) for n in range(count)]
            dirty = set(pinned)
            continue
        first, count = spans[which % len(spans)]
        page = first + detail % count
        if op == "write":
            client.write(page * PAGE, b"x")
            dirty.add(page - 64)
        elif op == "pin":
            client.pin(page * PAGE)
            dirty.add(page - 64)
            pinned.add(page - 64)
        elif page - 64 in pinned:
            client.run(client.machine.devices["d0"].unpin_range(page * PAGE, PAGE))
            pinned.discard(page - 64)
    client.finish()


def vector(client, dirty_runs):
    for first, count in dirty_runs:
        for page in range(first, first + count):
            client.write(page * PAGE, b"x")


def test_vector_1_residue_comes_back_and_fades(rig):
    client = rig()
    client.map(0, 10 * PAGE)
    client.map(10 * PAGE, 10 * PAGE)
    client.start()
    vector(client, [(0, 20)])

    assert [client.harvest(0, 64) for _ in range(7)] == [
        [0x00000000000FFFFF],
        [0x000000003FF00000],
        [0x000000FFC0000000],
        [0x0003FF0000000000],
        [0x0FFC000000000000],
        [0xF000000000000000],
        [0],
    ]


@pytest.mark.parametrize(("first", "count", "left"), [(0, 10, 0), (4, 8, M64)])
def test_vectors_2_and_3_the_users_old_bits(rig, first, count, left):
    client = rig()
    client.map(first * PAGE, count * PAGE)
    client.start()
    client.memory.poke(client.bitmap, b"\xff" * 8)

    assert client.get_bitmap(0, 64 * PAGE) == 0
    assert client.words(1) == [left]


def test_vectors_4_to_7(rig):
    client = rig()
    for first, count in ((0, 8), (16, 8)):
        client.map(first * PAGE, count * PAGE)
    client.map(128 * PAGE, 3 * PAGE)
    client.map(131 * PAGE, 64 * PAGE)
    client.map(1024 * PAGE, 30 * PAGE)
    client.map(1054 * PAGE, 30 * PAGE)
    client.start()
    vector(client, [(0, 8), (16, 8), (131, 1), (194, 1), (1024, 60)])

    assert client.harvest(0, 64) == [0x00FF00FF]
    assert client.harvest(128 * PAGE, 67) == [8, 4]
    base = 1024 - 100
    assert client.harvest(base * PAGE, 192) == [0, 0xFFFFFFF000000000, 0x00000000FFFFFFFF]
    assert client.harvest(base * PAGE, 192) == [0, 0, 0x0000003FFFFFFF00]
    assert client.harvest(base * PAGE, 192) == [0, 0, 0xFFFFF0FF00000000]


def test_failed_get_of_a_shifted_mapping_reports_another_page_later(rig):
    client = rig()
    client.map(20 * PAGE, 8 * PAGE)
    client.start()
    client.write(21 * PAGE, b"x")

    assert client.get_bitmap(0, 64 * PAGE, 8, data=8) == "EFAULT"
    assert client.harvest(0, 64) == [1 << 41]


def test_failed_get_with_clean_quirks_loses_nothing(rig):
    client = rig(quirks="clean")
    client.map(20 * PAGE, 8 * PAGE)
    client.start()
    client.write(21 * PAGE, b"x")

    assert client.get_bitmap(0, 64 * PAGE, 8, data=8) == "EFAULT"
    assert client.harvest(0, 64) == [1 << 21]
