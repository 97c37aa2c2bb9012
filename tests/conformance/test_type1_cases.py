# SPDX-License-Identifier: MIT
"""The container and its type1 backend, call by call: one row per rule of the kernel's, on the recording machine."""

import errno
import struct

import pytest

from tests.conformance.recorder import DIRTY, INFO, MAP, PAGE, UNMAP, Client
from tests.releases import PROFILES, name
from vfioemu.uapi import constants as c

KERNEL = 0xFFFF_8000_0000_0000
TOP = 1 << 64


@pytest.fixture(params=PROFILES)
def release(request):
    return PROFILES[request.param]


def test_before_the_backend(release):
    client = Client(profile=release.name)
    assert client.value(client.container, 0x3B64, 0) == 0
    yes = {1, 3, 9} | ({c.VFIO_TYPE1_NESTING_IOMMU} if release.nesting else set())
    assert [client.extension(n) for n in range(12)] == [int(n in yes) for n in range(12)]
    assert client.extension(99) == 0
    for cmd in (INFO, MAP, UNMAP, DIRTY, 0x3B73, 0x3BFF):
        assert client.value(client.container, cmd, client.guard) == "EINVAL"
    assert client.set_iommu(3) == "EINVAL"
    assert client.set_iommu(99) == "EINVAL"
    assert client.join("mb0") == 0
    for kind in (0, 2, 4, 5, 7, 8, 10, 11, 99, (1 << 32) + 3):
        assert client.set_iommu(kind) == "ENODEV"
    assert client.set_iommu(9) == "EINVAL"
    assert client.open_device("mb0") == "EINVAL"
    assert client.set_iommu(3) == 0
    assert client.set_iommu(3) == "EINVAL"


def test_extensions_of_a_backend(release):
    for devices, expected in ((("mb0",), (1, 0)), (("pp0",), (0, 1)), (("mb0", "pp0"), (0, 0))):
        client = Client(*devices, profile=release.name)
        assert (client.extension(4), client.extension(10)) == expected
        assert client.value(client.container, 0x3B73, 0) == "ENOTTY"
        assert client.value(client.container, 0x3B74, 0) == "ENOTTY"
        assert client.value(client.container, 0x3BFF, 0) == "ENOTTY"


def test_info_of_mdevs(release):
    client = Client("mb0", profile=release.name)
    assert client.value(client.container, INFO, client.guard) == "EFAULT"
    assert client.info(15) == "EINVAL"
    for argsz in (16, 19, 20, 23, 24, 71):
        assert client.info(argsz) == 0
        shown = min(argsz, 24)
        full = struct.pack("<2IQ2I", 72, 3, 0xFFFF_FFFF_FFFF_F000, 0, 0)
        assert client.out == full[:shown].ljust(shown, b"\0") + client.out[shown:]
        assert client.out[24:] == b"\xee" * (256 - 24)
    assert client.info(72) == 0
    assert client.out[:72] == struct.pack("<2IQ2I", 72, 3, 0xFFFF_FFFF_FFFF_F000, 24, 0) + struct.pack(
        "<2HIIIQQ2HI2I", 2, 1, 56, 0, 0, PAGE, 1 << 28, 3, 1, 0, 65535, 0
    )


def test_info_of_hardware(release):
    client = Client("pp0", profile=release.name)
    assert client.info(4096, 4096) == 0
    assert client.out[:24] == struct.pack("<2IQ2I", 4096, 3, 0x40201000, 24, 0)
    assert client.out[72:120] == struct.pack(
        "<2HI2I4Q", 1, 1, 0, 2, 0, 0, 0xFEDF_FFFF, 0xFEF0_0000, (1 << 48) - 1
    )
    assert client.out[120:] == b"\xee" * (4096 - 120)


def test_map_arguments(release):
    client = Client("mb0", profile=release.name)
    for flags in (0, 8, 5, 6, 7, 1 << 31):
        assert client.map(0, PAGE, flags=flags) == "EINVAL"
    assert client.map(0, PAGE, argsz=31) == "EINVAL"
    for iova, size, vaddr in ((0, 0, 0), (0, 0x800, 0), (0x800, PAGE, 0), (0, PAGE, 1)):
        assert client.map(iova, size, vaddr) == "EINVAL"
    assert client.map(TOP - PAGE, 2 * PAGE) == name(release.map_wrap_errno)
    assert client.map(TOP - PAGE, 2 * PAGE, flags=0) == name(release.map_wrap_errno)
    assert client.map(0, 2 * PAGE, TOP - PAGE) == name(release.map_wrap_errno)
    assert client.map(TOP - PAGE, 0, flags=0) == "EINVAL"
    assert client.map(0, PAGE, client.guard) == 0
    assert client.map(0, PAGE) == name(release.map_overlap_errno)
    assert client.map(PAGE, 4 * PAGE, argsz=4096) == 0
    assert client.map(4 * PAGE, 2 * PAGE) == name(release.map_overlap_errno)
    for iova, size in ((0xFEE0_1000, PAGE), (0xFEDF_F000, 2 * PAGE), (1 << 48, PAGE)):
        assert client.map(iova, size) == 0
    assert client.map(8 * PAGE, PAGE, flags=2) == client.map(9 * PAGE, PAGE, flags=1) == 0


