# SPDX-License-Identifier: MIT
"""Programs under `vfioemu run`: small ones in Python and C, and the probe that recorded the golden traces."""

import subprocess

import pytest

from tests.system.run.helpers import HERE, Runner, compile_c
from vfioemu.testing.daemon import daemon_process, machine_of

MACHINE = machine_of([21, 22]) + '[[group]]\nnumber = 23\n[group.iommu]\n[[group.device]]\nsymbol = "pci"\n'
MACHINE += 'name = "00fe:00:1e.0"\nmodel = "oracle"\n[group.device.options]\nvariant = "migspc"\n'


@pytest.fixture
def run():
    """`vfioemu run` with these arguments."""
    return Runner()


@pytest.fixture(scope="module")
def daemon():
    """A daemon that tests of one module share; it is not private, so it asks for memory."""
    with daemon_process(MACHINE) as running:
        yield running
        assert running.ask("stats")["internal_errors"] == 0, running.log()


@pytest.fixture
def connected(daemon):
    """`vfioemu run --connect` to that daemon."""
    return Runner("--connect", str(daemon.directory))


@pytest.fixture(scope="session")
def looks(tmp_path_factory):
    """tests/system/run/looks.c, compiled."""
    return compile_c(HERE / "looks.c", tmp_path_factory.mktemp("looks") / "looks")


@pytest.fixture(scope="session")
def static_program(tmp_path_factory):
    """A program that LD_PRELOAD does not reach."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "static.c").write_text("int main(void) { return 0; }\n", encoding="ascii")
    try:
        return compile_c(folder / "static.c", folder / "static", "-static")
    except subprocess.CalledProcessError:
        pytest.skip("there is no static libc")
