# SPDX-License-Identifier: MIT
"""Whoever maps registers is told that stores there reach nobody: once, and nobody else is."""

import re
import sys
from pathlib import Path

import pytest

from tests.system.run.helpers import Runner
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.devices.pci.hardware.description import Bar
from vfioemu.devices.registry import load_models

MAP = """
import fcntl, mmap, os, struct, sys
group, name, *regions = sys.argv[1:]
container = os.open("/dev/vfio/vfio", os.O_RDWR)
file = os.open("/dev/vfio/" + group, os.O_RDWR)
fcntl.ioctl(file, 0x3B68, struct.pack("i", container))
fcntl.ioctl(container, 0x3B66, 3)
for _ in range(2):
    device = fcntl.ioctl(file, 0x3B6A, bytearray(name.encode() + bytes(1)))
    for region in map(int, regions):
        for _ in range(2):
            mmap.mmap(device, 4096, offset=region << 40).close()
    os.close(device)
print("mapped")
"""
TOLD = "region 0 of the device at fd"


def mapped(device, *regions, options=()):
    """What a program that maps parts of a device's BARs has on stderr."""
    run = Runner("--device", f"{device},name=1234:00:03.0")
    done = run(sys.executable, "-c", MAP, "{group}", "{bdf}", *map(str, regions), options=options)
    assert (done.returncode, done.stdout) == (0, "mapped\n"), done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("model", ["e1000e", "nvme", "edu", "pci-testdev"])
def test_who_maps_registers_is_told_once(model, tmp_path):
    trace = tmp_path / "trace"
    [line] = mapped(model, 0, options=("--trace", str(trace)))

    assert TOLD in line
    assert "reaches none of them" in line
    [remark] = [line for line in trace.read_text(encoding="utf-8").splitlines() if "--- pid" in line]
    assert f"region 0 of {model}0 is mapped: what is stored there reaches none of its registers" in remark


def test_memory_is_nothing_to_be_told_of():
    assert mapped("vfio-pci", 0) == []
    assert mapped("e1000e", 1, 3) == []


def test_each_device_is_told_of_and_each_process():
    run = Runner("--device", "edu,name=1234:00:03.0", "--device", "nvme,name=1234:00:04.0")
    both = [f'{sys.executable} -c "$0" {{group{n}}} {{bdf{n}}} 0' for n in ("", "1", "")]
    done = run("sh", "-c", " && ".join(both), MAP)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count(TOLD) == 3


def test_parts_that_a_model_names_are_memory():
    ring = DmaEngine({}).hardware.function.bars[0]
    assert ring.areas is not None
    [(offset, size)] = ring.areas

    assert ring.maps(offset, size)
    assert not ring.has_registers(offset, size)
    assert Bar(0x4000).has_registers(0x3000, 0x1000)
    assert Bar(0x4000, registers=0x2000).has_registers(0x1000, 0x3000)
    assert not Bar(0x4000, registers=0x2000).has_registers(0x2000, 0x1000)
    assert not Bar(0x4000, memory=True).has_registers(0, 0x4000)


def test_the_page_says_of_each_model_what_is_behind_it():
    page = (Path(__file__).parents[3] / "docs" / "run.md").read_text(encoding="utf-8")
    section = page.partition("## What is behind the registers")[2].partition("\n## ")[0]
    rows = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))

    assert set(re.findall(r"`([\w-]+)`", rows)) == set(load_models())


def test_who_maps_a_resource_file_is_told_too():
    run = Runner("--device", "nvme,name=1234:00:03.0")
    code = (
        "import mmap, os, sys\nfile = os.open(sys.argv[1], os.O_RDWR)\nfor _ in 'ab': mmap.mmap(file, 4096)"
    )
    done = run(sys.executable, "-c", code, "/sys/bus/pci/devices/{bdf}/resource0")

    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert "resource0 holds registers" in line
