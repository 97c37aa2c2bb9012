# SPDX-License-Identifier: MIT
"""Hot resets: a bus is listed, and reset as a whole."""

import struct

from tests.devices.pci.rigs import Recorder, RecorderCard
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.pci import (
    VfioPci,
)
from vfioemu.devices.registry import load_models
from vfioemu.testing.bench import Bench
from vfioemu.testing.process import Process
from vfioemu.uapi import constants as c

PAGE = 4096


class Resettable(RecorderCard):
    """Counts its resets."""

    count = 0

    def reset_function(self):
        self.count += 1


PLACES = {
    "a": ("0000:02:01.0", 10),
    "b": ("0000:02:02.0", 10),
    "other": ("0000:02:03.0", 11),
    "root": ("0000:00:04.0", 12),
}


def card_of(device):
    return device.model.hardware


class Lab:
    """Four functions, three of them on one bus, in a container."""

    def __init__(self, *symbols):
        spec = MachineSpec(
            groups=tuple(GroupSpec(number=n, iommu=IommuSpec()) for n in (10, 11, 12)),
            devices=tuple(
                DeviceSpec(symbol=s, name=PLACES[s][0], group=PLACES[s][1], model="counted") for s in symbols
            ),
        )
        self.machine = Machine(spec, load_models({"counted": lambda options: VfioPci(options, Resettable())}))
        self.process = Process(self.machine)
        self.page = self.process.memory.allocate(PAGE)
        self.container = self.process.open("/dev/vfio/vfio").ret
        self.groups = {}
        for number in sorted({PLACES[s][1] for s in symbols}):
            self.groups[number] = self.process.open(f"/dev/vfio/{number}").ret
            assert (
                self.ask(
                    self.groups[number], c.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", self.container)
                ).ret
                == 0
            )
        assert self.process.ioctl(self.container, c.VFIO_SET_IOMMU, 3).ret == 0
        self.fds = {}
        for symbol in symbols:
            name, group = PLACES[symbol]
            self.fds[symbol] = self.ask(
                self.groups[group], c.VFIO_GROUP_GET_DEVICE_FD, name.encode() + b"\0"
            ).ret

    def ask(self, fd, cmd, payload):
        self.process.memory.write(self.page, payload)
        return self.process.ioctl(fd, cmd, self.page)

    def hot_reset(self, symbol, *fds):
        payload = struct.pack("<3I", 12 + 4 * len(fds), 0, len(fds)) + struct.pack(f"<{len(fds)}i", *fds)
        return self.ask(self.fds[symbol], c.VFIO_DEVICE_PCI_HOT_RESET, payload).err

    def counts(self):
        return [card_of(self.machine.devices[symbol]).count for symbol in self.fds]


def test_a_hot_reset_lists_and_hits_the_whole_bus():
    lab = Lab("b", "a", "other")
    info = struct.pack("<3I", 100, 7, 0)
    assert lab.ask(lab.fds["a"], c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info).ret == 0
    assert lab.process.memory.read(lab.page, 36) == struct.pack("<3I", 100, 0, 3) + b"".join(
        struct.pack("<IHBB", group, 0, 2, devfn) for group, devfn in ((10, 8), (10, 16), (11, 24))
    )

    before = lab.counts()
    assert lab.hot_reset("a", lab.groups[10]) == "EINVAL"  # not all groups
    assert lab.counts() == before
    assert lab.hot_reset("a", lab.groups[10], lab.groups[11]) is None
    assert lab.counts() == [count + 1 for count in before]


def test_hot_resets_that_are_refused():
    lab = Lab("a", "root")
    group = lab.groups[10]

    assert (
        lab.ask(lab.fds["root"], c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, struct.pack("<3I", 12, 0, 0)).err
        == "ENODEV"
    )
    assert lab.hot_reset("root", lab.groups[12]) == "ENODEV"
    assert lab.hot_reset("a") == "EINVAL"
    assert lab.hot_reset("a", group, group) == "EINVAL"
    assert lab.hot_reset("a", 999) == "EBADF"
    assert lab.hot_reset("a", lab.container) == "EINVAL"
    assert lab.hot_reset("a", lab.process.eventfd()) == "EINVAL"
    assert lab.hot_reset("a", lab.process.null()) == "EINVAL"
    assert (
        lab.ask(lab.fds["a"], c.VFIO_DEVICE_PCI_HOT_RESET, struct.pack("<3Ii", 16, 1, 1, group)).err
        == "EINVAL"
    )


def test_a_function_that_is_no_pci_function_has_no_bus():
    bench = Bench(Recorder())

    for cmd in (c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, c.VFIO_DEVICE_PCI_HOT_RESET, c.VFIO_DEVICE_IOEVENTFD):
        assert bench.ioctl(cmd, bytes(64)).err == "ENOTTY"
