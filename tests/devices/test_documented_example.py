# SPDX-License-Identifier: MIT
"""docs/devices.md shows a device and its tests; here they run, and the device works in a machine."""

import importlib.util
import re
import struct
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vfioemu.daemon.config import load_machine
from vfioemu.devices.registry import load_models

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(python|toml)\n(.*?)```", re.DOTALL)


def blocks(kind):
    return [
        text for found, text in BLOCK.findall((ROOT / "docs" / "devices.md").read_text()) if found == kind
    ]


def load(name, path, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def modules(tmp_path, monkeypatch):
    loaded = []
    for text in blocks("python"):
        title = re.match(r"# (\w+)\.py", text)
        assert title
        name = title[1]
        (tmp_path / f"{name}.py").write_text(text)
        loaded.append(load(name, tmp_path / f"{name}.py", monkeypatch))
    return loaded


def test_its_own_tests_pass(modules):
    functions = [
        function for tests in modules for name, function in vars(tests).items() if name.startswith("test_")
    ]

    for function in functions:
        function()

    assert len(functions) == 3


def test_its_state_moves(modules, device_on_bench):
    doorbell = modules[0]
    source, destination = (device_on_bench(doorbell.Doorbell({})) for _ in range(2))
    source.write(0, struct.pack("<Q", 0x8000))

    data, _ = source.read_all(source.state(3))
    data_fd = destination.state(4)
    destination.write_all(data_fd, data)
    assert destination.state(2) == -1
    destination.write(0, struct.pack("<Q", 0x8000))

    assert destination.process.pread(destination.fd, destination.arg, 16, 0).ret == 16
    assert struct.unpack("<QQ", destination.process.memory.read(destination.arg, 16)) == (0x8000, 2)


@pytest.mark.parametrize("data", [b"", b"BELL", b"WELL" + bytes(16)])
def test_a_wrong_state_is_refused(modules, device_on_bench, data):
    destination = device_on_bench(modules[0].Doorbell({}))
    destination.write_all(destination.state(4), data)

    assert destination.state(1) == "EINVAL"
    assert destination.current() == 0


def test_its_machine_file_and_its_entry_point_are_right(modules, tmp_path):
    package, machine = blocks("toml")
    (tmp_path / "machine.toml").write_text(machine)

    spec = load_machine(tmp_path / "machine.toml")

    (device,) = spec.devices
    points = tomllib.loads(package)["project"]["entry-points"]["vfioemu.devices"]
    assert points == {device.model: "doorbell:Doorbell"}
    models = load_models({device.model: modules[0].Doorbell})
    doorbell: Any = models[device.model](device.options)
    assert doorbell.step == 3
