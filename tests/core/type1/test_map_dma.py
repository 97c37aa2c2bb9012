# SPDX-License-Identifier: MIT
"""VFIO_IOMMU_MAP_DMA: what is refused, in which order, and what is left behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.releases import every_release, name
from vfioemu.core.base.caller import AddressSpace
from vfioemu.core.memory.iova_map import Dma, IovaMap

PAGE = 4096
TOP = 1 << 64

spans = st.tuples(st.integers(0, 40), st.integers(1, 12))


@given(requests=st.lists(spans, max_size=25))
def test_map_overlap_is_eexist_and_nothing_else_is(rig, requests):
    client = rig()
    mapped = []
    for first, count in requests:
        overlaps = any(first < f + n and f < first + count for f, n in mapped)
        assert client.map(first * PAGE, count * PAGE) == ("EEXIST" if overlaps else 0)
        if not overlaps:
            mapped.append((first, count))
    gauges = client.gauges()
    assert gauges["mappings"] == len(mapped)
    assert gauges["dma_avail"] == 65535 - len(mapped)
    client.finish()


@given(
    flags=st.integers(0, 15),
    iova=st.sampled_from([0, 1, 0x800, PAGE, TOP - PAGE, TOP - 2 * PAGE]),
    vaddr=st.sampled_from([0, 1, PAGE, TOP - PAGE, TOP - 2 * PAGE]),
    size=st.sampled_from([0, 1, 0x800, PAGE, 2 * PAGE, 3 * PAGE, TOP - PAGE]),
    argsz=st.sampled_from([0, 31, 32, 4096]),
)
@every_release
def test_map_checks_come_in_the_kernels_order(rig, profile, flags, iova, vaddr, size, argsz):
    wraps = size and (iova + size > TOP or vaddr + size > TOP)
    unaligned = not size or (iova | vaddr | size) % PAGE
    access, set_vaddr = flags & 3, bool(flags & 4)
    expected: int | str | None = 0
    if argsz < 32 or flags & ~7:
        expected = "EINVAL"
    elif profile.map_range_first and wraps:
        expected = name(profile.map_wrap_errno)
    elif bool(access) == set_vaddr or unaligned:
        expected = "EINVAL"
    elif wraps:
        expected = name(profile.map_wrap_errno)
    elif set_vaddr:
        expected = "ENOENT"
    client = rig(profile=profile.name)

    assert client.map(iova, size, vaddr, flags, argsz) == expected
    assert client.gauges()["mappings"] == (expected == 0)


def unmap_literally(lookups, iova, size):
    """vfio_dma_do_unmap() of 6.12, for mappings that nobody has pinned."""
    dma = lookups.find(iova, 1)
    if dma and dma.iova != iova:
        return "EINVAL"
    dma = lookups.find(iova + size - 1, 0)
    if dma and (dma.iova + dma.size) % TOP != (iova + size) % TOP:
        return "EINVAL"
    unmapped, dma = 0, lookups.first_overlapping(iova, size)
    while dma and dma.iova < (iova + size) % TOP:
        following = lookups.next(dma)
        lookups.unlink(dma)
        unmapped, dma = unmapped + dma.size, following
    return unmapped


@given(script=st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.integers(1, 8)), max_size=20))
def test_map_up_to_2_to_the_64_lets_in_what_lookups_of_6_12_do_not_find(rig, script):
    client, lookups = rig("mdev"), IovaMap(top_wraps=True)
    for number, (insert, back, count) in enumerate(script):
        iova, size = TOP - back * PAGE, min(back, count) * PAGE
        if not insert:
            assert client.unmap(iova, size) == unmap_literally(lookups, iova, size)
            continue
        found = lookups.find(iova, size)
        assert client.map(iova, size, client.data + number * 8 * PAGE) == ("EEXIST" if found else 0)
        client.memory.poke(client.data + number * 8 * PAGE, bytes([number]) * size)
        if found is None:
            dma = Dma(iova, number, 3, AddressSpace(), ipc_lock=True)
            lookups.link(dma)
            lookups.grow(dma, size)
        for page in range(1, 9):
            at = lookups.find(TOP - page * PAGE, 1)
            assert client.read(TOP - page * PAGE, 1) == (bytes([at.vaddr]) if at else "EINVAL")
    client.finish()


def test_map_over_a_mapping_that_one_up_to_2_to_the_64_hides_succeeds(rig):
    client = rig("mdev")

    assert client.map(TOP - 2 * PAGE, 2 * PAGE) == 0
    assert client.map(TOP - 4 * PAGE) == 0
    assert client.map(TOP - 4 * PAGE, 3 * PAGE) == 0
    assert client.gauges()["mappings"] == 3


@pytest.mark.parametrize("vaddr", [0, 0xDEAD0000, 0x800000000000, 0xFFFF888000000000])
def test_map_without_hardware_does_not_look_at_memory(rig, vaddr):
    client = rig("mdev")

    assert client.map(0, vaddr=vaddr) == 0
    assert client.pin(0) == "EFAULT"


@pytest.mark.parametrize("vaddr", [0, 0xDEAD0000, 0x800000000000, 0xFFFF888000000000])
def test_map_with_hardware_of_bad_memory_is_efault_and_leaves_nothing(rig, vaddr):
    client = rig("pci")

    assert client.map(0, vaddr=vaddr) == "EFAULT"
    assert (client.gauges()["dma_avail"], client.gauges()["mappings"]) == (65535, 0)


def test_map_with_hardware_wants_writable_memory_for_writes_only(rig):
    client = rig("pci")
    client.memory.protect(client.data, PAGE, "r")

    assert client.map(0, flags=2) == "EFAULT"
    assert client.map(0, flags=3) == "EFAULT"
    assert client.map(0, flags=1) == 0


@pytest.mark.parametrize(
    ("iova", "size"), [(0xFEE00000, PAGE), (0xFEDFF000, 2 * PAGE), (0xFEEFF000, 2 * PAGE), (1 << 48, PAGE)]
)
def test_map_outside_of_the_iova_ranges_is_einval_only_with_hardware(rig, iova, size):
    assert rig("pci").map(iova, size) == "EINVAL"
    assert rig("mdev").map(iova, size) == 0


def test_map_reaches_the_ends_of_the_iova_ranges(rig):
    client = rig("pci")

    assert [client.map(iova) for iova in (0, 0xFEDFF000, 0xFEF00000, (1 << 48) - PAGE)] == [0, 0, 0, 0]


def test_map_beyond_the_entry_limit_is_enospc_but_overlap_comes_first(rig):
    client = rig("pci", dma_entry_limit=2)

    assert [client.map(0), client.map(PAGE)] == [0, 0]
    assert client.map(2 * PAGE) == "ENOSPC"
    assert client.map(0xFEE00000) == "ENOSPC"
    assert client.map(PAGE) == "EEXIST"
    assert client.unmap(0) == PAGE
    assert client.map(0xFEE00000) == "EINVAL"
    assert client.map(2 * PAGE) == 0


def test_map_of_2_to_the_62_costs_nothing(rig):
    client = rig("mdev")

    assert client.map(0, 1 << 62) == 0
    assert client.unmap(0, 1 << 62) == 1 << 62


def test_map_while_tracking_of_too_many_pages_is_einval(rig):
    client = rig("mdev")
    client.start()

    assert client.map(0, 1 << 43) == "EINVAL"
    assert client.map(0, (1 << 43) - PAGE) == 0
    assert client.gauges()["dma_avail"] == 65534


def test_map_reads_no_more_than_32_bytes_and_writes_none(rig):
    client = rig("mdev")
    at = client.argument + 0x10000 - 32
    payload = (4096).to_bytes(4, "little") + b"\x03" + bytes(27)

    assert client.ioctl(client.container, 0x3B71, payload[:24] + PAGE.to_bytes(8, "little"), at) == 0
    client.memory.protect(client.argument, 0x10000, "r")
    assert (
        client.ioctl(
            client.container, 0x3B71, payload[:17] + b"\x10" + bytes(6) + PAGE.to_bytes(8, "little"), at
        )
        == 0
    )


def test_map_of_unreadable_argument_is_efault(rig):
    client = rig("mdev")

    assert client.ioctl(client.container, 0x3B71, 0) == "EFAULT"
    client.memory.protect(client.argument, PAGE, "none")
    assert client.ioctl(client.container, 0x3B71, client.argument + PAGE - 31) == "EFAULT"