def test_map_into_hardware(release):
    client = Client("pp0", profile=release.name)
    assert client.map(0, PAGE, client.guard) == "EFAULT"
    client.info(120)
    assert client.out[64:68] == struct.pack("<I", 65535)
    assert client.map(0, PAGE, client.readonly) == "EFAULT"
    assert client.map(0, PAGE, client.readonly, flags=1) == 0
    for iova, size in (
        (0xFEE0_0000, PAGE),
        (0xFEDF_F000, 2 * PAGE),
        (1 << 48, PAGE),
        ((1 << 48) - PAGE, 2 * PAGE),
    ):
        assert client.map(iova, size) == "EINVAL"


def test_entry_limit(release):
    client = Client("mb0", type=0, profile=release.name)
    client.machine.set_parameter("dma_entry_limit", 3)
    client.set_iommu(3)
    assert [client.map(n * PAGE, PAGE) for n in range(4)] == [0, 0, 0, "ENOSPC"]
    assert client.map(0, PAGE) == name(release.map_overlap_errno)
    assert client.unmap(0, PAGE) == PAGE
    assert client.map(8 * PAGE, PAGE) == 0


def test_unmap(release):
    client = Client("mb0", profile=release.name)
    assert client.unmap(0, PAGE) == 0
    client.map(0, 4 * PAGE)
    for first, size in ((0, 2), (1, 3), (1, 1)):
        assert client.unmap(first * PAGE, size * PAGE) == "EINVAL"
    assert client.unmap(0, 4 * PAGE, argsz=23) == "EINVAL"
    for iova, size, flags in ((0, 0, 0), (0, 0x800, 0), (0x800, PAGE, 0), (0, PAGE, 8)):
        assert client.unmap(iova, size, flags) == "EINVAL"
    assert client.unmap(TOP - PAGE, 2 * PAGE) == name(release.unmap_wrap_errno)
    assert client.unmap(0, PAGE, 2) == client.unmap(PAGE, 0, 2) == "EINVAL"
    for flags in (3, 5, 7):
        assert client.unmap(0, PAGE, flags, 48, (PAGE, 8, client.bitmap)) == "EINVAL"
    client.map(16 * PAGE, PAGE)
    assert client.unmap(0, 64 * PAGE) == 5 * PAGE
    client.map(0, PAGE)
    client.map(5 * PAGE, 2 * PAGE)
    assert client.unmap(0, 0, 2) == 3 * PAGE
    assert client.unmap(0, 0, 2) == 0
    for iova, size, flags in ((0, PAGE, 4), (0x800, PAGE, 4), (0, 0, 6)):
        assert client.unmap(iova, size, flags) == "EBUSY"


def test_vaddr(release):
    client = Client("pp0", profile=release.name)
    assert client.map(0, PAGE, flags=4) == "ENOENT"
    client.map(0, 2 * PAGE)
    client.map(4 * PAGE, PAGE)
    assert client.unmap(4 * PAGE, PAGE, 4) == PAGE
    assert client.unmap(4 * PAGE, PAGE, 4) == "EINVAL"
    assert client.unmap(0, 8 * PAGE, 4) == "EINVAL"
    assert client.unmap(0, 2 * PAGE, 4) == 2 * PAGE
    assert client.map(0, PAGE, flags=4) == "EINVAL"
    assert client.join("pv0") == "EBUSY"
    assert client.map(0, 2 * PAGE, flags=4) == 0
    assert client.map(0, 2 * PAGE, flags=4) == "EINVAL"
    assert client.unmap(4 * PAGE, PAGE) == PAGE
    assert client.unmap(0, 0, 6) == 2 * PAGE


def test_version_1(release):
    client = Client("mb0", type=1, profile=release.name)
    client.map(0, 4 * PAGE)
    assert client.unmap(PAGE, PAGE) == 0
    assert client.drive("pin", 0, 1, 1) == -13
    assert client.drive("rw", 0, 8, 1, 0x55) == 0
    assert client.value(client.container, DIRTY, 0) == "EACCES"
    assert client.unmap(0, PAGE, 1, 48, (PAGE, 8, client.bitmap)) == "EINVAL"
    assert client.unmap(0, PAGE) == 4 * PAGE


