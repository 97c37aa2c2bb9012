# SPDX-License-Identifier: MIT
"""What a call touched, and bitmaps as people read them: against slow, obvious twins."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vfioemu.trace import bitmap
from vfioemu.trace.image import Image

PUTS = st.lists(st.tuples(st.integers(0, 80), st.binary(max_size=24)), max_size=12)


@given(PUTS, st.integers(0, 100), st.integers(0, 40))
def test_an_image_is_a_dictionary_of_bytes(puts, address, size):
    image, twin = Image(), {}
    for start, data in puts:
        image.put(start, data)
        twin.update(enumerate(data, start))
    known = [twin.get(address + n) for n in range(size)]
    leading = bytearray()
    for byte in known:
        if byte is None:
            break
        leading.append(byte)

    assert bytes(image.prefix(address, size)) == leading
    assert image.get(address, size) == (bytes(leading) if len(leading) == size else None)
    assert image.filled(address, size) == bytes(byte or 0 for byte in known)
    assert image.touches(address, size) == any(byte is not None for byte in known)


@given(PUTS)
def test_parts_are_ascending_and_apart(puts):
    image = Image()
    for start, data in puts:
        image.put(start, data)
    parts = image.parts()

    assert all(a + len(data) < b for (a, data), (b, _) in itertools.pairwise(parts))


@given(PUTS, PUTS)
def test_what_lies_on_top_counts(below, above):
    lower, upper, both = Image(), Image(), Image()
    for start, data in below:
        lower.put(start, data)
        both.put(start, data)
    parts = [(start, data) for start, data in above if data]
    for start, data in parts:
        upper.put(start, data)
    for start, data in upper.parts():
        both.put(start, data)

    assert lower.overlaid(upper).parts() == both.parts()


def test_what_is_beyond_the_budget_is_left_out_and_said_so():
    image = Image(budget=10)
    image.put(0, b"a" * 8)
    cut = image.cut
    image.put(100, b"b" * 8)

    assert (cut, image.cut) == (False, True)
    assert (image.get(100, 2), image.get(100, 3)) == (b"bb", None)


BITS = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"\0" * 9, b"\xff" * 5, b"\x80", b"\x01", b"\xf0"]), max_size=60).map(b"".join),
)


def twin_runs(bits):
    found = []
    for n in range(len(bits) * 8):
        if bits[n // 8] >> n % 8 & 1:
            if found and sum(found[-1]) == n:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((n, 1))
    return found


@given(BITS, st.integers(0, 2500))
def test_clipped_has_only_the_bits_that_are_pages(bits, size):
    want = sum(1 << n for n in range(min(size, len(bits) * 8)) if bits[n // 8] >> n % 8 & 1)

    assert int.from_bytes(bitmap.clipped(bits, size), "little") == want


@given(BITS, st.integers(1, 5))
def test_a_summary_counts_all_and_shows_some(bits, limit):
    found = twin_runs(bits)

    assert bitmap.summary(bits, 0x10000, 4096, limit) == {
        "dirty": sum(pages for _, pages in found),
        "count": len(found),
        "ranges": [[0x10000 + first * 4096, pages * 4096] for first, pages in found[:limit]],
    }


def test_a_bitmap_of_a_tebibyte_takes_no_time_worth_speaking_of():
    # Quadratic work on these would take minutes: the test's time limit is the check.
    for bits in (b"\x55" * (8 << 20), b"\xff" * (32 << 20), b"\0" * (32 << 20)):
        assert bitmap.summary(bits, 0, 4096, 8)["dirty"] == int.from_bytes(bits, "little").bit_count()
