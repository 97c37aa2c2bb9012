# SPDX-License-Identifier: MIT
"""Groups that join a container with mappings, and what their leaving does."""

import pytest

from tests.releases import every_release, name

PAGE = 4096


def hot_add(client, n=1):
    client.open_group(n)
    return client.set_container(n)


@pytest.mark.parametrize(
    ("group", "iova", "answer"),
    [
        ("pci", 0xFEE00000, "EINVAL"),
        ("pci", 0xFEDFF000, 0),
        ("pci", 1 << 48, "too narrow"),
        ("pci", (1 << 48) - PAGE, 0),
        ("narrow-pci", 1 << 39, "too narrow"),
        ("narrow-pci", (1 << 39) - PAGE, 0),
        ("shared-msi", 0, "EPERM"),
    ],
)
@every_release
def test_hardware_must_fit_the_mappings(rig, profile, group, iova, answer):
    client = rig(f"mdev {group}", joined=1, profile=profile.name)
    client.map(iova)
    if answer == "too narrow":
        answer = name(profile.beyond_width_errno)

    assert hot_add(client) == answer
    assert client.gauges()["groups"] == (2 if answer == 0 else 1)
    assert client.process.locked_pages == (answer == 0)
    client.finish()


def test_narrower_hardware_beside_wider_is_einval(rig):
    client = rig("pci narrow-pci", joined=1)
    client.map(1 << 40)

    assert hot_add(client) == "EINVAL"
    client.unmap(1 << 40)
    assert client.set_container(1) == 0
    assert client.map(1 << 40) == "EINVAL"


@pytest.mark.parametrize(
    ("protection", "flags", "answer"), [("r", 3, "EFAULT"), ("r", 1, 0), ("none", 1, "EFAULT")]
)
def test_hardware_pins_what_was_mapped_before(rig, protection, flags, answer):
    client = rig("mdev pci", joined=1)
    client.memory.protect(client.data, PAGE, protection)
    client.map(0, flags=flags)

    assert hot_add(client) == answer


def test_second_hardware_group_joins_the_domain_and_pins_nothing(rig):
    client = rig("pci pci", joined=1)
    client.map(0, 4 * PAGE)
    client.memory.unmap(client.data, 1 << 20)

    assert hot_add(client) == 0
    assert client.process.locked_pages == 4
    client.leave(0)
    assert client.process.locked_pages == 4
    assert client.gauges()["mappings"] == 1


def test_mappings_stay_with_an_mdev_and_go_with_the_last_group(rig):
    client = rig("mdev pci")
    client.map(0, 4 * PAGE)
    client.leave(1)
    assert (client.gauges()["mappings"], client.process.locked_pages) == (1, 0)
    client.leave(0)

    assert client.gauges() == {"groups": 0, "open": 1}
    assert client.map(0) == "EINVAL"


def test_mappings_go_when_the_last_hardware_group_goes_without_mdevs(rig):
    client = rig("pci")
    client.map(0)
    client.leave(0)

    assert client.set_container(0) == 0
    assert client.set_iommu(1) == 0
    assert client.gauges()["mappings"] == 0


def test_hardware_group_that_left_is_welcome_again(rig):
    client = rig("mdev pci")
    client.map(0)
    client.leave(1)
    client.map(0xFEE00000)

    assert client.set_container(1) == "EINVAL"
    client.unmap(0xFEE00000)
    client.map(1 << 50)
    assert (
        client.set_container(1) == "EFAULT"
    )  # the range is [0, 2^64) by now, and the lookup behind it ends at 0
    client.unmap(1 << 50)
    assert client.set_container(1) == 0
    client.finish()


def test_mapping_up_to_2_to_the_64_is_not_replayed(rig):
    client = rig("mdev pci", joined=1)
    client.map((1 << 64) - PAGE, vaddr=0)

    assert hot_add(client) == 0
    assert client.process.locked_pages == 0
    client.finish()
