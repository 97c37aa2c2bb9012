# SPDX-License-Identifier: MIT
"""The C client, built from protocol/ alone, against a daemon: the document is enough."""

import subprocess
from pathlib import Path

import pytest
import trio

from vfioemu import daemon
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec

HERE = Path(__file__).parent
PROTOCOL = HERE.parents[2] / "protocol"
NAME = "00000000-0000-4000-8000-000000000001"
MACHINE = MachineSpec(
    groups=(GroupSpec(number=12),),
    devices=(DeviceSpec(symbol="mb0", name=NAME, group=12, model="oracle", options={"variant": "basic"}),),
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("cclient") / "client"
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    subprocess.run([*command, "-I", PROTOCOL, "-o", path, HERE / "client.c"], check=True, timeout=60)
    return path


@pytest.mark.parametrize("memory", ["ask", "process_vm"])
async def test_c_client(program, memory):
    async with daemon.running(MACHINE, memory=memory) as running:
        with trio.fail_after(30):
            result = await trio.run_process(
                [program, running.socket_path, "12", NAME],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert (result.returncode, result.stdout, result.stderr) == (0, b"all answers are right\n", b"")
        running.dispatcher.poller.reap()
        assert not len(running.server.tokens)
        assert running.dispatcher.counters.bugs == 0
