# SPDX-License-Identifier: MIT
"""Models are found by name."""

import re
import subprocess
import sys

import pytest

from tests.daemon.helpers import MACHINE
from vfioemu import client, daemon
from vfioemu.client.control import ControlError
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon.arguments import parse_device, with_devices
from vfioemu.daemon.config import ConfigError, load_machine
from vfioemu.devices.registry import BrokenModel, load_models, load_models_and_classes, summary
from vfioemu.starting import command


@pytest.mark.parametrize("name", ["dma-engine", "oracle", "vfio-pci"])
def test_each_of_ours_is_installed_and_makes_a_device(name):
    models = load_models()

    assert isinstance(models[name]({}), DeviceModel)
    assert name in list(models)


def test_tests_may_bring_their_own():
    class Mine(DeviceModel):
        pass

    models = load_models({"mine": Mine, "oracle": Mine})

    assert models["mine"] is models["oracle"] is Mine
    assert len(models) == len(list(models)) == len(load_models()) + 1
    assert models.get("nobody's") is None


@pytest.mark.parametrize("model", ["dma-engine", "oracle", "vfio-pci"])
def test_unknown_options_are_refused_by_name(model):
    with pytest.raises(ValueError, match="colour"):
        load_models()[model]({"colour": "red"})


@pytest.fixture
def bell(tmp_path, monkeypatch):
    """`bell:DoorBell`, in a directory that Python searches."""
    (tmp_path / "bell.py").write_text(
        "from vfioemu.core.model.device import DeviceModel\n"
        "class DoorBell(DeviceModel):\n"
        '    """A bell."""\n'
        "    OPTIONS = {'step': 'how much'}\n"
        "other = print\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "bell:DoorBell"
    sys.modules.pop("bell", None)


def test_a_class_is_a_model_for_who_starts_a_machine(bell):
    models = load_models_and_classes()
    spec = with_devices(MachineSpec(), [parse_device(f"{bell},step=3")], models)

    assert bell in models
    assert bell not in list(models)
    assert [(device.symbol, device.options) for device in spec.devices] == [("door-bell0", {"step": 3})]
    assert summary(models[bell]) == "A bell."


def test_a_machine_file_may_name_a_class(bell, tmp_path):
    path = tmp_path / "machine.toml"
    device = f'symbol = "b"\nname = "00000000-0000-4000-8000-000000000001"\nmodel = "{bell}"\n'
    path.write_text(f"[[group]]\nnumber = 1\n[[group.device]]\n{device}[group.device.options]\nstap = 1\n")

    with pytest.raises(ConfigError, match="no such option of bell:DoorBell; did you mean step"):
        load_machine(path, load_models_and_classes())


def test_a_running_machine_has_the_classes_that_it_was_started_with(bell):
    assert bell not in load_models()
    models = load_models(tried=[bell, "oracle"])

    assert bell in models
    assert bell in list(models)
    assert "bell:other" not in models


@pytest.mark.parametrize(
    ("name", "why", "hint"),
    [
        ("nowhere.at_all:Class", "No module named 'nowhere'", "PYTHONPATH"),
        ("bell:Nobody", "has no attribute 'Nobody'", ""),
        ("bell:other", "no subclass of DeviceModel, but builtin_function", "package.module:Class"),
        ("bell:DoorBell.OPTIONS", "no subclass of DeviceModel, but dict", "package.module:Class"),
    ],
)
def test_what_cannot_be_tried_is_told(bell, name, why, hint):
    with pytest.raises(BrokenModel, match=re.escape(why)) as broken:
        load_models_and_classes()[name]

    assert hint in broken.value.hint
    assert bool(hint) == bool(broken.value.hint)


@pytest.mark.parametrize("name", ["bell:", ":Class", "a b:c", "bell;x:y", "../bell:DoorBell", "bell", "1a:b"])
def test_what_is_no_class_is_no_model(bell, name):
    assert name not in load_models_and_classes()


def test_current_directory_is_not_searched(tmp_path):
    (tmp_path / "trap.py").write_text("raise SystemExit('the current directory was searched')")
    line = ["run", "--device=trap:Trap", "--", "true"]
    done = subprocess.run(
        command(*line), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 1
    assert "No module named 'trap'" in done.stderr
    assert "hint: the current directory is not searched" in done.stderr


async def test_mdev_start_loads_no_class(bell):
    async with daemon.running(MACHINE) as server, client.control(server.control_path) as ctl:
        with pytest.raises(ControlError, match="no type 'bell:DoorBell'"):
            await ctl.call("mdev-start", type=bell)
    assert "bell" not in sys.modules
