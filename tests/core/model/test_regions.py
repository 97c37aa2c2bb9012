# SPDX-License-Identifier: MIT
"""GET_INFO, GET_REGION_INFO, and reading and writing regions."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.effects import read_user
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.quirks import DriverQuirks
from vfioemu.core.model.regions import ABSENT, READ_WRITE, Region
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

SIZE = 0x100
CAPS = ((2, 1, b"\1\0\0\0\2\0\0\0"), (3, 1, b""), (1, 1, b"\0" * 12))


class Memory(DeviceModel):
    """Region 0 is memory, 1 absent, 2 none at all, 3 has capabilities, 4 can only be read and not mapped."""

    def __init__(self):
        super().__init__({})
        self.bytes = bytearray(SIZE)

    def regions(self):
        readable = Region(SIZE, c.VFIO_REGION_INFO_FLAG_READ | c.VFIO_REGION_INFO_FLAG_MMAP)
        return (Region(SIZE, READ_WRITE), ABSENT, None, Region(SIZE, READ_WRITE, CAPS), readable)

    def read_region(self, index, offset, size):
        return bytes(self.bytes[offset : offset + size])

    def write_region(self, index, offset, data):
        self.bytes[offset : offset + len(data)] = data


@pytest.fixture
def bench():
    return Bench(Memory())


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, SIZE + 8), st.binary(max_size=SIZE + 8)), max_size=12)
)
def test_accesses_are_cut_at_the_end_and_refused_behind_it(accesses):
    bench = Bench(Memory())
    expected = bytearray(SIZE)

    for write, offset, data in accesses:
        size = min(len(data), SIZE - offset)
        bench.process.memory.write(bench.arg, data)
        call = bench.process.pwrite if write else bench.process.pread
        result = call(bench.fd, bench.arg, len(data), offset)
        if offset >= SIZE:
            assert result.err == "EINVAL"
            continue
        assert result.ret == size
        if write:
            expected[offset : offset + size] = data[:size]
        else:
            assert bench.answer(size) == bytes(expected[offset : offset + size])


@pytest.mark.parametrize("index", [1, 2, 5, 1 << 20])
def test_what_is_not_there_is_einval(bench, index):
    assert bench.process.pread(bench.fd, bench.arg, 4, index << 40).err == "EINVAL"
    assert bench.process.pwrite(bench.fd, bench.arg, 4, index << 40).err == "EINVAL"


def test_a_region_that_cannot_be_written(bench):
    assert bench.process.pread(bench.fd, bench.arg, 4, 4 << 40).ret == 4
    assert bench.process.pwrite(bench.fd, bench.arg, 4, 4 << 40).err == "EINVAL"


def test_bad_memory_of_the_caller(bench):
    assert bench.process.pread(bench.fd, 0x1000, 4, 0).err == "EFAULT"
    assert bench.process.pwrite(bench.fd, 0x1000, 4, 0).err == "EFAULT"
    assert bench.process.pread(bench.fd, 0x7FFFFFFFEFFF, 0x2000, 0).err == "EFAULT"
    assert bench.process.pread(bench.fd, bench.arg, 1 << 63, 0).err == "EFAULT"


def test_the_position_stays_unless_the_driver_moves_it(bench):
    bench.model.bytes[:8] = b"abcdefgh"
    for expected in (b"abcd", b"abcd"):
        assert bench.process.read(bench.fd, bench.arg, 4).ret == 4
        assert bench.answer(4) == expected
    bench.model.quirks = DriverQuirks(moves_position=True)
    for expected in (b"abcd", b"efgh"):
        assert bench.process.read(bench.fd, bench.arg, 4).ret == 4
        assert bench.answer(4) == expected
    assert bench.process.write(bench.fd, bench.arg, 4).ret == 4
    assert bytes(bench.model.bytes[8:12]) == b"efgh"


@pytest.mark.parametrize("argsz", [0, 15, 16, 20, 24, 64])
@pytest.mark.parametrize("size", [16, 24])
def test_info_is_as_long_as_the_driver_makes_it(bench, argsz, size):
    bench.model.quirks = DriverQuirks(info_size=size)

    result = bench.ioctl(c.VFIO_DEVICE_GET_INFO, struct.pack("<I", argsz) + b"\xee" * 28)

    if argsz < 16:
        assert result.err == "EINVAL"
        return
    info = struct.pack("<6I", argsz, 3, 5, 0, 0, 0)
    written = min(argsz, size)
    assert bench.answer(32) == info[:written] + b"\xee" * (32 - written)


@pytest.mark.parametrize(("driver", "release"), [(False, False), (False, True), (True, False), (True, True)])
def test_info_of_a_region_without_capabilities(bench, driver, release):
    bench.model.quirks = DriverQuirks(keeps_cap_offset=driver)
    bench.iommu.profile = replace(bench.iommu.profile, region_info_keeps_cap_offset=release)
    keeps = driver and release

    assert bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 33, 9, 1, 7, 7, 7)).ret == 0
    assert bench.answer(32) == struct.pack("<IIIIQQ", 33, 0, 1, 7 if keeps else 0, 0, 1 << 40)
    assert (
        bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 31, 9, 1, 7, 7, 7)).err == "EINVAL"
    )
    assert (
        bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 9, 2, 7, 7, 7)).err == "EINVAL"
    )


def test_info_of_a_region_with_capabilities(bench):
    needed = 32 + 16 + 8 + 24
    flags = READ_WRITE | c.VFIO_REGION_INFO_FLAG_CAPS

    assert (
        bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", needed - 1, 0, 3, 7, 7, 7)).ret == 0
    )
    assert bench.answer(32) == struct.pack("<IIIIQQ", needed, flags, 3, 0, SIZE, 3 << 40)
    assert bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", needed, 0, 3, 7, 7, 7)).ret == 0
    assert bench.answer(32) == struct.pack("<IIIIQQ", needed, flags, 3, 32, SIZE, 3 << 40)
    chain = bench.answer(needed - 32, 32)
    assert struct.unpack_from("<HHI", chain, 0) == (2, 1, 48)
    assert struct.unpack_from("<HHI", chain, 16) == (3, 1, 56)
    assert struct.unpack_from("<HHI", chain, 24) == (1, 1, 0)


@pytest.mark.parametrize(
    ("position", "size", "shared"),
    [
        (0, 4096, True),
        (4 << 40, 4096, False),
        (4 << 40, 8192, True),
        (5 << 40, 4096, True),
        (4 << 40, 4096, True),
    ],
)
def test_what_cannot_be_mapped_is_einval(bench, position, size, shared):
    file = bench.process.fds[bench.fd].what

    task = bench.process.start(file.mmap(bench.process.caller, position, size, 1, shared))

    with pytest.raises(Exception, match="EINVAL"):
        bench.process.scheduler.run(task)


def test_a_callback_may_be_a_generator(bench):
    def slow(index, offset, size):
        return (yield from read_user(bench.arg, size))

    bench.process.memory.write(bench.arg, b"1234")
    bench.model.read_region = slow

    assert bench.process.pread(bench.fd, bench.arg + 100, 4, 0).ret == 4
    assert bench.answer(4, 100) == b"1234"
