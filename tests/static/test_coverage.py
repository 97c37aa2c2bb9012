# SPDX-License-Identifier: MIT
"""What `make coverage` measures: every room below the daemon whose tests run in their own process, by the tests of it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
MEASURED = set(TOOLS["coverage"]["run"]["source_pkgs"])
LEFT_OUT = {"vfioemu.migration", "vfioemu.testing"}
"""What is tested as processes, and what tests are made with."""
WITHOUT_TESTS = {"vfioemu.abi"}
"""What others test: it has the registers of a device, and no code."""


def test_all_rooms_below_the_daemon_are_measured():
    layers = next(
        contract["layers"]
        for contract in TOOLS["importlinter"]["contracts"]
        if contract["name"] == "layers point downwards"
    )
    below = layers[layers.index("vfioemu.daemon") + 1 :]

    assert {room for layer in below for room in layer.split(" | ")} - LEFT_OUT == MEASURED


def test_it_is_measured_by_the_tests_of_these_rooms():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (folders,) = re.findall(r"addprefix tests/,([\w ]+)\)", makefile)

    assert {f"vfioemu.{name}" for name in folders.split()} == MEASURED - WITHOUT_TESTS
    assert all((ROOT / "tests" / name).is_dir() for name in folders.split())


def test_there_is_a_floor():
    assert TOOLS["coverage"]["report"]["fail_under"] >= 92
