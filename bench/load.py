# SPDX-License-Identifier: MIT
"""A daemon with a thousand clients: what each costs, and whether the next one notices."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.build import program
from bench.calls import time_calls
from bench.harness import Row, compare
from vfioemu.testing.daemon import daemon_process, machine_of

CLIENTS: Final = 1000
FIRST_GROUP: Final = 1
CALLS: Final = 1000
MAX_BYTES: Final = 100 << 10


@contextlib.contextmanager
def crowd(socket_path: Path, clients: int) -> Iterator[None]:
    """Client processes that hold what they can and wait, while the block lasts."""
    command = [str(program("crowd")), str(socket_path), str(clients), str(FIRST_GROUP)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the crowd is not ready")
        yield


def crowd_machine(clients: int) -> str:
    """Describe a machine that has a device for each client."""
    return machine_of(range(FIRST_GROUP, FIRST_GROUP + clients))


def run() -> Iterator[Row]:
    """Yield rows for one machine in two daemons: one without other clients, one with them."""
    machine = crowd_machine(CLIENTS)
    cpu = min(os.sched_getaffinity(0))
    with daemon_process(machine, cpu=cpu) as empty, daemon_process(machine, cpu=cpu) as full:
        time_calls(
            [f"check={full.socket_path}"], client=cpu, server=cpu, rounds=1
        )  # what a first client makes
        before = full.pss()
        with crowd(full.socket_path, CLIENTS):
            each = (full.pss() - before) / CLIENTS
            yield Row(
                suite="load",
                name=f"memory of a client among {CLIENTS}, against 100 KiB",
                ratio=each / MAX_BYTES,
                goal=1.0,
                detail=f"{each / 1024:.1f} KiB of PSS: container, group, device, one mapping, tracking",
            )
            what = [f"check={full.socket_path}", f"check={empty.socket_path}"]
            crowded, alone = time_calls(what, client=cpu, server=cpu, calls=CALLS)
            yield compare(
                "load",
                f"CHECK_EXTENSION of client {CLIENTS + 1}, against an empty daemon",
                crowded,
                alone,
                goal=2.0,
            )
