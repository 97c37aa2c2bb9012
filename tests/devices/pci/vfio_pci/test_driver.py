# SPDX-License-Identifier: MIT
"""What the driver gives a card, whatever it is: options, DMA, interrupts, a token."""

import errno
import struct

import pytest

from tests.devices.pci.rigs import ADDRESS, CONFIG, SET, Recorder, feature
from vfioemu.core.base.errors import IoctlError
from vfioemu.devices.pci import (
    Express,
    ExtendedCapability,
    Msi,
)
from vfioemu.devices.pci.cards.e1000e import E1000e
from vfioemu.devices.pci.cards.edu import Edu
from vfioemu.devices.pci.cards.nvme import Nvme
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c


def test_only_functions_that_may_have_virtual_ones_take_a_token():
    token = bytes(range(16))
    uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f"
    flags = SET | c.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN
    assert feature(Bench(Recorder(), name=ADDRESS), flags, token) == "ENOTTY"

    physical = Recorder(capabilities=(Express(),), extended=(ExtendedCapability(0x10, 1, bytes(60)),))
    bench = Bench(physical, name=ADDRESS)
    assert feature(bench, flags, token[:15]) == "EINVAL"
    assert feature(bench, flags, token) is None
    assert bench.device.matches(f"{ADDRESS} vf_token={uuid}")
    with pytest.raises(IoctlError, match="EINVAL"):
        bench.device.matches(f"{ADDRESS} vf_token={uuid} vf_token={uuid}")


def test_dma_needs_a_bus_master(bench):
    model = bench.model
    with pytest.raises(IoctlError) as refused:
        bench.run(model.hardware.dma_write(0x1000, b"x"))
    assert refused.value.errno == errno.EIO

    bench.pwrite(b"\x06", CONFIG + 4)
    bench.run(model.hardware.dma_write(0x1000, b"x"))
    assert bench.run(model.hardware.dma_read(0x1000, 1)) == b"x"


@pytest.mark.parametrize("options", [{"mmap": 1}, {"host-vectors": 0}, {"host-vectors": True}, {"bars": []}])
@pytest.mark.parametrize("model", [Edu, E1000e, Nvme])
def test_options_that_make_no_sense(model, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        model(options)


def test_msi_with_an_eventfd_for_a_function_behind_the_layer():
    bench = Bench(Recorder(capabilities=(Msi(2),)), name=ADDRESS)
    eventfd = bench.process.eventfd()
    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5Ii", 24, 0x24, 1, 1, 1, eventfd)).ret == 0
    assert bench.pwrite(b"\6", CONFIG + 4).ret == 1

    assert bench.run(bench.model.hardware.interrupt(0)) is False
    assert bench.run(bench.model.hardware.interrupt(1)) is True
    assert bench.process.fds[eventfd].what.count == 1
