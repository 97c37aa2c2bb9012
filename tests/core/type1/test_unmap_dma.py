# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_UNMAP_DMA: ranges, the devices that are told, what is written back and what an error leaves."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.releases import every_release, name
from vfioemu.core.base.effects import locked
from vfioemu.uapi.constants import VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA

PAGE = 4096
TOP = 1 << 64
ALL, VADDR = 2, 4

spans = st.tuples(st.integers(0, 30), st.integers(1, 6))


def map_all(client, spans):
    return [(f, n) for f, n in spans if client.map(f * PAGE, n * PAGE) == 0]


@given(wanted=st.lists(spans, max_size=12), first=st.integers(0, 30), count=st.integers(1, 20))
def test_unmap_v2_takes_whole_mappings_or_is_einval(rig, wanted, first, count):
    client = rig()
    mapped = map_all(client, wanted)
    end = first + count
    bisects = any(f < first < f + n or f < end < f + n for f, n in mapped)
    inside = [(f, n) for f, n in mapped if first <= f < end]

    unmapped = client.unmap(first * PAGE, count * PAGE)

    assert unmapped == ("EINVAL" if bisects else sum(n for _, n in inside) * PAGE)
    assert client.gauges()["mappings"] == len(mapped) - (0 if bisects else len(inside))
    client.finish()


@given(wanted=st.lists(spans, max_size=12), first=st.integers(0, 30), count=st.integers(1, 20))
def test_unmap_v1_takes_what_starts_inside_and_never_says_einval(rig, wanted, first, count):
    client = rig(type=1)
    mapped = map_all(client, wanted)
    inside = [(f, n) for f, n in mapped if first <= f < first + count]
    if any(f < first < f + n for f, n in mapped):
        inside = []  # the walk ends before it began

    assert client.unmap(first * PAGE, count * PAGE) == sum(n for _, n in inside) * PAGE
    assert client.gauges()["mappings"] == len(mapped) - len(inside)


@given(wanted=st.lists(spans, max_size=12))
def test_unmap_all_takes_all(rig, wanted):
    client = rig()
    mapped = map_all(client, wanted)

    assert client.unmap(0, 0, ALL) == sum(n for _, n in mapped) * PAGE
    assert client.gauges()["dma_avail"] == 65535


@every_release
def test_unmap_of_the_whole_address_space_counts_in_64_bits(rig, profile):
    client = rig(profile=profile.name)
    assert client.map(0, TOP - PAGE, vaddr=0) == 0
    assert client.map(TOP - PAGE, PAGE) == 0

    assert client.unmap(0, 0, ALL) == 0
    assert client.gauges()["mappings"] == 0


@given(
    flags=st.integers(0, 15),
    iova=st.sampled_from([0, 0x800, PAGE, TOP - PAGE]),
    size=st.sampled_from([0, 0x800, PAGE, 2 * PAGE, TOP - PAGE]),
    argsz=st.sampled_from([0, 23, 24, 47, 48]),
    mdev=st.booleans(),
)
@every_release
def test_unmap_checks_come_in_the_kernels_order(rig, profile, flags, iova, size, argsz, mdev):
    get_dirty = bool(flags & 1)
    expected: int | str | None = 0
    if argsz < 24 or flags & ~7 or (get_dirty and flags != 1):
        expected = "EINVAL"
    elif get_dirty:
        expected = "EINVAL"  # no bitmap behind it, or tracking is off
    elif flags & VADDR and mdev:
        expected = "EBUSY"
    elif iova % PAGE or (iova or size if flags & ALL else not size or size % PAGE):
        expected = "EINVAL"
    elif iova + size > TOP:
        expected = name(profile.unmap_wrap_errno)
    client = rig("mdev" if mdev else "pci", profile=profile.name)

    assert client.unmap(iova, size, flags, argsz) == expected


def test_unmap_on_success_writes_the_size_alone(rig):
    client = rig()
    client.map(PAGE)
    client.map(5 * PAGE)
    client.memory.poke(client.argument + 24, b"\xcc" * 8)

    assert client.unmap(0, 16 * PAGE, argsz=64) == 2 * PAGE
    assert client.out(32) == struct.pack("<IIQQ", 64, 0, 0, 2 * PAGE) + b"\xcc" * 8


def test_unmap_on_error_writes_nothing(rig):
    client = rig()
    client.map(0, 4 * PAGE)

    assert client.unmap(PAGE) == "EINVAL"
    assert client.out(24) == struct.pack("<IIQQ", 24, 0, PAGE, PAGE)


def test_unmap_into_a_read_only_argument_is_efault_but_has_happened(rig):
    client = rig()
    client.map(0)
    client.memory.poke(client.argument, struct.pack("<IIQQ", 24, 0, 0, PAGE))
    client.memory.protect(client.argument, PAGE, "r")

    assert client.ioctl(client.container, 0x3B72, client.argument) == "EFAULT"
    assert client.gauges()["mappings"] == 0


# --- devices are told ---


def test_unmap_tells_every_device_the_whole_mapping_once_per_pinned_mapping(rig):
    client = rig("mdev mdev")
    client.map(0, 4 * PAGE)
    client.map(4 * PAGE, 2 * PAGE)
    client.map(8 * PAGE)
    client.pin(PAGE, 1, n=0)
    client.pin(4 * PAGE, 1, n=0)

    assert client.unmap(0, 16 * PAGE) == 7 * PAGE
    told = [(0, 4 * PAGE), (4 * PAGE, 2 * PAGE)]
    assert (client.model(0).unmapped, client.model(1).unmapped) == (told, told)
    client.finish()


