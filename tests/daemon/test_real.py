# SPDX-License-Identifier: MIT
"""What the machine itself has: no emulated function or group takes its place unless somebody asks for that."""

import os
from typing import Any

import pytest

from vfioemu import client
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import GROUP_MAX, DeviceSpec, GroupSpec, MachineSpec
from vfioemu.daemon import real, running
from vfioemu.daemon.arguments import DeviceArgument, DeviceError, parse_device, with_devices
from vfioemu.daemon.tree import Tree
from vfioemu.devices.registry import load_models
from vfioemu.io.driver import Driver
from vfioemu.io.observe.counters import Counters


class TestRealFunctions:
    """What the machine has itself: here a directory that stands for its bus."""

    @pytest.fixture(autouse=True)
    def bus(self, tmp_path, monkeypatch):
        for name in ("0000:00:02.0", "1000:00:01.0", "1001:7f:00.0", "10000:e0:06.0"):
            (tmp_path / "bus/devices" / name).mkdir(parents=True)
        (tmp_path / "bus/drivers/e1000e").mkdir(parents=True)
        monkeypatch.setattr(real, "BUS", tmp_path / "bus")

    def test_a_default_address_is_in_a_domain_that_is_not_there(self):
        arguments = [DeviceArgument(model="edu"), DeviceArgument(model="vfio-pci")]
        spec = with_devices(MachineSpec(), arguments, load_models())
        assert [device.name for device in spec.devices] == ["1002:00:01.0", "1002:00:02.0"]

    def test_without_any_bus_it_is_the_same_everywhere(self, monkeypatch, tmp_path):
        monkeypatch.setattr(real, "BUS", tmp_path / "none")
        spec = with_devices(MachineSpec(), [DeviceArgument(model="edu")], load_models())
        assert spec.devices[0].name == "1000:00:01.0"

    def test_a_name_of_a_real_one_is_refused(self):
        with pytest.raises(DeviceError, match="of its own") as error:
            with_devices(MachineSpec(), [DeviceArgument(model="edu", name="0000:00:02.0")], load_models())
        assert "1002:00:02.0" in error.value.hint

    def test_in_a_machine_file_it_hides_nothing(self, tmp_path, caplog):
        spec = MachineSpec(
            groups=(GroupSpec(number=3, iommu=IommuSpec()),),
            devices=tuple(
                DeviceSpec(symbol=name, name=name, group=3, model="edu")
                for name in ("0000:00:02.0", "0000:00:03.0")
            ),
        )
        (tmp_path / "run").mkdir()
        with Tree(Machine(spec, load_models()), tmp_path / "run", Driver(Counters())) as tree:
            assert os.listdir(tree.root / "sys/bus/pci/devices") == ["0000:00:03.0"]
            assert os.listdir(tree.root / "sys/kernel/iommu_groups/3/devices") == ["0000:00:03.0"]
            assert (tree.root / "dev/vfio/3").exists()
            assert sorted(os.listdir(tree.root / "sys/bus/pci/drivers/e1000e")) == ["bind", "unbind"]
        assert "0000:00:02.0 of its own" in caplog.text


class TestRealGroups:
    """Groups that the machine has: here two directories that stand for its nodes and for its sysfs."""

    @pytest.fixture(autouse=True)
    def groups(self, tmp_path, monkeypatch):
        nodes, sysfs = tmp_path / "nodes", tmp_path / "groups"
        for name in ("2", "vfio", "devices", "noiommu-6", "07", "\N{SUPERSCRIPT TWO}"):
            (nodes / name).mkdir(parents=True)
        for name in ("0", "1", "2", "4"):
            (sysfs / name).mkdir(parents=True)
        monkeypatch.setattr(real, "GROUPS", (nodes, sysfs))

    def spec(self, *texts, spec=None):
        return with_devices(spec or MachineSpec(), [parse_device(text) for text in texts], load_models())

    def numbers(self, *texts, spec=None):
        return [device.group for device in self.spec(*texts, spec=spec).devices]

    async def made(self, daemon):
        async with client.control(daemon.control_path) as control:
            started: Any = await control.call("mdev-start", type="mtty")
            return started["group"]

    def test_groups_are_those_with_a_node_and_those_without(self):
        assert real.groups() == {0, 1, 2, 4}

    def test_default_groups_are_others(self):
        assert self.numbers("edu", "mtty", "vfio-pci") == [3, 5, 6]

    def test_without_any_group_they_are_the_same_everywhere(self, monkeypatch, tmp_path):
        monkeypatch.setattr(real, "GROUPS", (tmp_path / "none",))
        assert self.numbers("edu", "mtty") == [1, 2]

    @pytest.mark.parametrize("named", ["mtty,group=3", "mtty,group=5"])
    def test_a_default_group_is_none_that_another_device_names(self, named):
        """Which number is free depends on the machine; whether two devices share a group does not."""
        (named_first, after), (before, named_last) = self.numbers(named, "edu"), self.numbers("edu", named)
        assert named_first == named_last == int(named[-1])
        assert before == after != named_first

    def test_a_machine_file_keeps_its_groups(self):
        spec = MachineSpec(groups=(GroupSpec(number=3), GroupSpec(number=GROUP_MAX)))
        assert self.numbers("edu", spec=spec) == [5]

    async def test_mediated_devices_that_are_made_later_avoid_them(self):
        async with running(self.spec("edu", f"mtty,group={GROUP_MAX}")) as daemon:
            assert await self.made(daemon) == 5

    async def test_the_group_of_a_function_that_may_come_back_is_not_given_away(self):
        spec = self.spec("edu,name=00fe:00:01.0")
        async with running(spec) as daemon:
            device = daemon.machine.devices["edu0"]
            daemon.machine.remove_device("edu0")
            assert await self.made(daemon) == 5
            daemon.machine.add_device(device.spec)
            assert daemon.machine.groups[3].spec.iommu is not None

    def tree(self, spec, folder):
        return Tree(Machine(spec, load_models()), folder, Driver(Counters()))

    def test_a_group_that_is_named_hides_the_real_one_and_is_told_once(self, tmp_path, caplog):
        (tmp_path / "run").mkdir()
        spec = self.spec("edu,group=1", "vfio-pci,group=1", "mtty,group=4", "mtty,group=9", "edu")
        with self.tree(spec, tmp_path / "run") as tree:
            assert sorted(os.listdir(tree.root / "dev/vfio")) == ["1", "3", "4", "9", "vfio"]
        (told,) = caplog.records
        assert told.levelname == "WARNING"
        assert "groups 1, 4: this machine has groups" in told.getMessage()

    def test_others_are_not_told_of(self, tmp_path, caplog):
        (tmp_path / "run").mkdir()
        with self.tree(self.spec("edu", "mtty,group=9"), tmp_path / "run"):
            pass
        assert caplog.text == ""
