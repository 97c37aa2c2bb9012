# SPDX-License-Identifier: MIT
"""The files that stand for /dev/vfio and /sys: what is in them, and that they follow the machine."""

import os
import re
import stat

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.daemon import running
from vfioemu.daemon.sysfs import bus_of, sysfsdev
from vfioemu.daemon.tree import Tree
from vfioemu.devices.registry import load_models
from vfioemu.io.driver import Driver
from vfioemu.io.observe.counters import Counters

UUID = "00000000-0000-4000-8000-000000000007"
BDF = "00fe:03:0a.1"
SPEC = MachineSpec(
    groups=(
        GroupSpec(number=7),
        GroupSpec(number=8, iommu=IommuSpec(address_bits=39, reserved=((0xFEE00000, 0xFEEFFFFF),))),
        GroupSpec(number=9, iommu=IommuSpec(address_bits=48)),
    ),
    devices=(
        DeviceSpec(symbol="m", name=UUID, group=7, model="oracle", options={"variant": "basic"}),
        DeviceSpec(symbol="p", name=BDF, group=8, model="edu"),
        DeviceSpec(symbol="q", name="00fe:00:05.0", group=9, model="oracle", options={"variant": "basic"}),
    ),
)


@pytest.fixture
def machine():
    return Machine(SPEC, load_models())


@pytest.fixture
def tree(machine, tmp_path):
    with Tree(machine, tmp_path, Driver(Counters())) as opened:
        yield opened
    assert not opened.root.exists()


def snapshot(tree):
    """Every path with what it is."""
    found = {}
    for folder, folders, files in os.walk(tree.root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(status.st_mode) else oct(status.st_mode)
            found[os.path.relpath(path, tree.root)] = what
    return found


def test_no_link_leads_nowhere_or_out(tree):
    for path, what in snapshot(tree).items():
        if not what.startswith("0o"):
            target = (tree.root / path).resolve(strict=True)
            assert target.is_relative_to(tree.root), path


def test_a_function_tells_what_its_config_space_tells(tree):
    device = tree.root / sysfsdev(BDF)[1:]
    config = (device / "config").read_bytes()

    def number(name):
        return int((device / name).read_text(), 16)

    assert number("vendor") == int.from_bytes(config[0:2], "little") == 0x1234
    assert number("device") == int.from_bytes(config[2:4], "little") == 0x11E8
    assert number("revision") == config[8]
    assert number("class") == int.from_bytes(config[9:12], "little")
    uevent = dict(line.split("=", 1) for line in (device / "uevent").read_text().splitlines())
    assert uevent["PCI_SLOT_NAME"] == BDF
    assert uevent["PCI_ID"] == "1234:11E8"
    assert uevent["DRIVER"] == "vfio-pci"
    assert uevent["MODALIAS"] == (device / "modalias").read_text().strip()
    start, end, flags = (int(word, 16) for word in (device / "resource").read_text().splitlines()[0].split())
    assert end - start + 1 == 1 << 20  # BAR 0 of edu
    assert start % (1 << 20) == 0
    assert flags == 0x40200
    assert device.resolve().name == BDF
    assert (device / "iommu").resolve().name == "dmar0"


def test_an_iommu_tells_its_width(tree):
    for unit, bits in ((0, 39), (1, 48)):
        cap = int((tree.root / f"sys/class/iommu/dmar{unit}/intel-iommu/cap").read_text(), 16)
        assert (cap >> 16 & 0x3F) + 1 == bits
        assert cap >> 34 & 3 == 3
    reserved = (tree.root / "sys/kernel/iommu_groups/8/reserved_regions").read_text()
    assert reserved == "0x00000000fee00000 0x00000000feefffff msi\n"


def test_a_mediated_device_has_a_type_and_no_iommu(tree):
    device = tree.root / sysfsdev(UUID)[1:]
    assert (device / "mdev_type/device_api").read_text() == "vfio-pci\n"
    assert (device / "mdev_type/devices" / UUID).resolve() == device.resolve()
    assert (device / "subsystem").resolve() == tree.root / "sys/bus/mdev"
    assert not (device / "iommu").exists()
    assert (tree.root / "sys/class/mdev_bus/vfioemu" / UUID).resolve() == device.resolve()


def test_directories_are_merged_where_others_live_and_nowhere_else(tree):
    merged = {path for path, what in snapshot(tree).items() if re.fullmatch(r"0o41\d{3}", what)}
    assert {
        "sys/bus/pci/devices",
        "sys/kernel/iommu_groups",
        "sys/class",
        "sys/module",
        "sys/devices/pci00fe:03",
    } <= merged
    for path in merged:
        assert not re.search(r"/iommu_groups/\d|dev/vfio|vfio_iommu_type1|mdev_supported_types", path)


@pytest.mark.parametrize("nodes", [True, False], ids=["nodes", "files in their place"])
def test_nodes(machine, tmp_path, monkeypatch, nodes):
    if not nodes:

        def refuse(*_):
            raise PermissionError(1, "not here")

        monkeypatch.setattr(os, "mknod", refuse)
    with Tree(machine, tmp_path, Driver(Counters())) as tree:
        for name, mode in (("vfio", 0o666), ("7", 0o600), ("8", 0o600)):
            status = (tree.root / "dev/vfio" / name).lstat()
            assert stat.S_IMODE(status.st_mode) == mode
            assert stat.S_ISCHR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_size == 0)
            assert not nodes or stat.S_ISCHR(status.st_mode) or os.geteuid()
    with Tree(machine, tmp_path, Driver(Counters()), shared=True) as tree:
        status = (tree.root / "dev/vfio/7").lstat()
        assert stat.S_IMODE(status.st_mode) == (0o644 if stat.S_ISREG(status.st_mode) else 0o666)