def test_dirty_arguments(release):
    client = Client("mb0", profile=release.name)
    assert client.dirty(1, argsz=7) == "EINVAL"
    for flags in (0, 3, 5, 6, 7, 8, 16):
        assert client.dirty(flags, argsz=48) == "EINVAL"
    assert client.get(0, PAGE) == "EINVAL"
    assert [client.dirty(flags) for flags in (2, 1, 1, 2, 2, 1)] == [0] * 6
    assert client.get(0, PAGE, argsz=8) == client.get(0, PAGE, argsz=47) == "EINVAL"
    assert client.get(0, PAGE) == client.get(0, PAGE, argsz=4096) == 0
    assert client.get(0, PAGE, tail=8) == "EFAULT"
    assert client.get(0, PAGE, bits=KERNEL) == "EINVAL"
    assert client.get(0, PAGE, bits=client.guard) == 0
    client.map(0, 4 * PAGE)
    assert client.get(0, 4 * PAGE, bits=client.guard) == "EFAULT"
    for pgsize in (0, 0x800, 0x2000, 0x1001):
        assert client.get(0, 4 * PAGE, pgsize=pgsize) == "EINVAL"
    for pages, room in ((4, 0), (64, 7), (65, 8), (4, (1 << 28) + 1)):
        assert client.get(0, pages * PAGE, room=room) == "EINVAL"
    for iova, size in ((0, 0), (0x800, PAGE), (0, 0x800), (0, 2 * PAGE), (PAGE, 4 * PAGE), (PAGE, PAGE)):
        assert client.get(iova, size) == "EINVAL"
    top = client.get(TOP - PAGE, PAGE)
    assert top == (0 if release.get_bitmap_to_top else name(release.get_bitmap_wrap_errno))
    assert client.get(TOP - PAGE, 2 * PAGE) == name(release.get_bitmap_wrap_errno)


def test_words_of_the_bitmap(release):
    client = Client("mb0", profile=release.name)
    client.dirty(1)
    client.map(0, 10 * PAGE)
    client.map(10 * PAGE, 10 * PAGE)
    assert client.drive("rw", 0, 10 * PAGE, 1, 1) == client.drive("rw", 10 * PAGE, 10 * PAGE, 1, 1) == 0
    rounds = [client.bits() for _ in range(7)]
    assert rounds == [
        0xFFFFF,
        0x3FF0_0000,
        0xFF_C000_0000,
        0x3_FF00_0000_0000,
        0xFFC_0000_0000_0000,
        0xF000_0000_0000_0000,
        0,
    ]


def test_users_words_of_the_bitmap(release):
    client = Client("mb0", profile=release.name)
    client.dirty(1)
    client.map(0, 10 * PAGE)
    client.memory.poke(client.bitmap, b"\xff" * 8)
    assert (client.get(0, 64 * PAGE), client.words()) == (0, 0)
    client.unmap(0, 10 * PAGE)
    client.map(4 * PAGE, 8 * PAGE)
    client.memory.poke(client.bitmap, b"\xff" * 8)
    assert (client.get(0, 64 * PAGE), client.words()) == (0, (1 << 64) - 1)


def test_words_of_long_mappings(release):
    client = Client("mb0", profile=release.name)
    client.dirty(1)
    client.map(3 * PAGE, 64 * PAGE, client.data)
    client.drive("rw", 3 * PAGE, 1, 1, 1)
    client.drive("rw", 66 * PAGE, 1, 1, 1)
    assert (client.get(0, 128 * PAGE), client.words(2)) == (0, (8, 4))
    client.unmap(0, 128 * PAGE)
    client.map(64 * PAGE, 60 * PAGE)
    client.drive("rw", 65 * PAGE, 1, 1, 1)
    client.memory.poke(client.bitmap, struct.pack("<3Q", 1, 1, 1))
    assert (client.get(0, 192 * PAGE), client.words(3)) == (0, (1, 2, 1))


def test_life_of_a_pinned_page(release):
    client = Client("mb0", profile=release.name)
    client.map(0, 4 * PAGE)
    assert client.drive("pin", 0, 2, 3) == 2
    client.dirty(1)
    assert [client.bits(), client.bits()] == [3, 3]
    client.drive("unpin", PAGE, 1)
    assert [client.bits(), client.bits()] == [3, 1]
    assert client.drive("pin", 2 * PAGE, 1, 1) == 1
    assert client.bits() == 5
    client.drive("rw", 2 * PAGE - 1, 2, 1, 1)
    assert [client.bits(), client.bits()] == [7, 5]
    assert client.drive("pin", 3 * PAGE, 2, 3) == -22
    assert [client.bits(), client.bits()] == [13, 5]
    client.map(8 * PAGE, PAGE)
    assert client.bits() == 5


