# SPDX-License-Identifier: MIT
"""Many clients at once: what each costs, that all of it comes back, and that one more is served.

Each is a process of its own with container, group and device, one mapping of 256 MiB and tracking on. How long one
more takes is measured by `make bench`.
"""

import os

import pytest

from bench.calls import time_calls
from bench.load import MAX_BYTES, crowd, crowd_machine
from vfioemu.testing.daemon import daemon_process


@pytest.mark.parametrize("clients", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_memory_of_a_client_is_bounded_and_given_back(clients):
    with daemon_process(crowd_machine(clients)) as daemon:
        empty = daemon.held()
        with crowd(daemon.socket_path, 1):
            pass
        before = daemon.pss()

        with crowd(daemon.socket_path, clients):
            each = (daemon.pss() - before) / clients
            held = daemon.held()
            cpu = min(os.sched_getaffinity(0))
            time_calls([f"check={daemon.socket_path}"], client=cpu, server=cpu, calls=10, rounds=1)

        assert each <= MAX_BYTES
        assert held["sessions"] == clients
        assert held["files"] == {"container": clients, "group": clients, "device": clients}
        assert daemon_is_empty(daemon, empty)


def daemon_is_empty(daemon, empty):
    """All of the crowd is dead: the daemon finds out while it answers."""
    return any(daemon.held() == empty for _ in range(2000))
