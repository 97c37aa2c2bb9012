# SPDX-License-Identifier: MIT
"""System calls through a daemon: memory at good and bad addresses, fds in payloads, poll, and who holds what."""

import errno
import mmap
import os
import select

import pytest

from tests.daemon.helpers import CONFIG, dma_read, dma_write, errno_of, protect, set_up
from vfioemu import client
from vfioemu.syscalls import procmem
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s

BAD = 0x1000


@pytest.fixture
def pages():
    """Eight private anonymous pages and their address."""
    with mmap.mmap(-1, 8 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        view = memoryview(memory)
        yield view, procmem.address_of(view)[0]
        view.release()


async def test_container_group_device(session):
    container, group, device = await set_up(session)
    assert await container.get_api_version() == 0
    assert await container.check_extension(c.VFIO_TYPE1v2_IOMMU) == 1
    assert await group.get_status() & c.VFIO_GROUP_FLAGS_CONTAINER_SET
    assert (await device.info()).num_regions == 9
    assert await container.get_info_bytes()


async def test_open_unknown_node_is_enoent(session):
    with pytest.raises(OSError, match="No such file") as refused:
        await session.open("/dev/vfio/99")
    assert refused.value.errno == errno.ENOENT


async def test_group_is_open_once(session):
    with await session.open_group(12):
        with pytest.raises(OSError, match="busy"):
            await session.open_group(12)
    (await session.open_group(12)).close()


@pytest.mark.parametrize("address", [0, 1, BAD, (1 << 47) - 4096, 1 << 47, (1 << 63) + 5, (1 << 64) - 1])
async def test_bad_argument_is_efault(session, address):
    container, _, _ = await set_up(session)
    with pytest.raises(OSError, match="Bad address") as refused:
        await container.ioctl(c.VFIO_IOMMU_MAP_DMA, address)
    assert refused.value.errno == errno.EFAULT


async def test_read_only_argument_is_efault_on_the_way_out(session, pages):
    view, address = pages
    container, _, _ = await set_up(session)
    view[: s.IommuType1Info.SIZE] = s.IommuType1Info().build()
    protect(address, 4096, mmap.PROT_READ)
    with pytest.raises(OSError, match="Bad address"):
        await container.ioctl(c.VFIO_IOMMU_GET_INFO, address)
    protect(address, 4096, mmap.PROT_READ | mmap.PROT_WRITE)
    await container.ioctl(c.VFIO_IOMMU_GET_INFO, address)
    assert s.IommuType1Info.parse(view).iova_pgsizes & 4096


async def test_argument_that_ends_with_its_page_is_enough(session, pages):
    view, address = pages
    container, _, _ = await set_up(session)
    request = s.IommuType1DmaMap(flags=3, vaddr=address, iova=0, size=4096).build()
    view[4096 - len(request) : 4096] = request
    protect(address + 4096, 4096, 0)
    await container.ioctl(c.VFIO_IOMMU_MAP_DMA, address + 4096 - len(request))
    with pytest.raises(OSError, match="Bad address"):
        await container.ioctl(c.VFIO_IOMMU_MAP_DMA, address + 4096 - len(request) + 1)
    protect(address + 4096, 4096, mmap.PROT_READ | mmap.PROT_WRITE)


async def test_read_and_write_at_addresses(session, pages):
    view, address = pages
    _, _, device = await set_up(session)
    assert await device.pread_at(address, 4, CONFIG) == 4
    assert bytes(view[:4]) == await device.pread(4, CONFIG)
    with pytest.raises(OSError, match="Bad address"):
        await device.pread_at(BAD, 4, CONFIG)
    with pytest.raises(OSError, match="Invalid argument"):
        await device.pread_at(address, 4, -1)
    with pytest.raises(OSError, match="Bad address"):
        await device.pwrite_at(BAD, 64, 0)
    view[:64] = bytes(64)
    assert await device.pwrite_at(address, 64, 0) == 64


async def test_large_bitmap_travels_in_fragments(session):
    container, _, device = await set_up(session)
    size = 1 << 34  # a bitmap of 512 KiB
    await container.map_dma(0, 0, size)
    with client.Memory(4096) as memory:
        await session.share_memory(memory)
        await container.map_dma(memory.address, size, 4096)
        await container.dirty_start()
        await dma_write(device, size, 1, 1)
        bitmap = await container.dirty_bitmap(0, size + 4096)
        assert client.ranges(bitmap, 0, size + 4096) == [(size, 4096)]
        await container.unmap_dma(0, size + 4096)


async def test_fds_that_are_none_of_ours(session):
    container = await session.open_container()
    group = await session.open_group(12)
    null = os.open("/dev/null", os.O_RDWR)
    for number, expected in ((-1, "EBADF"), (9999, "EBADF"), (null, "EBADFD"), (group.fileno(), "EBADFD")):
        with pytest.raises(OSError, match=r".") as refused:
            await group.set_container(number)
        assert errno_of(refused) == expected, number
    await group.set_container(container)
    os.close(null)


async def test_poll_is_in_and_out(session):
    container, group, device = await set_up(session)
    for file in (container, group, device):
        assert file.poll() == select.POLLIN | select.POLLOUT


async def test_migration_stream(session):
    _, _, device = await set_up(session, "mspc0")
    assert await device.migration_flags() & c.VFIO_MIGRATION_PRE_COPY
    data = await device.set_state(c.VFIO_DEVICE_STATE_PRE_COPY)
    assert data is not None
    info = await data.precopy_info()
    got = await data.read(4096)
    assert len(got) == info.initial_bytes + info.dirty_bytes
    with pytest.raises(OSError, match=r".") as refused:
        await data.read(4096)
    assert refused.value.errno == errno.ENOMSG
    assert await device.set_state(c.VFIO_DEVICE_STATE_STOP_COPY) is None
    rest = b""
    while part := await data.read(100):
        rest += part
    assert len(rest) == 256
    data.close()
    assert await device.get_state() == c.VFIO_DEVICE_STATE_STOP_COPY


async def test_dirty_pages_of_pins(session):
    container, _, device = await set_up(session)
    with client.Memory(64 * 4096) as memory:
        await session.share_memory(memory)
        await container.map_dma(memory.address, 0x100000, memory.size)
        await dma_write(device, 0x102000, 8192, 0xAB)
        assert bytes(memory.view[0x2000:0x4000]) == b"\xab" * 8192
        assert await dma_read(device, 0x102000, 16) == b"\xab" * 16
        await container.dirty_start()
        await dma_write(device, 0x105000, 4096, 0xCD)
        assert await container.dirty_ranges(0x100000, memory.size) == [(0x105000, 4096)]
        assert await container.dirty_ranges(0x100000, memory.size) == []
        await container.dirty_stop()
        assert await container.unmap_dma(0x100000, memory.size) == memory.size


async def test_dma_to_private_memory_is_asked_for(session, pages):
    view, address = pages
    container, _, device = await set_up(session)
    await container.map_dma(address, 0x100000, len(view))
    await dma_write(device, 0x101000, 4096, 0x5A)
    assert bytes(view[0x1000:0x2000]) == b"\x5a" * 4096
    protect(address, 4096, mmap.PROT_READ)
    with pytest.raises(OSError, match="Bad address"):
        await dma_write(device, 0x100000, 4096, 0x5A)
    protect(address, 4096, mmap.PROT_READ | mmap.PROT_WRITE)
    await container.unmap_dma(0x100000, len(view))


async def test_iommu_backed_map_pins(session, pages):
    view, address = pages
    container, _, _ = await set_up(session, "pp0")
    await container.map_dma(address, 0x100000, len(view))
    protect(address + 8192, 4096, 0)
    with pytest.raises(OSError, match="Bad address"):
        await container.map_dma(address, 0x200000, len(view))
    protect(address + 8192, 4096, mmap.PROT_READ | mmap.PROT_WRITE)


async def test_interrupt_reaches_the_eventfd(session):
    _, _, device = await set_up(session)
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    await device.set_irq_eventfds(0, [eventfd])
    await device.set_irqs(c.VFIO_IRQ_SET_DATA_NONE | c.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 1)
    assert os.eventfd_read(eventfd) == 1
    os.eventfd_write(eventfd, (1 << 64) - 2)  # saturated, and blocking for a plain write
    os.set_blocking(eventfd, True)
    await device.set_irqs(c.VFIO_IRQ_SET_DATA_NONE | c.VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 1)
    assert os.eventfd_read(eventfd) >= (1 << 64) - 2
    os.close(eventfd)


async def test_token_passed_on_is_proved_by_its_fd(server, session):
    container = await session.open_container()
    async with client.connect(server.socket_path) as other:
        copy = client.Container(other, os.dup(container.fileno()))
        container.close()
        assert await copy.check_extension(c.VFIO_TYPE1_IOMMU) == 1
        copy.close()
