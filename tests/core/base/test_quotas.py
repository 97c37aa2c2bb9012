# SPDX-License-Identifier: MIT
"""What a client makes grow has an end, whose errno Linux gives too; what is given back can be had again."""

import errno
import tracemalloc

import pytest

from vfioemu.core.base.effects import Breathe, PinUser
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.quota import Quotas
from vfioemu.core.base.slices import MAPPING, SLICE
from vfioemu.core.type1 import windows
from vfioemu.testing.process import Process

PAGE = 4096
AREA = 16 << 20
LARGEST = ((1 << 31) - 1) * PAGE
BITS = (1 << 28) + 8


@pytest.fixture(autouse=True)
def memory_everywhere(monkeypatch):
    """A client that says that all pages are there, and has none of them."""
    monkeypatch.setitem(Process._effects, PinUser, lambda process, effect: effect.npages)


def limited(rig, groups="mdev", **limits):
    client = rig(groups)
    client.process.quotas = Quotas.of(**limits)
    return client


def test_mappings(rig):
    client = limited(rig, mappings=2)

    assert [client.map(i * 2 * PAGE) for i in range(3)] == [0, 0, "ENOMEM"]
    assert client.unmap(0, PAGE) == PAGE
    assert client.map(8 * PAGE) == 0


def test_pages_that_cannot_be_held_are_not_charged(rig, monkeypatch):
    """Of a mapping in more pieces than there may be, when the first IOMMU comes into the container."""
    client = rig("mdev pci", joined=1)
    for i in range(3):
        assert client.map(i * 2 * PAGE) == 0
    pages, held = Process.pages, []

    def refuse(process, vaddr, size, holder):
        if len(held) == 2:
            raise IoctlError(errno.ENOMEM, "too many pieces")
        held.append(vaddr)
        return pages(process, vaddr, size, holder)

    monkeypatch.setattr(Process, "pages", refuse)
    client.open_group(1)
    assert client.set_container(1) == "ENOMEM"
    assert client.gauges()["locked_pages"] == 0

    monkeypatch.undo()
    monkeypatch.setitem(Process._effects, PinUser, lambda process, effect: effect.npages)
    assert client.set_container(1) == 0
    assert client.gauges()["locked_pages"] == 3


def test_pins_of_areas(rig):
    client = limited(rig, pins=2)
    client.map(0, 3 * AREA)

    assert [client.pin(i * AREA, 1) for i in range(3)] == [1, 1, "ENOMEM"]
    assert client.pin(PAGE, 2) == 2  # an area more or less full is the same
    client.unpin(AREA, 1)
    assert client.pin(2 * AREA, 1) == 1


def test_a_pin_that_is_refused_half_way_leaves_nothing(rig):
    client = limited(rig, pins=1)
    client.map(0, 2 * AREA)

    assert client.pin(AREA - PAGE, 2) == "ENOMEM"
    assert client.gauges()["pin_references"] == 0
    assert client.pin(AREA, 1) == 1


def test_the_same_page_again_and_again(rig):
    client = limited(rig, pins=3)
    client.map(0)

    assert [client.pin(0, 1) for _ in range(8)] == [1] * 7 + ["ENOMEM"]


def test_bitmaps_by_what_they_could_become(rig):
    client = limited(rig, bitmaps=BITS)
    client.map(0, LARGEST)
    assert client.start() == 0

    assert client.map(1 << 50, PAGE) == "ENOMEM"
    client.stop()
    client.map(1 << 50, PAGE)
    assert client.start() == "ENOMEM"
    client.unmap(1 << 50, PAGE)
    assert client.start() == 0


@pytest.fixture
def breaths(monkeypatch):
    """Each time that a handler of the core gives way by itself."""
    taken = []
    monkeypatch.setitem(Process._effects, Breathe, lambda process, effect: taken.append(effect))
    return taken


def counted(breaths, work):
    breaths.clear()
    work()
    return len(breaths)


def test_work_on_many_mappings_is_done_in_slices(rig, breaths):
    client = rig()
    slices = 3
    many = slices * SLICE // MAPPING + 2 * slices
    for i in range(many):
        client.map(2 * i * PAGE)

    assert counted(breaths, client.start) == slices
    assert counted(breaths, client.stop) == slices
    assert counted(breaths, lambda: client.unmap(0, 0, flags=2)) >= slices
    for i in range(many):
        client.map(2 * i * PAGE)
    assert counted(breaths, lambda: client.leave(0)) >= slices


def test_a_mapping_that_is_dirty_as_a_whole_costs_no_copy_of_its_bits(rig, breaths, monkeypatch):
    """8 TiB behind an IOMMU: 256 MiB of bits go out in windows; the user here has no such memory, and takes none."""
    written = []

    def write(at, data):
        written.append(len(data))
        yield from ()

    monkeypatch.setattr(windows, "write_user", write)
    client = rig("pci")
    assert client.map(1 << 44, LARGEST) == 0
    assert client.start() == 0
    tracemalloc.start()
    try:
        assert client.get_bitmap(1 << 44, LARGEST, 1 << 28, 1 << 40) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert sum(written) == 1 << 28
    assert max(written) == windows.WINDOW // 8
    assert peak < 8 << 20
    assert len(breaths) > 100
