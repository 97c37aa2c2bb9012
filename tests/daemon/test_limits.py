# SPDX-License-Identifier: MIT
"""The fds of a daemon are not one client's: others connect, open and are served, whatever somebody takes."""

import contextlib
import errno
import mmap
import os

import pytest
import trio

from tests.daemon.neighbours import HOSTILE, MACHINE, OTHER, World
from vfioemu.daemon.serve import running
from vfioemu.io.base.accounts import FEW
from vfioemu.io.base.limits import Limits

FDS = 400
PAGE = 4096
BAR_4 = 4 << 40


@pytest.fixture
async def world(tmp_path, monkeypatch):
    async with running(MACHINE, tmp_path / "run", limits=Limits(max_fds=FDS)) as daemon:
        async with trio.open_nursery() as nursery:
            world = World(daemon, monkeypatch)
            await nursery.start(world.bystander)
            yield world
            nursery.cancel_scope.cancel()


async def open_all_it_gets(session, files):
    """Containers, until there is none: how many."""
    number = 0
    while True:
        try:
            files.enter_context(await session.open_container())
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            return number
        number += 1


async def test_others_open_and_connect_when_somebody_has_taken_what_he_could(world):
    async with contextlib.AsyncExitStack() as stack:
        files = stack.enter_context(contextlib.ExitStack())
        numbers = []
        for who in (2, 3):
            greedy = await stack.enter_async_context(world.connect(who))
            numbers.append(await open_all_it_gets(greedy, files))
        assert numbers[0] > 2 * FEW
        assert all(number <= FEW for number in numbers[1:])

        before = world.calls
        async with world.connect(5) as modest, world.guest(modest, OTHER) as (container, _):
            assert await container.check_extension(1) == 1
        assert world.calls > before
        assert world.server.accounts.fds < FDS

    while world.server.accounts.fds > FEW:  # connections end when their tasks have seen it
        await trio.lowlevel.checkpoint()
    async with world.connect(2) as session:
        with contextlib.ExitStack() as files:
            assert await open_all_it_gets(session, files) >= numbers[0] - 1  # all was given back


async def test_connections_count_too(world):
    """Whoever has many is refused another, and nobody else is."""
    async with contextlib.AsyncExitStack() as stack:
        refused = 0
        while not refused:
            try:
                await stack.enter_async_context(world.connect(2))
            except OSError:
                refused = world.server.accounts.fds
        assert FDS // 2 < refused < FDS
        async with world.connect(3) as modest:
            (await modest.open_container()).close()


async def test_so_do_the_files_of_memory_that_sessions_have_mapped(world):
    """Each session may tell where it has mapped a region, for which its file is kept: an fd of each for each."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.connect(2))
        container, device = await stack.enter_async_context(world.guest(first, HOSTILE))
        before = world.server.accounts.fds
        os.close((await device.mmap_fd(PAGE, mmap.PROT_READ, PAGE))[0])
        assert world.server.accounts.fds == before + 1
        os.close((await device.mmap_fd(PAGE, mmap.PROT_READ, PAGE))[0])  # the session has it
        assert world.server.accounts.fds == before + 1

        world.server.accounts.max_fds = before + 1
        with pytest.raises(OSError, match="Too many open files"):
            await device.mmap_fd(PAGE, mmap.PROT_READ, BAR_4)
        assert world.server.accounts.fds == before + 1
        world.server.accounts.max_fds = FDS
        assert await container.check_extension(1) == 1
    while world.server.accounts.fds > FEW:
        await trio.lowlevel.checkpoint()
