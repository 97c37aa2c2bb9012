# SPDX-License-Identifier: MIT
"""What a trace costs the traced: the same call through a daemon that writes one, and through one that does not."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.calls import GROUP, time_calls
from bench.harness import Row, compare
from vfioemu.testing.daemon import daemon_process, machine_of

CALLS = 1000


def run() -> Iterator[Row]:
    """Both in turns, on one CPU, where the writing of the trace is part of the price."""
    machine = machine_of([GROUP])
    cpu = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="vfioemu-bench-") as name:
        option = f"--trace={Path(name) / 'trace'}"
        with daemon_process(machine, cpu=cpu) as plain, daemon_process(machine, option, cpu=cpu) as traced:
            what = [f"check={traced.socket_path}", f"check={plain.socket_path}"]
            slow, fast = time_calls(what, client=cpu, server=cpu, calls=CALLS)
    yield compare("trace", "CHECK_EXTENSION while a trace is written, against none", slow, fast, goal=4.0)
