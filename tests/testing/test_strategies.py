# SPDX-License-Identifier: MIT
"""Strategies: what they draw is what they say, and an emulated kernel survives it."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzzing.checks import allowed_errnos
from tests.releases import PROFILES
from vfioemu.testing import device, machine, strategies
from vfioemu.testing.files import errno_name
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS, lookup

POINTERS = [row for row in IOCTLS if row.argument == "pointer"]


@pytest.mark.parametrize("row", POINTERS, ids=lambda row: row.name)
@given(data=st.data())
def test_valid_arguments_are_long_enough(row, data):
    payload = data.draw(strategies.payloads(row.kind, row.name, "valid"))

    assert len(payload) >= row.minsz
    if row.payload is not None:
        assert struct.unpack_from("<I", payload)[0] >= row.minsz


@given(request=strategies.ioctl_requests(["container"], "valid"))
def test_valid_requests_are_of_the_registry(request):
    row = lookup(request.kind, request.number)

    assert (row.kind, row.name) == (FdKind.CONTAINER, request.name)


def test_machines_have_other_hardware_behind_all_that_has_an_iommu():
    wishes = ("vfio-pci", device("oracle", variant="basic", iommu=True), device("mtty"))
    widths = set()

    @given(strategies.machines(*wishes))
    def collect(kernel):
        pci, oracle, mdev = (group.iommu for group in kernel.core.spec.groups)
        assert pci == oracle
        assert mdev is None
        widths.add(pci.address_bits)

    collect()

    assert widths == {39, 48, 57}


def refusal(client, *call):
    """The errno with which a call is refused, or None."""
    try:
        client.ioctl(*call)
    except OSError as error:
        return errno_name(error.errno or 0)
    return None


@settings(max_examples=40)
@given(
    strategies.sequences(), strategies.machines(device("oracle", variant="migspc", iommu=True), "vfio-pci")
)
def test_any_sequence_on_any_kernel_gets_the_registrys_errnos(calls, kernel):
    client = kernel.client()
    devices = [client.open("dev0")]
    with contextlib.suppress(OSError):
        devices.append(client.open("dev1", devices[0].container))
    fds = {
        "container": [devices[0].container.fd],
        "group": [d.group for d in devices],
        "device": [d.fd for d in devices],
    }

    for call in calls:
        fd = fds[call.request.kind][call.fd % len(fds[call.request.kind])]
        if fd not in client.process.fds:
            continue
        flags = int.from_bytes(call.request.payload[4:8], "little")
        row = lookup(call.request.kind, call.request.number)
        argument = call.request.value if row is not None and row.argument == "value" else call.request.payload
        profile = PROFILES[kernel.core.spec.profile]
        allowed = allowed_errnos(profile, call.request.kind, call.request.number, flags)
        assert refusal(client, fd, call.request.number, argument) in {*allowed, None}

    client.exit()
    assert kernel.held() == {}


@given(strategies.mappings())
def test_mappings_are_apart(ranges):
    kernel = machine(device("oracle", iommu=False))
    container = kernel.client().open("dev0").container

    for iova, size in ranges:
        container.map(iova, size)


def test_ioctls_of_other_fds_are_refused():
    with pytest.raises(KeyError):
        strategies.payloads("group", "VFIO_IOMMU_MAP_DMA")
    with pytest.raises(ValueError, match="dmabuf"):
        strategies.ioctl_requests(["dmabuf"])
