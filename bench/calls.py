# SPDX-License-Identifier: MIT
"""Calls through the daemon against a C-to-C ping-pong, and against a daemon without any other client."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.build import program
from bench.harness import ROUNDS, Row, compare
from vfioemu.testing.daemon import daemon_process, device_name, machine_of

CALLS: Final = 2000
GROUP: Final = 12
GOALS: Final = (
    ("check", "CHECK_EXTENSION", 4.0),
    ("region", "4-byte region read", 5.0),
    ("map", "MAP_DMA + UNMAP_DMA", 10.0),
)


def time_calls(
    what: list[str], *, client: int, server: int, calls: int = CALLS, rounds: int = ROUNDS
) -> list[list[float]]:
    """Seconds that one of each WHAT of calls.c took, by WHAT and round."""
    command = [str(program("calls")), str(rounds), str(calls), str(client), str(server), *what]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [[float(word) * 1e-9 for word in line.split()] for line in out.splitlines()]
    return [list(series) for series in zip(*lines, strict=True)]


def placements() -> list[tuple[str, int, int]]:
    """Name, the client's CPU and the servers': with one CPU there is only one."""
    cpus = sorted(os.sched_getaffinity(0))
    same = [("same CPU", cpus[0], cpus[0])]
    return [*same, ("two CPUs", cpus[0], cpus[1])] if len(cpus) > 1 else same


def where(socket_path: Path) -> str:
    """Return the arguments of calls.c that describe a device."""
    return f"{socket_path},{GROUP},{device_name(GROUP)}"


def run() -> Iterator[Row]:
    """Client and floor server, and client and daemon, placed alike."""
    machine = machine_of([GROUP], model="dma-engine", options="")
    for name, client, server in placements():
        with daemon_process(machine, cpu=server) as daemon:
            what = ["floor", f"check={daemon.socket_path}"]
            what += [f"{call}={where(daemon.socket_path)}" for call, _, _ in GOALS[1:2]]
            floor, check, region = time_calls(what, client=client, server=server)
            yield compare("calls", f"{GOALS[0][1]}, {name}", check, floor, goal=GOALS[0][2])
            yield compare("calls", f"{GOALS[1][1]}, {name}", region, floor, goal=GOALS[1][2])
            floor, both = time_calls(
                ["floor", f"map={where(daemon.socket_path)}"], client=client, server=server, calls=CALLS // 2
            )
            yield compare("calls", f"{GOALS[2][1]}, {name}", both, floor, goal=GOALS[2][2])
