# SPDX-License-Identifier: MIT
"""A client that is killed frees all it held, whenever that is, and nobody else notices.

victim.c says what it holds: three kinds of files and a data fd, two connections, shared and private mappings, pins,
tracking, DMA logging, an eventfd, and a device that writes into its memory meanwhile, asking for it where it has to.
"""

import os
import random
import signal
import subprocess

import pytest
import trio

from tests.system.hostile.helpers import (
    PATIENCE,
    VICTIM_GROUP,
    guest,
    kill_and_wait,
    settles,
    start_victim,
)
from vfioemu import client


@pytest.fixture(scope="module", params=["ask", "process_vm"])
def memory(request):
    """Both ways to reach memory that is not shared."""
    return request.param


async def packets_of_a_life(daemon):
    """How many packets the victim sends and receives if it is left alone."""
    process = await start_victim(daemon, 0, stdout=subprocess.PIPE)
    out = await process.stdout.receive_some()
    assert await process.wait() == 0
    return int(out)


async def die_at_each(daemon, bystander, clean, moments):
    """Let a victim die at each of these packets, and look at what is left."""
    for moment in moments:
        process = await start_victim(daemon, moment)
        with trio.fail_after(PATIENCE):
            status = await process.wait()
        assert status == -signal.SIGKILL, (moment, await process.stderr.receive_some())
        await process.stderr.aclose()
        await settles(daemon, clean)
    await bystander.goes_on()


async def test_exit_without_closing_anything_frees_all(daemon, bystander, clean):
    assert await packets_of_a_life(daemon) > 50

    await settles(daemon, clean)


async def test_death_at_any_packet_frees_all(daemon, bystander, clean):
    """Every third packet; all of them in the full run."""
    packets = await packets_of_a_life(daemon)

    await die_at_each(daemon, bystander, clean, range(1, packets, 3))


@pytest.mark.full
async def test_death_at_every_packet_frees_all(daemon, bystander, clean):
    packets = await packets_of_a_life(daemon)

    await die_at_each(daemon, bystander, clean, range(1, packets))


async def kill_at_random(daemon, bystander, clean, seed, times):
    """Kill victims that go through their life over and over, after any number of packets."""
    chance = random.Random(seed)
    for _ in range(times):
        process = await start_victim(daemon, -1, stdout=subprocess.PIPE)
        left = chance.randrange(1, 400)
        with trio.fail_after(PATIENCE):
            while left > 0:
                left -= len(await process.stdout.receive_some(left))
        await kill_and_wait(process)
        await process.stdout.aclose()
        await process.stderr.aclose()
        await settles(daemon, clean)
    await bystander.goes_on()


async def test_kill_at_random_moments_frees_all(daemon, bystander, clean):
    await kill_at_random(daemon, bystander, clean, seed=1, times=15)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 6))
async def test_kill_at_many_random_moments_frees_all(daemon, bystander, clean, seed):
    await kill_at_random(daemon, bystander, clean, seed, times=150)


async def test_files_live_on_in_whoever_else_holds_them(daemon, bystander, clean):
    """The victim's group fd was passed on: the group stays busy until that copy is closed as well."""
    async with client.connect(daemon.socket_path) as first:
        async with guest(first, VICTIM_GROUP) as files:
            kept = [os.dup(file.fileno()) for file in files]
    async with client.connect(daemon.socket_path) as second:
        first_fd, second_fd, third_fd = kept
        container, group = client.Container(second, first_fd), client.Group(second, second_fd)
        device = client.Device(second, third_fd)
        with pytest.raises(OSError, match="busy"):
            await second.open_group(VICTIM_GROUP)
        assert await container.check_extension(3) == 1
        assert (await device.info()).num_regions > 0
        for file in (container, device, group):
            file.close()
        (await second.open_group(VICTIM_GROUP)).close()
    await settles(daemon, clean)
