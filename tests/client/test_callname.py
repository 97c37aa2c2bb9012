# SPDX-License-Identifier: MIT
"""The names of calls that failed."""

import errno

import pytest

from vfioemu.client import callname
from vfioemu.uapi import constants as c
from vfioemu.uapi import registry
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.structs import DeviceFeature


@pytest.mark.parametrize("row", registry.IOCTLS, ids=lambda row: f"{row.kind}-{row.name}")
def test_every_ioctl_has_the_name_of_the_registry(row):
    assert callname.of_ioctl(row.kind, row.number) == row.name


def test_number_that_is_no_ioctl_is_told_as_it_is():
    assert callname.of_ioctl(FdKind.GROUP, 0xDEAD) == "ioctl 0xdead"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (
            c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | c.VFIO_DEVICE_FEATURE_SET,
            "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
        ),
        (
            c.VFIO_DEVICE_FEATURE_PROBE | c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
            "VFIO_DEVICE_FEATURE_DMA_LOGGING_START",
        ),
        (0xFFFF, "VFIO_DEVICE_FEATURE"),
    ],
)
def test_feature_is_told_by_its_name(flags, name):
    argument = DeviceFeature(argsz=8, flags=flags).build()
    assert callname.of_ioctl(FdKind.DEVICE, c.VFIO_DEVICE_FEATURE, argument) == name
    assert callname.of_ioctl(FdKind.DEVICE, c.VFIO_DEVICE_FEATURE, argument[:7]) == "VFIO_DEVICE_FEATURE"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("VFIO_DEVICE_RESET", "VFIO_DEVICE_RESET"),
        ("MIG_DEVICE_STATE STOP_COPY", "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"),
        ("DIRTY_PAGES GET_BITMAP", "VFIO_IOMMU_DIRTY_PAGES"),
        ("a read of the device's state", "read"),
        ("a write of config space", "write"),
        ("the open of a container", None),
        ("a", None),
        ("", None),
    ],
)
def test_call_is_found_in_words(words, name):
    assert callname.in_words(words) == name


def test_error_knows_its_call_and_stays_what_it_is():
    error = OSError(errno.ENOENT, "nothing")
    assert callname.name_of_failed(error) is None
    assert callname.name_failed(error, "read") is error
    assert isinstance(error, FileNotFoundError)
    assert callname.name_of_failed(error) == "read"
