# SPDX-License-Identifier: MIT
"""close() is synchronous: whatever was closed before a call was sent has taken effect, on any fd, by any process."""

import os

import pytest
import trio

from tests.daemon.blocking import Blocking
from tests.daemon.helpers import DEVICES, MACHINE, dma_write, pin, set_up
from vfioemu import client, daemon
from vfioemu.io.base.poller import Poller
from vfioemu.uapi import constants as c

TRIES = 5000
EBUSY = -16


def reopen(path, group, tries):
    """Close a group and open it again, over and over: how often the answer was stale."""
    connection = Blocking(path)
    stale = 0
    for _ in range(tries):
        opened = connection.open(f"/dev/vfio/{group}")
        if opened == EBUSY:
            stale += 1
        else:
            os.close(opened[0])
    connection.close()
    return stale


async def in_child(work, *args):
    """Run blocking `work` in a forked child: its result, a small number."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.write(write_end, str(work(*args)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    await trio.lowlevel.wait_readable(read_end)
    result = os.read(read_end, 100)
    os.close(read_end)
    assert os.waitpid(pid, 0)[1] == 0
    return int(result)


@pytest.fixture
async def server():
    async with daemon.running(MACHINE) as running:
        yield running
        assert running.dispatcher.counters.bugs == 0


async def test_close_then_open_is_never_stale(server):
    stale = []

    async def one(group):
        stale.append(await in_child(reopen, server.socket_path, group, TRIES))

    async with trio.open_nursery() as nursery:
        for group in (12, 13):
            nursery.start_soon(one, group)
    assert stale == [0, 0]


async def test_without_the_rule_answers_are_stale(server, monkeypatch):
    """The test above can fail: hang-ups left to the scheduler come too late."""
    real = Poller.reap

    def only_when_scheduled(poller):
        if trio.lowlevel.current_task().name.endswith("watch_hangups"):
            real(poller)

    monkeypatch.setattr(Poller, "reap", only_when_scheduled)
    assert await in_child(reopen, server.socket_path, 12, TRIES) > 0


async def test_close_in_one_session_is_seen_by_another(server):
    async with client.connect(server.socket_path) as a, client.connect(server.socket_path) as b:
        for _ in range(TRIES // 3):
            with await a.open_group(12):
                pass
            with await b.open_group(12):
                pass


async def test_device_closed_then_container_unset(server):
    """A stale device would make UNSET_CONTAINER answer EBUSY."""
    async with client.connect(server.socket_path) as session:
        container, group, device = await set_up(session)
        for _ in range(TRIES // 6):
            device.close()
            await group.unset_container()
            await group.set_container(container)
            await container.set_iommu()
            device = await group.get_device(DEVICES["mb0"][1])


async def test_group_closed_frees_mappings(server):
    async with client.connect(server.socket_path) as session:
        container = await session.open_container()
        for _ in range(TRIES // 10):
            with await session.open_group(12) as group:
                await group.set_container(container)
                await container.set_iommu()
                await container.map_dma(0, 0, 1 << 20)
            assert await container.check_extension(c.VFIO_TYPE1v2_IOMMU) == 1
            with pytest.raises(OSError, match="Invalid argument"):
                await container.unmap_dma(0, 1 << 20)


async def test_unmap_returned_means_no_more_dma(server):
    """Memory that was unmapped belongs to the program again, whatever devices were doing."""
    async with client.connect(server.socket_path) as session:
        container, _, device = await set_up(session)
        with client.Memory(64 * 4096) as memory:
            await session.share_memory(memory)
            for turn in range(100):
                await container.map_dma(memory.address, 0, memory.size)
                await pin(device, 0, 16)
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(storm, session, device)
                    await trio.lowlevel.checkpoint()
                    assert await container.unmap_dma(0, memory.size) == memory.size
                    memory.view[:] = bytes([turn]) * memory.size
                assert bytes(memory.view) == bytes([turn]) * memory.size


async def storm(session, device):
    """Write until the device is refused."""
    other = client.File(session, os.dup(device.fileno()))
    try:
        for page in range(20):
            await dma_write(other, (page % 16) * 4096, 4096, 0xEE)
    except OSError:
        pass
    finally:
        other.close()
