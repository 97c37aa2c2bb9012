# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_DIRTY_PAGES: the order of its checks, and when a page is dirty."""

import struct

import pytest

from tests.releases import every_release, name

PAGE = 4096

pytestmark = pytest.mark.usefixtures("size_of_windows")


# --- the order of checks ---


def test_v1_is_eacces_before_anything_is_read(rig):
    client = rig(type=1)

    assert client.ioctl(client.container, 0x3B75, 0) == "EACCES"


@pytest.mark.parametrize(
    ("argsz", "flags"), [(7, 1), (8, 0), (8, 3), (8, 5), (8, 6), (8, 7), (8, 8), (8, 1 << 31)]
)
def test_flags_are_exactly_one(rig, argsz, flags):
    assert rig().dirty(flags, argsz) == "EINVAL"


def test_start_and_stop_are_idempotent(rig):
    client = rig()
    client.map(0)

    assert [client.stop(), client.start(), client.start(), client.stop(), client.stop()] == [0] * 5


def test_start_again_keeps_what_is_dirty(rig):
    client = rig()
    client.map(0, 4 * PAGE)
    client.start()
    client.write(PAGE, b"x")
    client.start()

    assert client.harvest(0, 4) == [2]


def test_stop_and_start_forget_all_but_pins(rig):
    client = rig()
    client.map(0, 4 * PAGE)
    client.start()
    client.write(PAGE, b"x")
    client.pin(2 * PAGE)
    client.stop()
    assert client.gauges()["bitmaps"] == 0
    client.start()

    assert client.harvest(0, 4) == [4]


def test_start_with_a_mapping_of_too_many_pages_is_einval_and_frees_all(rig):
    client = rig()
    client.map(0)
    client.map(1 << 44, 1 << 43)

    assert client.start() == "EINVAL"
    assert client.gauges()["bitmaps"] == 0
    assert client.get_bitmap(0, PAGE) == "EINVAL"
    client.unmap(1 << 44, 1 << 43)
    assert client.start() == 0


@pytest.mark.parametrize("argsz", [8, 47])
def test_get_without_room_for_its_range_is_einval(rig, argsz):
    client = rig()
    client.start()

    assert client.get_bitmap(0, PAGE, argsz=argsz) == "EINVAL"
    assert client.get_bitmap(0, PAGE, argsz=4096) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": 0xFFFF800000000000},
        {"data": 0x7FFFFFFFF000 - 7},
        {"pgsize": 0},
        {"pgsize": 0x800},
        {"pgsize": 0x2000},
        {"pgsize": 0x1001},
        {"bytes": 0},
        {"bytes": 7},
        {"bytes": (1 << 28) + 1},
        {"size": 65 * PAGE},
        {"size": 0},
        {"size": 0x800},
        {"iova": 0x800},
        {"iova": (1 << 64) - PAGE},
        {"iova": PAGE},
        {"size": 2 * PAGE},
    ],
)
def test_get_with_wrong_arguments_is_einval_and_touches_nothing(rig, wrong):
    client = rig()
    client.map(0, 4 * PAGE)
    client.start()
    client.memory.poke(client.bitmap, b"\xa5" * 8)

    assert client.get_bitmap(**({"iova": 0, "size": 4 * PAGE} | wrong)) == "EINVAL"
    assert client.words(1) == [0xA5A5A5A5A5A5A5A5]


@every_release
def test_get_up_to_2_to_the_64(rig, profile):
    client = rig(profile=profile.name)
    client.start()
    top = (1 << 64) - PAGE
    wraps = name(profile.get_bitmap_wrap_errno)

    assert client.get_bitmap(top, PAGE) == (0 if profile.get_bitmap_to_top else wraps)
    assert client.get_bitmap(top, 2 * PAGE) == wraps
    assert [client.get_bitmap(0, 0), client.get_bitmap(1, 0)] == ["EINVAL", "EINVAL"]


def test_get_of_a_hole_touches_no_byte_and_needs_none(rig):
    client = rig()
    client.map(0)
    client.start()

    assert client.get_bitmap(PAGE, PAGE, data=8) == 0
    assert client.get_bitmap(0, PAGE, data=8) == "EFAULT"


def test_get_with_the_range_behind_the_end_of_memory_is_efault(rig):
    client = rig()
    client.start()
    header = struct.pack("<II", 48, 4)
    at = client.argument + 0x10000 - 8

    assert client.ioctl(client.container, 0x3B75, header, at) == "EFAULT"


# --- when a page is dirty ---


def test_pinned_page_is_dirty_until_once_after_it_was_unpinned(rig):
    client = rig()
    client.map(0, 4 * PAGE)
    client.pin(0, 2)
    client.start()

    assert [client.harvest(0, 4), client.harvest(0, 4)] == [[3], [3]]
    client.unpin(PAGE)
    assert [client.harvest(0, 4), client.harvest(0, 4)] == [[3], [1]]


def test_pin_for_reading_alone_is_dirty(rig):
    client = rig()
    client.map(0, flags=1)
    client.start()
    client.pin(0, prot=1)

    assert client.harvest(0, 1) == [1]


def test_failed_pin_leaves_its_pages_dirty_for_one_get(rig):
    client = rig()
    client.map(0, 2 * PAGE)
    client.map(3 * PAGE)
    client.start()

    assert client.pin(0, 4) == "EINVAL"
    assert client.gauges()["pins"] == 0
    assert [client.harvest(0, 2), client.harvest(0, 2)] == [[3], [0]]


def test_hardware_group_makes_all_dirty_until_it_pins(rig):
    client = rig("pci")
    client.map(0, 4 * PAGE)
    client.start()

    assert [client.harvest(0, 4), client.harvest(0, 4)] == [[15], [15]]
    client.write(0, b"x")
    assert client.pin(0, prot=4) == "EPERM"
    assert client.harvest(0, 4) == [15]
    client.pin(PAGE)
    assert client.harvest(0, 4) == [2]
    client.unpin(PAGE)
    assert [client.harvest(0, 4), client.harvest(0, 4)] == [[2], [0]]


def test_hardware_group_that_comes_makes_old_mappings_dirty_and_when_it_goes_once_more(rig):
    client = rig("mdev pci", joined=1)
    client.map(0, 4 * PAGE)
    client.start()
    client.pin(0)
    assert client.harvest(0, 4) == [1]
    client.open_group(1)
    assert client.set_container(1) == 0

    assert client.harvest(0, 4) == [15]
    assert client.unset_container(1) == 0
    client.map(64 * PAGE)
    assert [client.harvest(0, 65), client.harvest(0, 65)] == [[15, 0], [1, 0]]
    client.finish()


def test_tracking_ends_with_the_last_group(rig):
    client = rig()
    client.map(0)
    client.start()
    client.leave(0)
    client.set_container(0)
    client.set_iommu(3)

    assert client.get_bitmap(0, PAGE) == "EINVAL"
    assert client.gauges()["mappings"] == 0
