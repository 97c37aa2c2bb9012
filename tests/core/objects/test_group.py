# SPDX-License-Identifier: MIT
"""The group fd: status, container, device fds, and who keeps what open."""

import struct

import pytest

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.objects.spec import DeviceSpec
from vfioemu.testing.process import FIRST_FD, MAX_FDS
from vfioemu.uapi import constants as c

PAGE = 4096


def status(client, n=0, argsz=8):
    answer = client.ioctl(client.groups[n], c.VFIO_GROUP_GET_STATUS, struct.pack("<II", argsz, 0xDEADBEEF))
    return answer if answer != 0 else struct.unpack("<II", client.out(8))


def test_status_follows_the_container(rig):
    client = rig(type=0, joined=0)
    client.open_group(0)

    assert status(client) == (8, 1)
    client.set_container(0)
    assert status(client, argsz=0xFFFFFFFF) == (0xFFFFFFFF, 3)
    client.unset_container(0)
    assert status(client) == (8, 1)
    assert status(client, argsz=7) == "EINVAL"


def test_group_that_is_not_viable_has_no_flag_and_is_eperm(rig):
    client = rig("unviable", type=0, joined=0)
    client.open_group(0)

    assert status(client) == (8, 0)
    assert client.set_container(0) == "EPERM"
    assert client.set_iommu(3) == "EINVAL"


def test_set_container_checks_come_in_the_kernels_order(rig):
    client = rig(type=0, joined=0)
    client.open_group(0)
    null, event = client.process.null(), client.process.eventfd()

    assert client.ioctl(client.groups[0], c.VFIO_GROUP_SET_CONTAINER, 0) == "EFAULT"
    assert [client.set_container(0, fd) for fd in (-1, 9999, null, event, client.groups[0])] == [
        "EBADF",
        "EBADF",
        "EBADFD",
        "EBADFD",
        "EBADFD",
    ]
    assert client.set_container(0) == 0
    assert [client.set_container(0, fd) for fd in (-1, null, client.container)] == [
        "EBADF",
        "EINVAL",
        "EINVAL",
    ]
    assert client.process.fds[event].what.references == 0


def test_unset_container_is_einval_without_and_ebusy_with_a_device(rig):
    client = rig()

    assert client.unset_container(0) == "EBUSY"
    client.close(client.devices[0])
    assert [client.unset_container(0), client.unset_container(0)] == [0, "EINVAL"]


def test_group_is_opened_once_and_stays_busy_until_its_last_device_is_closed(rig):
    client = rig()
    assert client.open_group(0) == "EBUSY"
    client.close(client.groups[0])
    client.close(client.container)

    assert client.open_group(0) == "EBUSY"
    client.close(client.devices[0])
    assert isinstance(client.open_group(0), int)
    assert status(client) == (8, 1)


def test_closing_the_group_leaves_the_container(rig):
    client = rig()
    client.map(0)
    client.close(client.devices[0])
    client.close(client.groups[0])

    assert client.map(PAGE) == "EINVAL"
    assert client.gauges() == {"groups": 0, "open": 1}


def test_device_fd_needs_name_then_container_then_backend(rig):
    client = rig("mdev mdev", type=0, joined=0)
    client.open_group(0)

    assert client.open_device(0, "name1") == "ENODEV"
    assert client.open_device(0) == "EINVAL"
    client.set_container(0)
    assert client.open_device(0) == "EINVAL"
    client.set_iommu(3)
    assert isinstance(client.open_device(0), int)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (b"", "ENODEV"),
        (b"name0 ", "ENODEV"),
        (b"name00", "ENODEV"),
        (b"\xff\xfe", "ENODEV"),
        (b"a" * 4095, "ENODEV"),
        (b"a" * 4096, "EINVAL"),
        (b"a" * 9000, "EINVAL"),
    ],
)
def test_device_name_is_compared_whole(rig, name, answer):
    client = rig()

    assert client.ioctl(client.groups[0], c.VFIO_GROUP_GET_DEVICE_FD, name + b"\0") == answer


