# SPDX-License-Identifier: MIT
"""The container fd: extensions, SET_IOMMU, GET_INFO, and what comes before SET_IOMMU."""

import struct

import pytest

from tests.releases import DEFAULT, differing, every_release
from vfioemu.uapi import constants as c

PAGE = 4096
MIGRATION = struct.pack("<HHIIIQQ", 2, 1, 56, 0, 0, PAGE, 1 << 28)


def info(client, argsz, size=256):
    """GET_INFO in a field of canaries: the answer and the bytes."""
    client.memory.poke(client.argument, b"\xcc" * size)
    answer = client.ioctl(client.container, c.VFIO_IOMMU_GET_INFO, struct.pack("<I", argsz))
    return answer, client.out(size)


def test_api_version_is_0_whatever_the_argument(rig):
    client = rig(type=0)

    assert client.ioctl(client.container, c.VFIO_GET_API_VERSION, (1 << 64) - 1) == 0


@every_release
def test_extensions_without_backend(rig, profile):
    client = rig(type=0, profile=profile.name)

    expected = {1, 3, 9} | ({c.VFIO_TYPE1_NESTING_IOMMU} if profile.nesting else set())
    assert {n for n in [*range(20), 1 << 32, (1 << 32) + 1] if client.extension(n)} == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("mdev", {1, 3, 4, 6, 9}),
        ("pci", {1, 3, 6, 9, 10}),
        ("mdev pci", {1, 3, 6, 9}),
        ("coherent-pci", {1, 3, 4, 6, 9, 10}),
        ("coherent-pci pci", {1, 3, 6, 9, 10}),
    ],
)
def test_extensions_with_backend(rig, groups, expected):
    assert {n for n in range(20) if rig(groups).extension(n)} == expected


@pytest.mark.parametrize("cmd", [c.VFIO_IOMMU_GET_INFO, c.VFIO_IOMMU_MAP_DMA, c.VFIO_IOMMU_ENABLE, 0x3BFF, 0])
def test_anything_before_set_iommu_is_einval_and_unread(rig, cmd):
    client = rig(type=0)

    assert client.ioctl(client.container, cmd, 0) == "EINVAL"


@pytest.mark.parametrize(
    "cmd", [c.VFIO_IOMMU_ENABLE, c.VFIO_IOMMU_DISABLE, 0x3BFF, 0, c.VFIO_GROUP_GET_STATUS]
)
def test_unknown_after_set_iommu_is_enotty(rig, cmd):
    client = rig()

    assert client.ioctl(client.container, cmd, 0) == "ENOTTY"


def test_set_iommu_without_a_group_is_einval(rig):
    client = rig(type=0, joined=0)

    assert [client.set_iommu(n) for n in (1, 3, 0, 99)] == ["EINVAL"] * 4


@pytest.mark.parametrize("type_", [0, 2, 4, 5, 7, 8, 10, 11, 99, (1 << 32) + 3])
def test_set_iommu_of_no_type_is_enodev(rig, type_):
    client = rig(type=0)

    assert client.set_iommu(type_) == "ENODEV"
    assert client.set_iommu(3) == 0


def test_set_iommu_of_an_extension_that_is_no_type_is_einval(rig):
    assert rig(type=0).set_iommu(c.VFIO_UNMAP_ALL) == "EINVAL"


def test_set_iommu_twice_is_einval(rig):
    client = rig()

    assert [client.set_iommu(3), client.set_iommu(1)] == ["EINVAL", "EINVAL"]


@pytest.mark.parametrize(("groups", "expected"), [("mdev", 0), ("pci", "EINVAL"), ("mdev pci", "EINVAL")])
@every_release
def test_set_iommu_nesting(rig, profile, groups, expected):
    client = rig(groups, type=0, profile=profile.name)
    expected = expected if profile.nesting else "ENODEV"

    assert client.set_iommu(c.VFIO_TYPE1_NESTING_IOMMU) == expected
    assert client.set_iommu(3) == (0 if expected else "EINVAL")


def test_set_iommu_of_a_group_without_isolated_msis_is_eperm(rig):
    client = rig("mdev shared-msi", type=0)

    assert client.set_iommu(3) == "EPERM"
    assert client.extension(c.VFIO_DMA_CC_IOMMU) == 0


# --- GET_INFO ---


@pytest.mark.parametrize("argsz", [0, 4, 15])
def test_info_with_argsz_below_16_is_einval(rig, argsz):
    assert info(rig(), argsz)[0] == "EINVAL"


@pytest.mark.parametrize("argsz", range(16, 72))
def test_info_too_small_for_the_chain_says_how_much_it_needs(rig, argsz):
    answer, out = info(rig(), argsz)

    whole = struct.pack("<IIQII", 72, 3, 0xFFFFFFFFFFFFF000, 0, 0)
    written = min(argsz, 24)
    assert answer == 0
    assert out == whole[:written] + b"\xcc" * (256 - written)


