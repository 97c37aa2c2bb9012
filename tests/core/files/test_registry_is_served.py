# SPDX-License-Identifier: MIT
"""What the registry and the support matrix promise, asked of the core."""

import pytest

from tests.releases import DEFAULT, every_release
from vfioemu.conformance.answers import extensions
from vfioemu.core import type1
from vfioemu.core.files import container, data, device, group
from vfioemu.core.machine import Machine
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.pci.vfio_pci.dmabuf import DmaBuf
from vfioemu.devices.registry import load_models
from vfioemu.testing.files import OpenFile
from vfioemu.testing.process import Process
from vfioemu.uapi import constants
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.registry import IOCTLS

NULL = 0
PAGE = 4096
PCI_ONLY = {"VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", "VFIO_DEVICE_PCI_HOT_RESET", "VFIO_DEVICE_IOEVENTFD"}


def machine(profile):
    spec = MachineSpec(
        profile=profile.name,
        groups=(GroupSpec(number=1),),
        devices=(DeviceSpec(symbol="d", name="d", group=1, model="oracle", options={"variant": "migspc"}),),
    )
    return Machine(spec, load_models())


class Client:
    """A process with one fd of each kind; `iommu` 0 leaves the container without one."""

    def __init__(self, profile=DEFAULT, iommu=constants.VFIO_TYPE1v2_IOMMU):
        self.process = Process(machine(profile))
        self.page = self.process.memory.allocate(PAGE)
        self.fds = {
            FdKind.CONTAINER: self.process.open("/dev/vfio/vfio").ret,
            FdKind.GROUP: self.process.open("/dev/vfio/1").ret,
        }
        self.put(self.fds[FdKind.CONTAINER].to_bytes(4, "little"))
        assert self(FdKind.GROUP, constants.VFIO_GROUP_SET_CONTAINER).ret == 0
        if iommu:
            assert self(FdKind.CONTAINER, constants.VFIO_SET_IOMMU, iommu).ret == 0
            self.put(b"d\0")
            self.fds[FdKind.DEVICE] = self(FdKind.GROUP, constants.VFIO_GROUP_GET_DEVICE_FD).ret
            flags = constants.VFIO_DEVICE_FEATURE_SET | constants.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
            state = (16, flags, constants.VFIO_DEVICE_STATE_PRE_COPY, 0)
            self.put(b"".join(word.to_bytes(4, "little") for word in state))
            assert self(FdKind.DEVICE, constants.VFIO_DEVICE_FEATURE).ret == 0
            data_fd = self.process.memory.peek(self.page + 12, 4)
            self.fds[FdKind.DATA] = int.from_bytes(data_fd, "little")
            self.fds[FdKind.DMA_BUF] = self.process.install(OpenFile(DmaBuf(2)))

    def put(self, data):
        self.process.memory.poke(self.page, data)

    def __call__(self, kind, number, arg=None):
        return self.process.ioctl(self.fds[kind], number, self.page if arg is None else arg)


TABLES = {
    FdKind.CONTAINER: {*container.TABLE, *type1.TABLE},
    FdKind.GROUP: {*group.TABLE},
    FdKind.DEVICE: {*device.TABLE},
    FdKind.DATA: {*data.TABLE},
    FdKind.DMA_BUF: set(),
}
"""What serves the ioctls of each kind of fd."""


@pytest.mark.parametrize("kind", FdKind)
def test_the_tables_serve_what_the_registry_lists_and_nothing_else(kind):
    assert TABLES[kind] == {row.number for row in IOCTLS if row.kind is kind}


def test_no_ioctl_is_both_the_containers_own_and_its_backends():
    assert not container.TABLE.keys() & type1.TABLE.keys()


@pytest.mark.parametrize("row", IOCTLS, ids=lambda row: row.name)
def test_a_call_with_a_pointer_faults_on_null(row):
    if row.argument != "pointer":
        return
    client = Client()

    result = client(row.kind, row.number, NULL)

    assert result.err == ("ENOTTY" if row.name in PCI_ONLY else "EFAULT")


@pytest.mark.parametrize("row", IOCTLS, ids=lambda row: row.name)
@every_release
def test_a_call_with_zeroes_fails_as_listed(profile, row):
    client = Client(profile)
    client.put(bytes(PAGE))

    result = client(row.kind, row.number)

    assert result.ret >= 0 or result.err in profile.errnos(row.kind, row.number)


@pytest.mark.parametrize("kind", FdKind)
@every_release
def test_numbers_in_no_row_fail_as_listed(profile, kind):
    client = Client(profile)

    for number in range(0x3B60, 0x3B90):
        if profile.lookup(kind, number) is None:
            assert client(kind, number).err in profile.errnos(kind, number)


@pytest.mark.parametrize("at", range(len(extensions(DEFAULT))), ids=lambda at: extensions(DEFAULT)[at][0])
@every_release
def test_extensions_answer_as_the_support_matrix_says(profile, at):
    name, before, after, as_type = extensions(profile)[at]
    number = getattr(constants, name)
    bare = Client(profile, iommu=0)
    ready = Client(profile)

    def promised(text):
        """The container has an emulated group, and no IOMMU."""
        return {"0": 0, "1": 1}.get(text[:1], text)

    assert bare(FdKind.CONTAINER, constants.VFIO_CHECK_EXTENSION, number).ret == promised(before)
    expected = 0 if "emulated" in after else promised(after)
    assert ready(FdKind.CONTAINER, constants.VFIO_CHECK_EXTENSION, number).ret == expected
    result = bare(FdKind.CONTAINER, constants.VFIO_SET_IOMMU, number)
    wanted = promised(as_type)
    assert (result.err or "yes") == wanted.partition(",")[0]