def test_device_name_is_read_no_further_than_its_nul(rig):
    client = rig()
    end = client.argument + 0x10000

    assert isinstance(client.ioctl(client.groups[0], c.VFIO_GROUP_GET_DEVICE_FD, b"name0\0", end - 6), int)
    assert client.ioctl(client.groups[0], c.VFIO_GROUP_GET_DEVICE_FD, b"name0", end - 5) == "EFAULT"


def test_device_fds_share_one_device(rig):
    client = rig()
    second = client.open_device(0)
    client.close(second)

    assert client.unset_container(0) == "EBUSY"
    assert client.machine.devices["d0"].open_count == 1


def test_device_fd_without_a_free_fd_is_emfile_and_leaves_nothing(rig):
    client = rig()
    client.close(client.devices[0])
    while len(client.process.fds) < MAX_FDS - FIRST_FD:
        client.process.null()

    assert client.open_device(0) == "EMFILE"
    assert client.machine.devices["d0"].open_count == 0
    assert client.unset_container(0) == 0


def test_group_moves_to_another_container(rig):
    client = rig("mdev mdev")
    other = client.process.open("/dev/vfio/vfio").ret
    client.map(0)
    client.close(client.devices[0])
    client.unset_container(0)

    assert client.set_container(0, other) == 0
    assert client.gauges()["mappings"] == 1
    client.finish()


def test_unknown_ioctl_is_enotty_with_and_without_container(rig):
    client = rig(type=0)

    assert client.ioctl(client.groups[0], c.VFIO_IOMMU_MAP_DMA, 0) == "ENOTTY"


# --- devices come and go ---


def test_device_added_in_a_new_group_can_be_opened(rig):
    client = rig()
    device = client.machine.add_device(DeviceSpec(symbol="new", name="uuid", group=77, model="pinner"))
    client.open_group(device.group.number)
    client.set_container(device.group.number)

    assert isinstance(client.open_device(device.group.number, "uuid"), int)


def test_group_without_devices_has_no_node_and_its_file_is_enodev(rig):
    client = rig("mdev mdev", joined=1)
    client.open_group(1)
    client.machine.remove_device("d1")

    assert status(client, 1) == "ENODEV"
    assert client.set_container(1) == "ENODEV"
    assert client.process.open("/dev/vfio/1").err == "ENOENT"


def test_open_device_is_not_removed(rig):
    client = rig()

    with pytest.raises(IoctlError, match="EBUSY"):
        client.machine.remove_device("d0")


def test_last_device_of_a_group_in_a_container_is_not_removed(rig):
    client = rig("pci")
    client.close(client.devices[0])

    with pytest.raises(IoctlError, match="EBUSY"):
        client.machine.remove_device("d0")
    client.unset_container(0)
    client.machine.remove_device("d0")
    client.machine.add_device(DeviceSpec(symbol="d0", name="x", group=0, model="pinner"))
    assert client.machine.groups[0].spec.iommu is not None


@pytest.mark.parametrize(("symbol", "model"), [("d0", "pinner"), ("d9", "no-such")])
def test_device_that_cannot_be_made_is_refused(rig, symbol, model):
    machine = rig().machine
    before = set(machine.groups)

    with pytest.raises(ValueError, match=symbol):
        machine.add_device(DeviceSpec(symbol=symbol, name="x", group=77, model=model))
    assert set(machine.groups) == before


def test_parameter_applies_to_the_next_set_iommu(rig):
    client = rig("mdev mdev", joined=1)
    client.machine.set_parameter("dma_entry_limit", 1)

    assert [client.map(0), client.map(PAGE)] == [0, 0]
    client.leave(0)
    client.set_container(0)
    client.set_iommu(3)
    assert [client.map(0), client.map(PAGE)] == [0, "ENOSPC"]
    with pytest.raises(ValueError, match="32 bits"):
        client.machine.set_parameter("dma_entry_limit", 1 << 32)
    with pytest.raises(KeyError):
        client.machine.set_parameter("no_such", 1)
