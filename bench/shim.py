# SPDX-License-Identifier: MIT
"""An ordinary program under the preload library: unrelated calls against libc's, VFIO's against a C-to-C ping-pong."""

import os
import subprocess
from collections.abc import Iterator
from typing import Final

from bench.build import program
from bench.calls import CALLS, GROUP, placements
from bench.harness import ROUNDS, Row, compare
from vfioemu import preload
from vfioemu.testing.daemon import daemon_process, device_name, machine_of

UNRELATED: Final = 1.1
"""How much longer a call may take that has nothing to do with us."""
GOALS: Final = (("CHECK_EXTENSION", 4.0), ("4-byte region read", 5.0), ("DEVICE_GET_INFO", 5.0))


def time_calls(socket_path: str, client: int, server: int) -> list[list[float]]:
    """Seconds that one of each of shim_calls.c took, by what and round."""
    environment = {**os.environ, "LD_PRELOAD": os.fspath(preload.library()), "VFIOEMU_SOCKET": socket_path}
    numbers = [str(number) for number in (ROUNDS, CALLS, client, server, GROUP)]
    out = subprocess.run(
        [program("shim_calls"), *numbers, device_name(GROUP)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ).stdout
    lines = [[float(word) * 1e-9 for word in line.split()] for line in out.splitlines()]
    return [list(series) for series in zip(*lines, strict=True)]


def run() -> Iterator[Row]:
    """Yield rows for a daemon that reaches memory as `vfioemu run` has it, and for calls that are not its concern."""
    machine = machine_of([GROUP], model="dma-engine", options="")
    for number, (name, client, server) in enumerate(placements()):
        with daemon_process(machine, "--memory", "process_vm", cpu=server) as daemon:
            read, libc_read, ioctl, libc_ioctl, floor, *calls = time_calls(
                str(daemon.socket_path), client, server
            )
        if number == 0:
            yield compare("shim", "unrelated read()", read, libc_read, goal=UNRELATED)
            yield compare("shim", "unrelated ioctl()", ioctl, libc_ioctl, goal=UNRELATED)
        for (what, goal), times in zip(GOALS, calls, strict=True):
            yield compare("shim", f"{what}, {name}", times, floor, goal=goal)
