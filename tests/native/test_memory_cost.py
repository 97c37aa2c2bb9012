# SPDX-License-Identifier: MIT
"""What was never marked costs nothing: counted in the kernel's pages."""

import gc
from pathlib import Path

from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.native.log import DirtyLog

TIB = 1 << 28  # pages


def resident():
    """Anonymous memory of this process, in bytes, without what malloc() may do meanwhile to the heap."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Anonymous: line")


def growth(action):
    gc.collect()
    before = resident()
    action()
    return resident() - before


def test_a_clean_tebibyte_costs_less_than_a_page_table_entry_each_gibibyte():
    bitmaps = []
    assert growth(lambda: bitmaps.append(DirtyBitmap(TIB))) < 64 * 1024
    bitmap = bitmaps[0]
    assert growth(bitmap.count) < 64 * 1024
    assert growth(bitmap.runs) < 512 * 1024  # the array of runs, given back by malloc() when it likes
    out = bytearray(bitmap.harvest_size())
    assert growth(lambda: bitmap.harvest_or(out)) < 64 * 1024
    assert growth(lambda: bitmap.harvest(out)) < 64 * 1024


def test_a_mark_costs_a_few_pages():
    bitmap = DirtyBitmap(TIB)

    def mark():
        bitmap.mark(TIB - 1)
        bitmap.mark(12345)

    assert growth(mark) < 64 * 1024


def test_a_thousand_bitmaps_of_a_small_guest():
    """As the daemon has them: a thousand clients, each with one mapping."""
    bitmaps = []
    assert growth(lambda: bitmaps.extend(DirtyBitmap(256) for _ in range(1000))) < 2 * 1024 * 1024
    assert len(bitmaps) == 1000


def test_65535_bitmaps_are_not_as_many_mappings():
    """vm.max_map_count is 65530, and a container may have 65535 mappings with a bitmap each."""
    before = len(Path("/proc/self/maps").read_text().splitlines())
    bitmaps = [DirtyBitmap(16) for _ in range(65535)]
    bitmaps[-1].mark(5)
    assert len(Path("/proc/self/maps").read_text().splitlines()) - before < 1000
    assert len(bitmaps) == 65535


def test_a_log_of_the_whole_address_space_below_48_bits():
    logs = []
    assert growth(lambda: logs.append(DirtyLog(12, [(0, 1 << 47)]))) < 64 * 1024
    logs[0].mark((1 << 47) - 1, 1)
    assert logs[0].count() == 1
