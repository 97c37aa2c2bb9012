# SPDX-License-Identifier: MIT
"""A daemon that has gone mad must not take its clients with it."""

import os
import resource

import pytest
import trio

from tests.system.preload.conftest import PATIENCE
from tests.system.preload.rogue import Generous, Rogue, Slow


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


async def attack(program, path, rogue, *arguments):
    """What became of a program that such a daemon serves."""
    env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rogue.serve)
            result = await trio.run_process(
                [program, *arguments],
                env={**env, "VFIOEMU_SOCKET": str(path)},
                capture_stdout=True, capture_stderr=True, check=False,
            )  # fmt: skip
            nursery.cancel_scope.cancel()
    return result


@pytest.fixture
def hostile(programs):
    return programs("hostile", sanitize="address,undefined")


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow) for seed in range(3)])
async def test_a_hostile_daemon_corrupts_nothing(hostile, tmp_path, many_fds, seed):
    path = tmp_path / "rogue.sock"
    rogue = Rogue(path, seed)
    result = await attack(hostile, path, rogue, "3000")

    said = [line for line in result.stderr.decode().splitlines() if not line.startswith("vfioemu-preload: ")]
    assert said == []
    assert (result.returncode, result.stdout) == (0, b"ok\n")
    assert rogue.calls > 500


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 110))
async def test_a_hostile_daemon_for_long(hostile, tmp_path, many_fds, seed):
    path = tmp_path / "rogue.sock"
    result = await attack(hostile, path, Rogue(path, seed), "10000")

    assert (result.returncode, result.stdout) == (0, b"ok\n"), result.stderr.decode()


@pytest.mark.slow
async def test_a_fork_leaves_behind_what_is_not_yet_a_connection(programs, tmp_path):
    path = tmp_path / "rogue.sock"
    result = await attack(programs("forks", sanitize="address,undefined"), path, Slow(path, 0))

    assert (result.returncode, result.stdout) == (0, b"ok\n"), result.stderr.decode()


@pytest.mark.slow
async def test_nothing_is_taken_from_what_has_come_to_the_number(programs, tmp_path):
    path = tmp_path / "rogue.sock"
    result = await attack(programs("drained", sanitize="address,undefined"), path, Slow(path, 0))

    assert (result.returncode, result.stdout) == (0, b"ok\n"), result.stderr.decode()


@pytest.mark.slow
async def test_fds_that_nobody_asked_for_are_not_left_to_the_program(programs, tmp_path, many_fds):
    """One was: with a reply that asks for a proof. The program then read from it, as it had no call to make."""
    path = tmp_path / "rogue.sock"
    rogue = Generous(path, 0)
    result = await attack(programs("unasked", sanitize="address,undefined"), path, rogue)

    assert (result.returncode, result.stdout) == (0, b"ok\n"), result.stderr.decode()
    assert rogue.calls >= 1 + 32 * 6