def test_what_a_killed_daemon_has_left_is_replaced(machine, tmp_path):
    (tmp_path / "root/sys/bus/pci/devices/0000:77:00.0").mkdir(parents=True)
    with Tree(machine, tmp_path, Driver(Counters())) as tree:
        assert not (tree.root / "sys/bus/pci/devices/0000:77:00.0").exists()


def test_what_comes_goes_without_a_trace(tree, machine):
    before = snapshot(tree)
    for _ in range(3):
        device = machine.add_device(
            DeviceSpec(
                symbol="new",
                name="11111111-2222-4333-8444-555555555555",
                group=77,
                model="oracle",
                options={"variant": "basic"},
            )
        )
        tree.add(device)
        during = snapshot(tree)
        assert f"dev/vfio/{device.group.number}" in during
        assert f"sys/bus/mdev/devices/{device.name}" in during
        machine.remove_device("new")
        tree.remove(device)
        assert snapshot(tree) == before


def test_a_device_of_a_group_goes_and_the_group_stays(tmp_path):
    names = ["00fe:00:01.0", "00fe:00:01.1"]
    spec = MachineSpec(
        groups=(GroupSpec(number=3, iommu=IommuSpec()),),
        devices=tuple(DeviceSpec(symbol=name, name=name, group=3, model="vfio-pci") for name in names),
    )
    machine = Machine(spec, load_models())
    with Tree(machine, tmp_path, Driver(Counters())) as tree:
        first = machine.devices[names[0]]
        machine.remove_device(names[0])
        tree.remove(first)
        assert os.listdir(tree.root / "sys/kernel/iommu_groups/3/devices") == [names[1]]
        assert "3" in os.listdir(tree.root / "dev/vfio")
        machine.add_device(first.spec)
        tree.add(machine.devices[names[0]])
        assert sorted(os.listdir(tree.root / "sys/kernel/iommu_groups/3/devices")) == names


@settings(max_examples=10)
@given(st.text(min_size=1, max_size=40).filter(lambda name: "\0" not in name))
def test_no_name_leads_out_of_the_tree(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("names")
    spec = MachineSpec(
        groups=(GroupSpec(number=1),),
        devices=(DeviceSpec(symbol="d", name=name, group=1, model="vfio-pci"),),
    )
    with Tree(Machine(spec, load_models()), folder, Driver(Counters())) as tree:
        assert os.listdir(folder) == ["root"]
        assert sorted(os.listdir(tree.root)) == ["dev", "owner", "sys"]
        shown = tree.root / "sys/bus" / bus_of(name) / "devices"
        if shown.is_dir() and "/" not in name and os.listdir(shown):
            assert os.listdir(shown) == [name]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../x", "a b", ""])
def test_names_that_no_device_can_have_are_not_shown(name, tmp_path, caplog):
    spec = MachineSpec(
        groups=(GroupSpec(number=1),),
        devices=(DeviceSpec(symbol="d", name=name, group=1, model="vfio-pci"),),
    )
    with Tree(Machine(spec, load_models()), tmp_path, Driver(Counters())) as tree:
        assert not (tree.root / "sys/bus/platform").exists()
    assert "cannot be shown" in caplog.text


def test_a_config_space_that_cannot_be_read_is_not_shown(machine, tmp_path, monkeypatch, caplog):
    device = machine.devices["q"]

    def broken(index, offset, size):
        raise IoctlError(5, "broken")

    monkeypatch.setattr(device.model, "read_region", broken)
    with Tree(machine, tmp_path, Driver(Counters())) as tree:
        assert (tree.root / sysfsdev(device.name)[1:] / "config").read_bytes() == b""
        assert (tree.root / sysfsdev(device.name)[1:] / "vendor").read_text() == "0x0000\n"
    assert "cannot be shown" in caplog.text


async def test_a_daemon_tells_where_it_is():
    async with running(SPEC) as daemon:
        assert (daemon.root / "dev/vfio/8").exists()
        assert daemon.root.parent == daemon.socket_path.parent.resolve()
        directory = daemon.root.parent
    await trio.lowlevel.checkpoint()
    assert not directory.exists()
