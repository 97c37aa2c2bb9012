# SPDX-License-Identifier: MIT
"""A daemon of its own for each module, which must be as good as new after each test."""

import contextlib

import pytest
import trio

from tests.system.hostile.helpers import MACHINE, Bystander, settles
from vfioemu.testing.daemon import daemon_process


@pytest.fixture(scope="module")
def patience():
    """--ask-timeout of the daemon, in seconds."""
    return "20"


@pytest.fixture(scope="module")
def memory():
    """--memory of the daemon."""
    return "ask"


@pytest.fixture(scope="module")
def started(patience, memory):
    """A daemon in its own process, and what it holds when nobody is there."""
    with daemon_process(MACHINE, "--ask-timeout", patience, "--memory", memory) as running:
        empty = running.held()
        yield running, empty
        assert running.ask("stats")["internal_errors"] == 0, running.log()
        trio.run(settles, running, empty)


@pytest.fixture(scope="module")
def daemon(started):
    """A daemon in its own process."""
    return started[0]


@pytest.fixture(scope="module")
def empty(started):
    """What it holds when nobody is there."""
    return started[1]


@contextlib.asynccontextmanager
async def at_work(daemon):
    """A bystander at work while the block lasts."""
    async with trio.open_nursery() as nursery:
        bystander = Bystander(daemon.socket_path)
        await nursery.start(bystander.run)
        yield bystander
        nursery.cancel_scope.cancel()


@pytest.fixture
async def bystander(daemon, empty):
    """Another client at work during the test, which must not notice it."""
    await settles(daemon, empty)
    async with at_work(daemon) as working:
        yield working
        await working.goes_on()


@pytest.fixture
def clean(daemon, bystander):
    """What the daemon held before the test, while the bystander worked."""
    return daemon.held()