def test_info_of_an_mdev_container(rig):
    answer, out = info(rig(dma_entry_limit=7), 72)

    head = struct.pack("<IIQII", 72, 3, 0xFFFFFFFFFFFFF000, 24, 0)
    avail = struct.pack("<HHIII", 3, 1, 0, 7, 0)
    assert answer == 0
    assert out[:80] == head + MIGRATION + avail + b"\xcc" * 8


def test_info_of_a_hardware_container_echoes_a_large_argsz(rig):
    answer, out = info(rig("pci"), 4096)

    head = struct.pack("<IIQII", 4096, 3, 0x40201000, 24, 0)
    avail = struct.pack("<HHIII", 3, 1, 72, 65535, 0)
    ranges = struct.pack("<HHIII4Q", 1, 1, 0, 2, 0, 0, 0xFEDFFFFF, 0xFEF00000, (1 << 48) - 1)
    assert answer == 0
    assert out == (head + MIGRATION + avail + ranges).ljust(256, b"\xcc")


def test_info_after_the_last_hardware_group_has_left_keeps_one_full_range(rig):
    client = rig("mdev pci")
    client.leave(1)

    _, out = info(client, 256)
    assert out[8:16] == struct.pack("<Q", 0xFFFFFFFFFFFFF000)
    assert out[72:104] == struct.pack("<HHIIIQQ", 1, 1, 0, 1, 0, 0, (1 << 64) - 1)


def test_info_of_two_widths_is_what_both_can(rig):
    client = rig("pci narrow-pci")

    _, out = info(client, 256)
    assert out[72:120] == struct.pack("<HHIII4Q", 1, 1, 0, 2, 0, 0, 0xFEDFFFFF, 0xFEF00000, (1 << 39) - 1)
    client.leave(1)
    _, out = info(client, 256)
    assert out[112:120] == struct.pack("<Q", (1 << 48) - 1)


def test_info_into_unwritable_memory_is_efault(rig):
    client = rig()
    client.memory.poke(client.argument, struct.pack("<I", 72))
    client.memory.protect(client.argument, PAGE, "r")

    assert client.ioctl(client.container, c.VFIO_IOMMU_GET_INFO, client.argument) == "EFAULT"
    assert client.ioctl(client.container, c.VFIO_IOMMU_GET_INFO, 0) == "EFAULT"


# --- files ---


def test_container_outlives_its_fd_while_groups_are_in_it(rig):
    client = rig()
    client.map(0)
    client.close(client.container)

    assert client.pin(0) == 1
    client.finish()


def test_read_and_write_are_einval_and_mmap_is_enodev(rig):
    client = rig()
    for fd in (client.container, client.groups[0]):
        assert client.process.read(fd, client.data, 8).err == "EINVAL"
        assert client.process.write(fd, client.data, 8).err == "EINVAL"
        assert client.process.mmap(fd, PAGE, "rw", 0).err == "ENODEV"
        assert client.process.poll(fd) == 5


@pytest.mark.parametrize(
    "path", ["/dev/vfio/9", "/dev/vfio/", "/dev/vfio", "/dev/vfio/00", "/dev/vfio/0x0", "0", "/dev/vfio/-1"]
)
def test_open_of_no_node_is_enoent(rig, path):
    assert rig().process.open(path).err == "ENOENT"


# --- options of one container ---


def test_a_container_can_answer_as_another_kernel_than_the_machine(rig):
    client = rig(type=0)
    profile = differing("nesting")
    other = client.process.open(f"/dev/vfio/vfio,profile={profile.name},manual-clear=fixed").ret

    assert client.extension(c.VFIO_TYPE1_NESTING_IOMMU) == 1
    assert client.ioctl(other, c.VFIO_CHECK_EXTENSION, c.VFIO_TYPE1_NESTING_IOMMU) == 0
    assert client.set_container(0, other) == "EINVAL"  # it is in the first one
    assert client.unset_container(0) == 0
    assert client.set_container(0, other) == 0
    assert client.ioctl(other, c.VFIO_SET_IOMMU, 6) == "ENODEV"
    assert client.ioctl(other, c.VFIO_SET_IOMMU, 3) == 0
    assert client.ioctl(other, c.VFIO_CHECK_EXTENSION, 11) == 1
    assert client.open_device(0) > 0
    assert client.machine.devices["d0"].profile is profile


def test_a_device_answers_as_its_container_or_else_as_the_machine(rig):
    machines = differing("nesting")
    client = rig(type=0, profile=machines.name)
    device = client.machine.devices["d0"]
    other = client.process.open(f"/dev/vfio/vfio,profile={DEFAULT.name}").ret

    assert device.profile is machines
    assert client.unset_container(0) == 0
    assert device.profile is machines
    assert client.set_container(0, other) == 0
    assert device.profile is DEFAULT  # before it has an IOMMU
    assert client.ioctl(other, c.VFIO_SET_IOMMU, 3) == 0
    assert device.profile is DEFAULT


@pytest.mark.parametrize(
    "options",
    ["", "profile", "profile=", "profile=linux-6.12,profile=linux-6.12", "colour=red", "quirks=none"],
)
def test_options_that_there_are_not_are_einval(rig, options):
    assert rig(type=0).process.open(f"/dev/vfio/vfio,{options}").err == "EINVAL"