def test_pin_errors(release):
    client = Client("mb0", profile=release.name)
    client.map(0, 2 * PAGE, flags=1)
    client.map(4 * PAGE, PAGE, client.guard)
    assert client.drive("pin", 0, 513, 1) == -7
    assert client.drive("pin", 0, 0, 1) == -22
    assert client.drive("pin", 0, (1 << 64) - 1, 1) == -7
    assert client.drive("pin", 2 * PAGE, 1, 1) == -22
    assert client.drive("pin", 0, 1, 2) == -1
    assert client.drive("pin", 4 * PAGE, 1, 1) == -14
    assert client.drive("pin", TOP - PAGE, 2, 1) == -(release.pin_wrap_errno or errno.EINVAL)
    assert client.drive("rw", 0, 8, 1, 1) == -1
    assert client.drive("rw", 8 * PAGE, 8, 0) == -22
    assert client.drive("rw", 4 * PAGE, 8, 0) == -14
    assert client.drive("rw", 0, 0, 0) == -22
    deaf = Client("mn0", profile=release.name)
    deaf.map(0, PAGE)
    assert deaf.drive("pin", 0, 1, 1) == -22


def test_hardware_without_pins_dirties_everything(release):
    client = Client("pp0", profile=release.name)
    client.map(0, 4 * PAGE)
    client.dirty(1)
    assert [client.bits(), client.bits()] == [15, 15]
    assert client.drive("pin", 0, 1, 3) == 1
    assert [client.bits(), client.bits()] == [1, 1]
    assert client.drive("unpin", 0, 1) == 1
    assert [client.bits(), client.bits()] == [1, 0]


def test_hardware_comes_and_goes(release):
    client = Client("mb0", profile=release.name)
    client.map(0, 4 * PAGE)
    client.drive("pin", 0, 1, 3)
    client.dirty(1)
    assert client.bits() == 1
    assert client.join("pp0") == 0
    assert [client.bits(), client.bits()] == [15, 15]
    assert client.leave("pp0") == 0
    assert [client.bits(), client.bits()] == [15, 1]


def test_unmap_with_bitmap(release):
    client = Client("mb0", profile=release.name)
    bitmap = (PAGE, 8, client.bitmap)
    client.map(0, 2 * PAGE)
    assert client.unmap(0, 2 * PAGE, 1, 48, bitmap) == "EINVAL"
    client.dirty(1)
    for argsz in (24, 40, 47):
        assert client.unmap(0, 2 * PAGE, 1, argsz, bitmap) == "EINVAL"
    for bad in (
        (PAGE, 8, KERNEL),
        (0, 8, client.bitmap),
        (PAGE, 0, client.bitmap),
        (0x2000, 8, client.bitmap),
    ):
        assert client.unmap(0, 2 * PAGE, 1, 48, bad) == "EINVAL"
    client.drive("pin", PAGE, 1, 3)
    client.drive("notify")
    assert client.unmap(0, 2 * PAGE, 1, 48, bitmap) == 2 * PAGE
    assert client.words() == 2
    assert client.drive("notify") == 1
    assert client.drive("unpin", PAGE, 1) == 0
    client.map(0, PAGE)
    client.map(4096 * 8 * PAGE, PAGE)
    edge = (PAGE, 2 * PAGE, client.guard - PAGE)
    assert client.unmap(0, 8192 * 8 * PAGE, 1, 48, edge) == "EFAULT"
    assert client.map(0, PAGE) == 0
    assert client.map(4096 * 8 * PAGE, PAGE) == name(release.map_overlap_errno)


def test_the_last_group_takes_everything(release):
    client = Client("mb0", profile=release.name)
    client.map(0, PAGE)
    client.dirty(1)
    assert client.value(client.groups["mb0"], 0x3B69, 0) == "EBUSY"
    assert client.leave("mb0") == 0
    assert client.value(client.groups["mb0"], 0x3B69, 0) == "EINVAL"
    assert client.dirty(2) == "EINVAL"
    assert client.call(client.groups["mb0"], 0x3B68, struct.pack("<i", client.container)) == 0
    assert client.set_iommu(1) == 0
    assert client.unmap(0, 0, 2) == 0
    assert client.map(0, PAGE) == 0
