# SPDX-License-Identifier: MIT
"""BARs and the ROM: how accesses are cut, what can be mapped, and for how long."""

import os
import struct

import pytest

from tests.devices.pci.rigs import ADDRESS, CONFIG, Recorder, at
from vfioemu.devices.pci.cards.e1000e import E1000e
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

PAGE = 4096


def test_accesses_are_cut_into_aligned_pieces(bench):
    assert bench.pread(8, at(0, 1)) == bytes(range(1, 9))
    assert bench.model.hardware.seen == [("r", 0, 1, 1), ("r", 0, 2, 2), ("r", 0, 4, 4), ("r", 0, 8, 1)]
    bench.model.hardware.seen.clear()

    assert bench.pwrite(b"abcdefg", at(2, 2)).ret == 7
    assert bench.model.hardware.seen == [("w", 2, 2, b"ab"), ("w", 2, 4, b"cdef"), ("w", 2, 8, b"g")]


def test_an_access_ends_where_the_bar_ends(bench):
    assert len(bench.pread(100, at(1, 0x1C))) == 4
    assert bench.pwrite(bytes(100), at(2, 0x7FF)).ret == 1
    assert bench.process.pread(bench.fd, bench.arg, 4, at(1, 0x20)).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 4, at(5)).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 4, at(8)).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 0, at(5)).ret == 0


def test_the_msix_table_is_the_kernels(bench):
    assert bench.pread(0x60, at(4, 0xFF8))[:8] == bytes((*range(0xF8, 0xFC), *range(0xFC, 0x100)))
    assert bench.pread(0x40, at(4, 0x1000)) == b"\xff" * 0x40
    bench.model.hardware.seen.clear()

    assert bench.pwrite(bytes(0x48), at(4, 0xFFC)).ret == 0x48
    assert bench.model.hardware.seen == [("w", 4, 0xFFC, bytes(4)), ("w", 4, 0x1040, bytes(4))]


def test_a_write_that_faults_has_done_what_came_before(bench):
    page = bench.process.memory.allocate(PAGE)
    bench.process.memory.write(page + PAGE - 14, b"abcdefghijklmn")

    assert bench.process.pwrite(bench.fd, page + PAGE - 14, 20, at(2, 4)).err == "EFAULT"

    assert bench.model.hardware.seen == [("w", 2, 4, b"abcd"), ("w", 2, 8, b"efghijkl")]


def test_what_is_behind_the_registers_costs_nothing(bench):
    assert bench.pread(0x2000, at(3)) == bytes(range(16)) + b"\xee" * 0x1FF0
    assert bench.pwrite(bytes(0x2000), at(3)).ret == 0x2000
    assert [(call, size) for call, _, _, size in bench.model.hardware.seen[:2]] == [("r", 8)] * 2
    assert len(bench.model.hardware.seen) == 4


def test_regions_tell_what_can_be_mapped(bench):
    def region(index):
        bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<4I2Q", 256, 0, index, 0, 0, 0))
        _, flags, _, cap, size, _ = struct.unpack("<4I2Q", bench.answer(32))
        return flags, size, bench.answer(64, cap) if flags & 8 else b""

    assert region(1)[0] == 3
    assert region(2)[0] == 7  # less than a page, which it has for itself
    assert region(3) == (7, 0x2000, b"")
    assert region(4)[0] == 15
    assert region(4)[2][:8] == struct.pack("<HHI", 3, 1, 0)
    assert region(0)[0] == 15
    assert region(0)[2][:32] == struct.pack("<HHIIIQQ", 1, 1, 0, 1, 0, 0x1000, 0x2000)

    plain = Bench(Recorder({"mmap": False}), name=ADDRESS)
    plain.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<4I2Q", 32, 0, 3, 0, 0, 0))
    assert plain.answer(4, 4) == b"\x03\0\0\0"
    assert plain.process.mmap(plain.fd, PAGE, "rw", at(3)).err == "EINVAL"


@pytest.mark.parametrize(
    ("place", "size", "answer"),
    [
        (at(0), PAGE, "EINVAL"),
        (at(0, PAGE), 2 * PAGE, None),
        (at(0, 2 * PAGE), PAGE, None),
        (at(0, 2 * PAGE), 2 * PAGE, "EINVAL"),
        (at(1), PAGE, "EINVAL"),
        (at(2), PAGE, None),
        (at(2), 2 * PAGE, "EINVAL"),
        (at(3), 2 * PAGE, None),
        (at(3), 3 * PAGE, "EINVAL"),
        (at(5), PAGE, "EINVAL"),
        (at(6), PAGE, "EINVAL"),
        (at(7), PAGE, "EINVAL"),
        (at(8), PAGE, "EINVAL"),
        (at(9), PAGE, "EINVAL"),
    ],
)
def test_what_can_be_mapped(bench, place, size, answer):
    assert bench.process.mmap(bench.fd, size, "rw", place).err == answer


def test_a_mapping_ends_with_memory_decoding(bench):
    bench.model.hardware.bar_memory(3).write(0, b"kept")
    size = lambda: os.fstat(bench.model.hardware.bar_memory(3).fd).st_size  # noqa: E731

    for off, on in ((b"\0", b"\x02"), (b"\x03", b"\0")):
        place = CONFIG + (4 if off == b"\0" else bench.model.hardware.config.caps[1] + 4)
        assert size() == 0x2000
        assert bench.pwrite(off, place).ret == 1
        assert size() == 0
        assert bench.pwrite(on, place).ret == 1
    assert bench.model.hardware.bar_memory(3).read(0, 4) == b"kept"


def test_a_rom_is_there_as_far_as_its_bar_goes():
    bench = Bench(E1000e({}), name=ADDRESS)

    assert bench.pread(4, at(6)) == b"\x55\xaa\x01\0"
    assert bench.pread(0x1000, at(6, 0x200)) == b"\xff" * 0x1000
    assert bench.pread(100, at(6, 0x3FFF0)) == b"\xff" * 16
    assert bench.pwrite(b"x", at(6)).err == "EINVAL"


@pytest.mark.parametrize("off", [(4, b"\0"), (0xCC, b"\x03")])
@pytest.mark.parametrize("place", [0, 0x100, 0x200, 0x3FFFF])
def test_a_rom_that_is_not_decoded_cannot_be_mapped_to_be_read(off, place):
    """pci_map_rom() looks for its signature at each read, also of what lies behind the image."""
    bench = Bench(E1000e({}), name=ADDRESS)
    assert bench.pwrite(off[1], CONFIG + off[0]).ret == 1

    assert bench.process.pread(bench.fd, bench.arg, 1, at(6, place)).err == "ENOMEM"
    assert bench.process.pread(bench.fd, bench.arg, 1, at(6, 0x40000)).err == "EINVAL"
