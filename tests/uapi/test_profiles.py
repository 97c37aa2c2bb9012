# SPDX-License-Identifier: MIT
"""The list of kernel releases, and what is said about a file that does not belong to it."""

from dataclasses import replace

import pytest

from tests.releases import DEFAULT, PROFILES
from vfioemu.uapi import constants, profiles, releases
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import UNKNOWN_ERRNOS

HEAD = "from vfioemu.uapi.profiles import DEFAULT\nfrom dataclasses import replace\n"


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Add a module of a release with this text."""
    monkeypatch.setattr(releases, "__path__", [*releases.__path__, str(tmp_path)])

    def add(module, text):
        (tmp_path / f"{module}.py").write_text(text)

    return add


def test_releases_are_ordered_by_their_numbers(added):
    for module in ("linux_10_0", "linux_6_2"):
        added(module, "")

    assert releases.names() == ["linux-6.2", *PROFILES, "linux-10.0"]


@pytest.mark.parametrize(
    ("module", "text", "why"),
    [
        ("linux_8_1", "PROFILE = 1", "has no PROFILE"),
        ("linux_8_2", "", "has no PROFILE"),
        ("linux_8_3", HEAD + "PROFILE = replace(DEFAULT, name='linux-8.4')", "'linux-8.4', not 'linux-8.3'"),
    ],
)
def test_a_file_that_is_no_release_is_told_so(added, module, text, why):
    added(module, text)

    with pytest.raises(ValueError, match=why):
        profiles.load(module.replace("_", "-", 1).replace("_", "."))


def test_what_no_row_describes_cannot_be_missing():
    with pytest.raises(ValueError, match=r"linux-0\.1: VFIO_MAP: no ioctl or feature of the registry"):
        replace(DEFAULT, name="linux-0.1", absent=frozenset({"VFIO_MAP", "VFIO_IOMMU_MAP_DMA"}))


def test_an_ioctl_that_is_missing_is_an_unknown_number_on_fds_of_its_kind():
    number = constants.VFIO_IOMMU_MAP_DMA  # VFIO_DEVICE_PCI_HOT_RESET on a device
    profile = replace(DEFAULT, name="linux-0.1", absent=DEFAULT.absent | {"VFIO_IOMMU_MAP_DMA"})

    assert profile.lookup(FdKind.CONTAINER, number) is None
    assert profile.errnos(FdKind.CONTAINER, number) == UNKNOWN_ERRNOS[FdKind.CONTAINER]
    assert profile.lookup(FdKind.DEVICE, number) is DEFAULT.lookup(FdKind.DEVICE, number)
    assert profile.errnos(FdKind.DEVICE, number) == DEFAULT.errnos(FdKind.DEVICE, number)
