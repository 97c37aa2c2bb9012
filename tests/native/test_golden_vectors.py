# SPDX-License-Identifier: MIT
"""update_user_bitmap() on one user buffer and several mappings: vectors computed from the kernel's source."""

import pytest

from tests.native import twin
from vfioemu.native.bitmap import DirtyBitmap


def fast(nbits):
    return DirtyBitmap(nbits, isa="best")


def portable(nbits):
    return DirtyBitmap(nbits, isa="portable")


def get_bitmap(user, mappings):
    """GET_BITMAP of mappings at page offsets, in IOVA order."""
    for offset, bitmap in mappings:
        word, shift = divmod(offset, 64)
        target = memoryview(user)[word * 8 : word * 8 + bitmap.harvest_size(shift)]
        bitmap.harvest(target, shift, int.from_bytes(target[:8], "little") if shift else 0)
    return [int.from_bytes(user[at : at + 8], "little") for at in range(0, len(user), 8)]


def dirty(bitmap, *pages):
    bitmap.populate(pages or range(bitmap.nbits()))
    return bitmap


@pytest.fixture(params=[fast, portable, twin.DirtyBitmap])
def make(request):
    return request.param


def test_residue_wanders_upwards_until_it_falls_out(make):
    mappings = [(0, dirty(make(10))), (10, dirty(make(10)))]
    got = [get_bitmap(bytearray(8), mappings)[0] for _ in range(7)]
    assert got == [
        0x00000000000FFFFF,
        0x000000003FF00000,
        0x000000FFC0000000,
        0x0003FF0000000000,
        0x0FFC000000000000,
        0xF000000000000000,
        0,
    ]


def test_an_aligned_mapping_overwrites_its_words(make):
    assert get_bitmap(bytearray(b"\xff" * 8), [(0, make(10))]) == [0]


def test_an_unaligned_mapping_keeps_what_was_in_its_first_word(make):
    assert get_bitmap(bytearray(b"\xff" * 8), [(4, make(8))]) == [0xFFFFFFFFFFFFFFFF]


def test_mappings_share_a_word(make):
    assert get_bitmap(bytearray(8), [(0, dirty(make(8))), (16, dirty(make(8)))]) == [0x0000000000FF00FF]


def test_a_shift_spills_into_the_next_word(make):
    assert get_bitmap(bytearray(16), [(3, dirty(make(64), 0, 63))]) == [8, 4]


def test_words_before_a_mapping_are_left_alone(make):
    user = bytearray((1).to_bytes(8, "little") * 3)
    assert get_bitmap(user, [(64, dirty(make(100), 1))]) == [1, 2, 0]


def test_residue_meets_a_neighbour(make):
    mappings = [(100, dirty(make(30))), (130, dirty(make(30)))]
    assert get_bitmap(bytearray(24), mappings) == [0, 0xFFFFFFF000000000, 0x00000000FFFFFFFF]
    assert get_bitmap(bytearray(24), mappings) == [0, 0, 0x0000003FFFFFFF00]
    assert get_bitmap(bytearray(24), mappings) == [0, 0, 0xFFFFF0FF00000000]


def test_a_failed_copy_leaves_the_bitmap_shifted(make):
    bitmap = dirty(make(8), 1)
    out = bytearray(8)
    bitmap.harvest(out, 4, 1 << 60)
    bitmap.restore_shifted(out)
    assert bitmap.runs() == [(5, 1)]
    assert get_bitmap(bytearray(8), [(0, bitmap)]) == [1 << 60 | 1 << 5]


def test_a_failed_read_of_the_first_word_leaves_it_shifted_too(make):
    bitmap = dirty(make(8), 1, 6)
    bitmap.shift(4)
    assert bitmap.runs() == [(5, 1)]
    assert get_bitmap(bytearray(8), [(0, bitmap)]) == [1 << 10 | 1 << 5]


def test_without_residue_nothing_comes_back(make):
    bitmap = dirty(make(10))
    out = bytearray(8)
    bitmap.harvest_clean(out, 10, 0x3FF)
    assert int.from_bytes(out, "little") == 0xFFFFF
    assert get_bitmap(bytearray(8), [(10, bitmap)]) == [0]
    bitmap.restore(out, 10)
    assert bitmap.runs() == [(0, 10)]
