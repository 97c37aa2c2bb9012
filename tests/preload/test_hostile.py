# SPDX-License-Identifier: MIT
"""A daemon that has gone mad must not take its clients with it."""

import os
import resource

import pytest
import trio

from tests.preload.conftest import PATIENCE
from tests.preload.rogue import Rogue


@pytest.fixture
def many_fds():
    """Tokens stay open here as long as the test lasts."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    before = set(os.listdir("/proc/self/fd"))
    yield
    for fd in set(os.listdir("/proc/self/fd")) - before:
        try:
            os.close(int(fd))
        except OSError:
            pass  # the directory itself
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def attack(programs, path, seed, calls):
    """What became of a program that made so many calls, and how many of them arrived."""
    rogue = Rogue(path, seed)
    env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rogue.serve)
            result = await trio.run_process(
                [programs("hostile", sanitize="address,undefined"), str(calls)],
                env={**env, "VFIOEMU_SOCKET": str(path)},
                capture_stdout=True, capture_stderr=True, check=False,
            )  # fmt: skip
            nursery.cancel_scope.cancel()
    return result, rogue.calls


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
async def test_a_hostile_daemon_corrupts_nothing(programs, tmp_path, many_fds, seed):
    result, calls = await attack(programs, tmp_path / "rogue.sock", seed, 3000)

    said = [line for line in result.stderr.decode().splitlines() if not line.startswith("vfioemu-preload: ")]
    assert said == []
    assert (result.returncode, result.stdout) == (0, b"ok\n")
    assert calls > 500


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 110))
async def test_a_hostile_daemon_for_long(programs, tmp_path, many_fds, seed):
    result, _ = await attack(programs, tmp_path / "rogue.sock", seed, 10000)

    assert (result.returncode, result.stdout) == (0, b"ok\n"), result.stderr.decode()
