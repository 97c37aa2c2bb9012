# SPDX-License-Identifier: MIT
"""DMA buffers of BARs."""

import os
import struct

import pytest

from tests.releases import having
from vfioemu.uapi import constants as c

PAGE = 4096
DMA_BUF = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_DMA_BUF


def dma_buf(bench, bar, *ranges, flags=0):
    payload = struct.pack("<4I", bar, 2, flags, len(ranges)) + b"".join(
        struct.pack("<QQ", *r) for r in ranges
    )
    return bench.feature(DMA_BUF, payload)[0]


def test_dma_buffers_of_a_release_that_has_them(bench):
    assert dma_buf(bench, 3, (0, PAGE)).err == "ENOTTY"
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    made = dma_buf(bench, 3, (0, PAGE), (PAGE, PAGE))
    assert made.ret >= 0
    assert bench.process.poll(made.ret) == 5
    assert bench.process.read(made.ret, bench.arg, 4).err == "EINVAL"
    assert bench.process.mmap(made.ret, PAGE, "rw", 0).err == "EINVAL"
    assert bench.process.ioctl(made.ret, 0x3B6B, bench.arg).err == "ENOTTY"

    for refused, answer in (
        (dma_buf(bench, 3), "EINVAL"),
        (dma_buf(bench, 3, (0, PAGE), flags=1), "EINVAL"),
        (dma_buf(bench, 5, (0, PAGE)), "ENODEV"),
        (dma_buf(bench, 6, (0, PAGE)), "ENODEV"),
        (dma_buf(bench, 1, (0, PAGE)), "EINVAL"),
        (dma_buf(bench, 3, (0, 3 * PAGE)), "EINVAL"),
        (dma_buf(bench, 3, (1 << 63, 1 << 63)), "EINVAL"),
        (dma_buf(bench, 3, ((1 << 64) - PAGE, PAGE)), "EOVERFLOW"),
        (dma_buf(bench, 3, (0, (1 << 64) - PAGE), (0, PAGE)), "EINVAL"),
    ):
        assert refused.err == answer


@pytest.mark.parametrize("bar", [5, 6, 9])
@pytest.mark.parametrize(
    "ranges", [b"", struct.pack("<2Q", 1, PAGE), struct.pack("<2Q", 0, 0), struct.pack("<2Q", 0, PAGE)]
)
def test_a_dma_buffer_of_no_bar_is_refused_before_its_ranges_are_read(bench, bar, ranges):
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    for count in (1, 1 << 18, (1 << 32) - 1):
        assert bench.feature(DMA_BUF, struct.pack("<4I", bar, 2, 0, count) + ranges)[0].err == "ENODEV"
    for count, flags in ((0, 0), (1, 1)):
        assert bench.feature(DMA_BUF, struct.pack("<4I", bar, 2, flags, count) + ranges)[0].err == "EINVAL"


@pytest.mark.parametrize("bar", [1, 3])
def test_ranges_of_a_dma_buffer_are_read_before_they_are_looked_at(bench, bar):
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    head = (24).to_bytes(4, "little") + DMA_BUF.to_bytes(4, "little")
    at = bench.arg + (64 << 10) - 24
    for count, answer in ((1, "EFAULT"), (1 << 18, "EFAULT"), ((1 << 18) + 1, "ENOMEM")):
        bench.process.memory.write(at, head + struct.pack("<4I", bar, 2, 0, count))
        assert bench.process.ioctl(bench.fd, c.VFIO_DEVICE_FEATURE, at).err == answer


@pytest.mark.parametrize(
    ("flags", "readable", "writable"),
    [
        (os.O_RDONLY, True, False),
        (os.O_WRONLY, False, True),
        (os.O_RDWR, True, True),
        (os.O_ACCMODE, False, False),
        (0xFFFFFFFF, False, False),
        (os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, True, False),
    ],
)
def test_a_dma_buffer_is_open_for_what_its_open_flags_say(bench, flags, readable, writable):
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    process = bench.process
    made = bench.feature(DMA_BUF, struct.pack("<4I2Q", 3, flags, 0, 1, 0, PAGE))[0].ret

    assert process.read(made, bench.arg, 4).err == ("EINVAL" if readable else "EBADF")
    assert process.write(made, bench.arg, 4).err == ("EINVAL" if writable else "EBADF")
    assert process.pread(made, bench.arg, 4, 0).err == "ESPIPE"
    assert process.pwrite(made, bench.arg, 4, 0).err == "ESPIPE"
    for prot, may in (("none", readable), ("r", readable), ("rw", readable and writable)):
        assert process.mmap(made, PAGE, prot, 0).err == ("EINVAL" if may else "EACCES")
    assert process.poll(made) == 5


@pytest.mark.parametrize(
    ("cmd", "payload", "answer"),
    [(0x40086200, flags.to_bytes(8, "little"), None) for flags in (1, 2, 3, 5, 6, 7)]
    + [(0x40086200, flags.to_bytes(8, "little"), "EINVAL") for flags in (0, 4, 8, 9, 1 << 32 | 1)]
    + [(0x40086200, b"\1" + bytes(6), "EFAULT")]
    + [(cmd, b"\0", None) for cmd in (0x40046201, 0x40086201)]
    + [(0x40086201, b"n" * 31 + b"\0", None), (0x40086201, b"n" * 32 + b"\0", "EINVAL")]
    + [(0x40086201, b"n" * 31, "EFAULT"), (0x40046200, bytes(8), "ENOTTY"), (0x6200, bytes(8), "ENOTTY")],
)
def test_the_ioctls_of_a_dma_buffer_change_nothing(bench, cmd, payload, answer):
    """Each payload ends where memory ends."""
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    made = dma_buf(bench, 3, (0, PAGE)).ret
    at = bench.arg + (64 << 10) - len(payload)
    bench.process.memory.write(at, payload)

    assert bench.process.ioctl(made, cmd, at).err == answer
    assert bench.process.memory.read(at, len(payload)) == payload