def test_unmap_tells_the_device_that_was_opened_last_first(rig):
    client = rig("mdev mdev mdev")
    order = []

    def tell(n):
        def on_unmap(iova, size):
            order.append(n)
            yield from client.machine.devices[f"d{n}"].unpin_range(iova, size)

        return on_unmap

    for n in range(3):
        client.model(n).on_unmap = tell(n)
    client.map(0)
    client.pin(0)
    client.unmap(0)

    assert order == [2, 1, 0]


def test_unmap_drops_the_lock_while_devices_are_told(rig):
    client = rig()
    device = client.machine.devices["d0"]
    lock = next(iter(client.machine.containers.values())).lock

    def on_unmap(iova, size):
        assert not lock.held
        yield from locked(lock)
        lock.release()
        yield from device.unpin_range(iova, size)

    client.model().on_unmap = on_unmap
    client.map(0)
    client.pin(0)

    assert client.unmap(0) == PAGE


def test_unmap_begins_anew_when_a_callback_pins_in_a_later_mapping(rig):
    client = rig()
    device = client.machine.devices["d0"]

    def on_unmap(iova, size):
        yield from device.unpin_range(iova, size)
        if iova == 0:
            yield from device.pin(PAGE, 1, 3)

    client.model().on_unmap = on_unmap
    client.map(0)
    client.map(PAGE)
    client.pin(0)

    assert client.unmap(0, 2 * PAGE) == 2 * PAGE
    assert client.model().unmapped == [(0, PAGE), (PAGE, PAGE)]
    client.finish()


def test_unmap_that_a_callback_makes_bisecting_ends_with_success(rig):
    client = rig()
    process = client.process
    device = client.machine.devices["d0"]
    container = next(iter(client.machine.containers.values()))

    def on_unmap(iova, size):
        yield from device.unpin_range(iova, size)
        header = struct.pack("<IIQQ", 24, 0, 2 * PAGE, PAGE)
        client.memory.poke(client.bitmap, header)
        yield from container.iommu.ioctl(process.caller, VFIO_IOMMU_UNMAP_DMA, client.bitmap)
        client.memory.poke(client.bitmap, struct.pack("<IIQQQ", 32, 3, client.data, 2 * PAGE, 2 * PAGE))
        yield from container.iommu.ioctl(process.caller, VFIO_IOMMU_MAP_DMA, client.bitmap)

    client.model().on_unmap = on_unmap
    client.map(0)
    client.map(2 * PAGE)
    client.pin(0)

    assert client.unmap(0, 3 * PAGE) == 0
    assert client.gauges()["mappings"] == 2


def test_unmap_takes_the_pins_of_a_device_that_keeps_them(rig):
    client = rig()
    client.model().on_unmap = lambda iova, size: iter(())
    client.map(0)
    client.pin(0)

    assert client.unmap(0) == PAGE
    assert len(client.model().unmapped) == 11
    assert client.process.locked_pages == 0


def test_unmap_does_not_tell_of_mappings_without_pins(rig):
    client = rig()
    client.map(0)

    assert client.unmap(0) == PAGE
    assert client.model().unmapped == []


# --- GET_DIRTY_BITMAP ---


def test_unmap_dirty_reports_the_pages_whose_pins_it_dropped(rig):
    client = rig()
    client.map(0, 8 * PAGE)
    client.start()
    client.pin(PAGE, 2)

    assert client.unmap_dirty(0, 8 * PAGE) == 8 * PAGE
    assert client.words(1) == [0b110]
    client.finish()


def test_unmap_dirty_counts_bits_from_the_requests_iova(rig):
    client = rig()
    client.map(4 * PAGE, 2 * PAGE)
    client.start()
    client.write(5 * PAGE, b"x")

    assert client.unmap_dirty(2 * PAGE, 8 * PAGE) == 2 * PAGE
    assert client.words(1) == [1 << 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"argsz": 47},
        {"bytes": 0},
        {"bytes": 7},
        {"bytes": (1 << 28) + 1},
        {"pgsize": 0},
        {"pgsize": 2 * PAGE},
        {"data": 0xFFFF800000000000},
        {"data": 0x7FFFFFFFF000},
    ],
)
def test_unmap_dirty_with_a_wrong_bitmap_is_einval_and_unmaps_nothing(rig, wrong):
    client = rig()
    client.map(0)
    client.start()

    assert client.unmap_dirty(0, PAGE, **wrong) == "EINVAL"
    assert client.gauges()["mappings"] == 1


def test_unmap_dirty_without_tracking_is_einval(rig):
    client = rig()
    client.map(0)

    assert client.unmap_dirty(0, PAGE) == "EINVAL"


def test_unmap_dirty_whose_copy_fails_half_way_has_removed_the_first_mappings(rig):
    client = rig()
    client.map(0, 64 * PAGE)
    client.map(64 * PAGE, 64 * PAGE)
    client.start()

    assert client.unmap_dirty(0, 128 * PAGE, 16, data=client.bitmap + PAGE - 8) == "EFAULT"
    assert struct.unpack_from("<Q", client.out(24), 16) == (128 * PAGE,)
    assert client.map(0, 64 * PAGE) == 0
    assert client.map(64 * PAGE) == "EEXIST"
