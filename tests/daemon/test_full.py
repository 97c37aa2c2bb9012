# SPDX-License-Identifier: MIT
"""A file system that is full at any file of the tree: what was asked fails, nothing is left of it, and it works afterwards."""

import errno
import os
from typing import Any

import pytest

from tests.daemon.helpers import MACHINE
from tests.daemon.test_tree import BDF, SPEC, snapshot
from vfioemu import client, daemon, room
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.objects.spec import DeviceSpec
from vfioemu.daemon.functions import Functions
from vfioemu.daemon.tree import Tree
from vfioemu.devices.registry import load_models
from vfioemu.io.driver import Driver
from vfioemu.io.observe.counters import Counters

UUID = "11111111-2222-4333-8444-555555555555"


class Disk:
    """Has room for so many files."""

    def __init__(self, monkeypatch):
        self.room = None
        self._make = Tree._make
        monkeypatch.setattr(Tree, "_make", lambda tree, *args: self.make(tree, *args))

    def make(self, tree, where, *args):
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(where))
        self._make(tree, where, *args)
        if self.room is not None:
            self.room -= 1


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


@pytest.fixture
def machine():
    return Machine(SPEC, load_models())


@pytest.fixture
def tree(machine, tmp_path):
    with Tree(machine, tmp_path, Driver(Counters())) as opened:
        yield opened


def refusal_of(act):
    """What the disk said; None if there was room."""
    try:
        act()
    except (OSError, IoctlError) as error:
        return error
    return None


def fails_everywhere(disk, act, state):
    """Call `act` with a disk that is full at each of its files, until there is enough room: how many it made."""
    before = state()
    for files in range(1000):
        disk.room = files
        if act():
            disk.room = None
            return files
        disk.room = None
        assert state() == before, f"with room for {files} files"
    raise AssertionError("it never works")


def test_a_device_comes_as_a_whole_or_not_at_all(disk, tree, machine):
    device = machine.add_device(
        DeviceSpec(symbol="new", name=UUID, group=77, model="oracle", options={"variant": "basic"})
    )
    before = snapshot(tree)

    def add():
        return refusal_of(lambda: tree.add(device)) is None

    assert fails_everywhere(disk, add, lambda: (snapshot(tree), tree.placed(UUID))) > 10
    tree.remove(device)
    assert snapshot(tree) == before


def test_a_tree_that_cannot_be_made_leaves_nothing(disk, machine, tmp_path):
    disk.room = 40
    with pytest.raises(OSError, match="No space left"), Tree(machine, tmp_path, Driver(Counters())):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("asked", ["bind", "drivers_probe", "new_id", "rescan"])
def test_a_function_is_bound_as_a_whole_or_not_at_all(disk, tree, machine, asked):
    heard = []
    functions = Functions(machine, tree, heard.append, heard.append)
    function = functions.find(BDF)
    assert function is not None
    if asked == "rescan":
        functions.remove(function)
        function.override = "vfio-pci"
    else:
        functions.unbind("vfio-pci", BDF)
    if asked == "new_id":
        functions.set_override(function, "\n")
    heard.clear()
    acts = {
        "bind": lambda: functions.bind("vfio-pci", BDF),
        "drivers_probe": lambda: functions.probe(BDF),
        "new_id": lambda: functions.new_id("1234 11e8"),
        "rescan": functions.rescan,
    }

    def act():
        error = refusal_of(acts[asked])
        if error is not None:
            assert asked in ("bind", "drivers_probe")
            assert (error.errno, "No space left" in error.why) == (errno.ENOMEM, True)
        if asked == "rescan" and function.present and not function.bound:  # found, and without a driver
            functions.remove(function)
            function.override = "vfio-pci"
        if asked == "new_id" and not function.bound:
            functions.remove_id("1234 11e8")
        return function.bound

    def state():
        assert not heard
        return snapshot(tree), sorted(machine.devices), function.present

    assert fails_everywhere(disk, act, state) > 5
    assert heard == [machine.devices["p"]]
    assert function.device is machine.devices["p"]
    functions.unbind("vfio-pci", BDF)
    functions.bind("vfio-pci", BDF)


async def test_a_mediated_device_is_refused(disk):
    async with daemon.running(MACHINE) as server, client.control(server.control_path) as control:
        before = await control.call("list")
        disk.room = 3
        with pytest.raises(client.ControlError, match="No space left on device") as refused:
            await control.call("mdev-start", type="dma-engine", uuid=UUID)
        assert refused.value.kind == "NoRoom"
        disk.room = None
        assert await control.call("list") == before
        started: Any = await control.call("mdev-start", type="dma-engine", uuid=UUID)
        assert started["name"] == UUID
        await control.call("mdev-stop", uuid=UUID)
        stats: Any = await control.call("stats")
        assert stats["internal_errors"] == 0


async def test_a_device_that_needs_more_memory_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr(room, "available", lambda _: iter([(1 << 24, "a test")]))
    async with daemon.running(MACHINE) as server, client.control(server.control_path) as control:
        with pytest.raises(
            client.ControlError, match=r"the device needs 33.0 MiB, available are 16.0 MiB"
        ) as refused:
            await control.call("mdev-start", type="dma-engine", options={"big-bar": 1 << 25})
        assert refused.value.kind == "NoRoom"
        await control.call("mdev-start", type="dma-engine")


def test_a_file_that_cannot_be_written_is_told_of_once(tree, monkeypatch, caplog):
    path = "sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "pwrite", full)
        for number in range(3):
            tree.write(path, b"%d\n" % number)
    assert caplog.text.count("No space left on device") == 1
    assert tree.content(path) == b"2\n"
    tree.restore(path)
    assert (tree.root / path).read_bytes() == b"2\n"
