# SPDX-License-Identifier: MIT
"""The reset of a bus when its last function is closed: vfio_pci_dev_set_try_reset()."""

import pytest

from vfioemu.devices.pci import VfioPci
from vfioemu.testing import device, machine
from vfioemu.uapi import constants as c

LIVENESS = 4
ONES = b"\xff\xff\xff\xff"
POWER_ON = bytes(4)


class Rig:
    """Functions by their addresses, each with a client of its own."""

    def __init__(self, *functions):
        wishes = (device(model, name=name, **options) for model, name, options in functions)
        self.kernel = machine(*wishes)
        self.names = {f"dev{i}": name for i, (_, name, _) in enumerate(functions)}

    def open(self, symbol):
        client = self.kernel.client()
        handle = client.open(symbol)
        handle.write(7, 4, b"\x06\0")
        return client, handle

    def close(self, opened):
        opened[0].process.exit()

    def hardware(self, symbol):
        model = self.kernel.core.devices[symbol].model
        assert isinstance(model, VfioPci)
        return model.hardware


def write(opened):
    opened[1].write(0, LIVENESS, POWER_ON)
    assert opened[1].read(0, LIVENESS, 4) == ONES


def reads(opened):
    return opened[1].read(0, LIVENESS, 4)


@pytest.mark.parametrize(
    ("name", "left"),
    [("0000:02:01.0", POWER_ON), ("0000:00:05.0", ONES), ("0001:00:05.0", ONES), ("0001:03:00.0", POWER_ON)],
)
def test_registers_persist_on_the_root_bus_only(name, left):
    rig = Rig(("edu", name, {}))
    first = rig.open("dev0")
    write(first)
    rig.close(first)
    assert reads(rig.open("dev0")) == left


def test_the_bus_waits_for_its_last_function():
    rig = Rig(*(("edu", f"0000:02:0{i}.0", {}) for i in range(3)))
    one, two = rig.open("dev0"), rig.open("dev1")
    write(one)
    write(two)
    rig.close(one)
    assert reads(two) == ONES
    one = rig.open("dev0")
    assert reads(one) == ONES  # nothing was reset
    rig.close(one)
    rig.close(two)
    assert reads(rig.open("dev0")) == reads(rig.open("dev1")) == POWER_ON


def test_other_buses_do_not_count():
    rig = Rig(("edu", "0000:02:01.0", {}), ("edu", "0000:03:01.0", {}), ("edu", "0001:02:01.0", {}))
    one, two, three = (rig.open(f"dev{i}") for i in range(3))
    for opened in (one, two, three):
        write(opened)
    rig.close(one)
    assert reads(two) == reads(three) == ONES
    assert reads(rig.open("dev0")) == POWER_ON


def test_a_function_that_can_reset_itself_needs_no_reset_of_the_bus():
    rig = Rig(("vfio-pci", "0000:02:01.0", {"reset": True}), ("edu", "0000:02:02.0", {}))
    resets = []
    inner = rig.hardware("dev1")
    inner.reset_function = lambda: resets.append(1)
    opened = rig.open("dev0")
    rig.close(opened)
    assert not resets  # dev1 has not been used, dev0 was reset by itself
    other = rig.open("dev1")
    rig.close(other)
    assert resets == [1]
    opened = rig.open("dev0")
    rig.close(opened)
    assert resets == [1]


def test_a_hot_reset_does_as_well():
    rig = Rig(("edu", "0000:02:01.0", {}))
    one = rig.open("dev0")
    write(one)
    model = rig.kernel.core.devices["dev0"].model
    rig.close(one)
    assert not model.needs_reset


def test_no_open_of_another_fd_is_a_last_close():
    rig = Rig(("pci-testdev", "0000:02:01.0", {}))
    client, handle = rig.open("dev0")
    handle.write(0, 0, b"\0")
    copy = client.process.dup(handle.fd)
    client.process.close(handle.fd)
    assert client.process.pread(copy, client.argument if hasattr(client, "argument") else 0, 0, 0).err is None
    assert rig.hardware("dev0")._current == (0, 0)
    client.process.exit()
    assert rig.hardware("dev0")._current is None


def test_config_space_is_the_kernels():
    rig = Rig(("edu", "0000:02:01.0", {}))
    one = rig.open("dev0")
    one[1].write(7, 0x10, b"\0\0\xbc\xfe")
    rig.close(one)
    assert rig.open("dev0")[1].read(7, 0x10, 4) == b"\0\0\xa0\xfe"
    assert c.VFIO_PCI_CONFIG_REGION_INDEX == 7
