# SPDX-License-Identifier: MIT
"""Kernels in memory, through the handles that clients' authors use."""

import errno
import struct

import pytest

from vfioemu.abi.dma_engine import Register
from vfioemu.testing import device, machine
from vfioemu.uapi import constants as c
from vfioemu.uapi.flags import DeviceState

PAGE = 4096


def oracle(variant="migspc"):
    client = machine(device("oracle", variant=variant, iommu=False)).client()
    return client, client.open("dev0")


def command(opened, *words):
    opened.write(0, 0, struct.pack("<8Q", *words, *[0] * (8 - len(words))))


def test_log_tells_what_was_written_and_forgets_it():
    _, opened = oracle()
    opened.start_logging(0, 0x100000)
    command(opened, 5, 0x3000, 0x2001)

    assert opened.logged(0, 0x100000) == [(0x3000, 0x3000)]
    assert opened.logged(0, 0x100000) == []
    opened.stop_logging()
    with pytest.raises(OSError, match="does not log"):
        opened.logged(0, 0x100000)


def test_state_goes_through_pre_copy():
    _, opened = oracle()
    data = opened.set_state(DeviceState.PRE_COPY)

    info = data.precopy_info()
    first = data.read_all()
    assert opened.set_state(DeviceState.STOP_COPY) is None
    rest = data.read_all()

    assert (info.initial_bytes, info.dirty_bytes) == (96, 64)
    assert (len(first), len(rest)) == (160, 256)
    assert opened.state == DeviceState.STOP_COPY
    opened.reset()
    assert opened.state == DeviceState.RUNNING


def test_interrupts_arrive_in_eventfds():
    client, opened = oracle("basic")
    eventfd = client.process.eventfd()
    opened.set_eventfds(c.VFIO_PCI_MSI_IRQ_INDEX, [eventfd])

    command(opened, 9, c.VFIO_PCI_MSI_IRQ_INDEX, 0)

    assert client.process.fds[eventfd].what.count == 1


def test_device_works_when_time_passes():
    kernel = machine(device("dma-engine", type=1, iommu=False))
    client = kernel.client()
    engine = client.open("dev0")
    memory = engine.container.map(0, 16 * PAGE)
    engine.container.start_tracking()
    for register, value in (
        (Register.BASE, 0),
        (Register.SIZE, 16 * PAGE),
        (Register.RATE, 1000),
        (Register.LIMIT, 4),
        (Register.CONTROL, 1),
    ):
        engine.write(0, register, struct.pack("<Q", value))

    kernel.work(0.001)
    kernel.work(1.0)

    assert client.read(memory, 8) == b"VFE-DMA\0"
    assert engine.container.dirty(0, 16 * PAGE) == [(0, 4 * PAGE)]


def test_errnos_and_reasons_are_the_kernels():
    client = machine("vfio-pci").client()

    with pytest.raises(OSError, match="/dev/vfio/7") as no_group:
        client.open_file("/dev/vfio/7")
    with pytest.raises(OSError, match="fd 77 is not open") as no_fd:
        client.ioctl(77, c.VFIO_GET_API_VERSION, 0)
    container = client.container()
    with pytest.raises(OSError, match="group") as no_iommu:
        client.ioctl(container.fd, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)

    assert no_group.value.errno == errno.ENOENT
    assert no_fd.value.errno == errno.EBADF
    assert no_iommu.value.errno == errno.EINVAL


def test_memlock_is_a_limit():
    kernel = machine(device("vfio-pci", iommu=True))
    opened = kernel.client(memlock=2 * PAGE).open("dev0")
    opened.container.map(0, 2 * PAGE)

    with pytest.raises(OSError, match=r"RLIMIT_MEMLOCK|lock") as refused:
        opened.container.map(0x10000, PAGE)

    assert refused.value.errno == errno.ENOMEM


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="'no-such' is none of"):
        machine("no-such")
