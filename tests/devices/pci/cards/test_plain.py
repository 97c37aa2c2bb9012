# SPDX-License-Identifier: MIT
"""The PCI function: what it is called, and what it looks like."""

import struct

import pytest

from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.pci.cards.plain import PlainFunction
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

ADDRESS = "0000:00:12.0"
TOKEN = "00112233-4455-6677-8899-aabbccddeeff"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (ADDRESS, True),
        (f"{ADDRESS} ", True),
        (f"{ADDRESS}    ", True),
        (ADDRESS[:-1], False),
        ("", False),
        (f" {ADDRESS}", False),
        (f"{ADDRESS}x", False),
        (f"{ADDRESS}\t", False),
        (f"{ADDRESS} x", "EINVAL"),
        (f"{ADDRESS} key=value", "EINVAL"),
        (f"{ADDRESS} vf_token=short", "EINVAL"),
        (f"{ADDRESS} vf_token={TOKEN}", "EINVAL"),
        (f"{ADDRESS}x vf_token={TOKEN}", False),
    ],
)
def test_names_follow_vfio_pci(name, answer):
    device = Bench(PlainFunction({}), name=ADDRESS).device

    if answer == "EINVAL":
        with pytest.raises(IoctlError, match="EINVAL"):
            device.matches(name)
    else:
        assert device.matches(name) is answer


def test_bars_are_memory_until_a_reset():
    bench = Bench(PlainFunction({"bars": [0, 0x1000], "reset": True}))
    assert bench.pwrite(b"abcd", (1 << 40) + 8).ret == 4
    assert bench.pread(4, (1 << 40) + 8) == b"abcd"
    assert bench.process.pread(bench.fd, bench.arg, 4, 0).err == "EINVAL"

    assert bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0

    assert bench.pread(4, (1 << 40) + 8) == bytes(4)
    assert bench.pread(4, 7 << 40) == struct.pack("<HH", 0x1234, 0x11E8)
    assert bench.pwrite(b"\0" * 4, 7 << 40).ret == 4
    assert bench.pread(4, 7 << 40) == struct.pack("<HH", 0x1234, 0x11E8)


def test_what_it_has_not_cannot_be_asked():
    bench = Bench(PlainFunction({}))

    assert bench.ioctl(c.VFIO_DEVICE_RESET).err == "EINVAL"
    assert (
        bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 8, 0, 0, 0)).err == "EINVAL"
    )
    assert bench.ioctl(c.VFIO_DEVICE_GET_IRQ_INFO, struct.pack("<4I", 16, 0, 3, 0)).err == "EINVAL"
    assert bench.ioctl(c.VFIO_DEVICE_FEATURE, struct.pack("<II", 8, 1 << 18 | 1)).err == "ENOTTY"


@pytest.mark.parametrize(
    "options",
    [
        {"bars": [3]},
        {"bars": 4096},
        {"bars": [16] * 7},
        {"msi": 33},
        {"msix": -1},
        {"vendor": "x"},
        {"vga": True},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PlainFunction(options)
