# SPDX-License-Identifier: MIT
"""The registry: complete, unambiguous, and wide enough for everything a real kernel was seen to answer."""

import errno
import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.releases import PROFILES, every_release
from vfioemu.uapi import constants
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import FEATURES, IOCTLS, UNSERVED, lookup

PROTOCOL = Path(__file__).parents[2] / "protocol"
GOLDEN = PROTOCOL / "golden"
NOT_X86 = {"VFIO_EEH_PE_OP"}  # and everything of sPAPR


def names_of_the_headers():
    """All constants of <linux/vfio.h>, of all releases for which a compiler was asked."""
    found = {}
    for file in sorted((PROTOCOL / "uapi").glob("linux-*.json")):
        found |= json.loads(file.read_text())["headers"]["vfio.h"]["constants"]
    return found


def test_lookup_finds_each_row_by_kind_and_number():
    for row in IOCTLS:
        assert lookup(row.kind, row.number) is row
    served = {(row.kind, row.number) for row in IOCTLS}
    unserved = {(row.kind, row.number) for row in UNSERVED}
    assert len(served | unserved) == len(IOCTLS) + len(UNSERVED)


def test_lookup_of_a_number_of_another_kind_finds_another_row_or_none():
    assert lookup(FdKind.CONTAINER, 0x3B75).name == "VFIO_IOMMU_DIRTY_PAGES"
    assert lookup(FdKind.DEVICE, 0x3B75).name == "VFIO_DEVICE_FEATURE"
    assert lookup(FdKind.GROUP, 0x3B75) is None
    assert lookup(FdKind.DATA, 0x3B75) is None


def test_every_ioctl_of_the_headers_is_served_or_named_as_unserved():
    measured = names_of_the_headers()
    calls = {
        name
        for name, value in measured.items()
        if value >> 8 == constants.VFIO_TYPE and "SPAPR" not in name and name not in NOT_X86
    }

    assert {row.name for row in IOCTLS} | {row.name for row in UNSERVED} == calls


def test_every_feature_of_the_headers_has_a_row():
    measured = names_of_the_headers()
    other = {"MASK", "GET", "SET", "PROBE", "CLEAR_MASTER", "SET_MASTER"}
    prefix = "VFIO_DEVICE_FEATURE_"
    names = {name.removeprefix(prefix): value for name, value in measured.items() if name.startswith(prefix)}

    assert {row.name: row.number for row in FEATURES.values()} == {
        name: value for name, value in names.items() if name not in other
    }


def test_every_errno_has_a_number_here():
    for errnos in [row.errnos for row in IOCTLS] + [feature.errnos for feature in FEATURES.values()]:
        assert errnos <= set(errno.errorcode.values())


@every_release
def test_feature_errnos_are_the_calls_errnos(profile):
    for feature in FEATURES.values():
        if profile.has(feature.c_name):
            assert feature.errnos <= profile.errnos(FdKind.DEVICE, constants.VFIO_DEVICE_FEATURE)


def test_minsz_is_within_the_payload():
    for row in IOCTLS:
        if row.payload is not None:
            assert 8 <= row.minsz <= row.payload.SIZE
        assert (row.argument == "pointer") == (row.minsz > 0)


def recorded(release):
    """(kind, number) -> errno names, from every recorded step on an fd that was open."""
    numbers = json.loads((GOLDEN / release / "_env.json").read_text())["ioctls"]
    seen = defaultdict(set)
    for file in sorted((GOLDEN / release).glob("*.jsonl")):
        for line in file.read_text().splitlines():
            scenario = json.loads(line)
            for step in scenario["steps"]:
                if step["op"] not in ("ioctl", "ioctlv", "getdev") or "err" not in step:
                    continue
                fd = step["group"] if step["op"] == "getdev" else step["fd"]
                if fd not in scenario["fds"]:
                    assert step["err"] == "EBADF", step  # a name that is never opened
                    continue
                command = step.get("cmd", "VFIO_GROUP_GET_DEVICE_FD")
                number = int(command[1:], 16) if command.startswith("#") else numbers[command]
                seen[FdKind(scenario["fds"][fd].split(":")[0]), number].add(step["err"])
    return seen


@pytest.mark.parametrize("release", sorted(folder.name for folder in GOLDEN.glob("linux-*")))
def test_every_recorded_errno_is_listed(release):
    seen = recorded(release)
    errnos = PROFILES[release].errnos

    # EBADF is the VFS's answer for a closed fd, before any handler
    missing = {
        (kind, hex(number)): sorted(names - errnos(kind, number) - {"EBADF"})
        for (kind, number), names in seen.items()
    }

    assert seen[FdKind.CONTAINER, constants.VFIO_IOMMU_DIRTY_PAGES] >= {"EACCES", "EFAULT", "EINVAL"}
    assert {key: names for key, names in missing.items() if names} == {}
