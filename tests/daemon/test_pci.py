# SPDX-License-Identifier: MIT
"""PCI functions through a daemon: BARs that are really mapped, eventfds that the function hears, interrupts."""

import faulthandler
import os
import signal
import struct

import pytest

from vfioemu import client, daemon
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.pci.cards import edu
from vfioemu.uapi import constants as c

PAGE = 4096
CONFIG = c.VFIO_PCI_CONFIG_REGION_INDEX << 40
FUNCTIONS: dict[str, tuple[int, str, str, dict[str, object]]] = {
    "memory": (4, "0000:00:12.0", "vfio-pci", {"bars": [4 * PAGE]}),
    "edu": (5, "0000:00:13.0", "edu", {"dma-delay": 0}),
    "one": (10, "0000:02:01.0", "pci-testdev", {}),
    "two": (10, "0000:02:02.0", "pci-testdev", {}),
}
MACHINE = MachineSpec(
    groups=tuple(GroupSpec(number=number, iommu=IommuSpec()) for number in (4, 5, 10)),
    devices=tuple(
        DeviceSpec(symbol=symbol, name=name, group=group, model=model, options=options)
        for symbol, (group, name, model, options) in FUNCTIONS.items()
    ),
)
SET_IRQS_FD = c.VFIO_IRQ_SET_DATA_EVENTFD


@pytest.fixture
async def server(memory):
    async with daemon.running(MACHINE, memory=memory) as running:
        yield running
        assert running.dispatcher.counters.bugs == 0


async def open_function(session, symbol):
    number, name, _, _ = FUNCTIONS[symbol]
    container = await session.open_container()
    group = await session.open_group(number)
    await group.set_container(container)
    await container.set_iommu(3)
    return container, group, await group.get_device(name)


def eventfd():
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def count(fd):
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


async def set_eventfd(device, index, action, fd):
    await device.set_irqs(SET_IRQS_FD | action, index, 0, 1, struct.pack("<i", fd))


async def test_a_bar_is_mapped_from_any_page_on(session):
    _, _, device = await open_function(session, "memory")
    whole = await device.mmap(4 * PAGE)
    part = await device.mmap(PAGE, offset=2 * PAGE)

    part[:5] = b"hello"
    assert whole[2 * PAGE : 2 * PAGE + 5] == b"hello"
    assert await device.pread(5, 2 * PAGE) == b"hello"
    await device.pwrite(b"J", 2 * PAGE)
    assert part[:5] == b"Jello"

    with pytest.raises(OSError, match="Invalid argument"):
        await device.mmap(5 * PAGE)
    with pytest.raises(OSError, match="Invalid argument"):
        await device.mmap_fd(PAGE, 3, 0, shared=False)
    whole.close()
    part.close()


@pytest.mark.parametrize("how", ["close", "with", "forget"])
async def test_a_mapping_holds_its_device(session, how):
    container, group, device = await open_function(session, "memory")
    mapped = await device.mmap(PAGE)
    view = memoryview(mapped)
    device.close()
    with pytest.raises(OSError, match="busy"):
        await group.unset_container()
    with pytest.raises(BufferError):
        mapped.close()
    view.release()
    group.close()
    container.close()
    with pytest.raises(OSError, match="busy"):
        await session.open_group(4)

    if how == "with":
        with mapped:
            mapped[0] = 1
    elif how == "close":
        mapped.close()
        mapped.close()
    del mapped

    (await session.open_group(4)).close()


async def test_an_unmask_eventfd_that_is_closed_is_let_go(session):
    _, _, device = await open_function(session, "edu")
    irq, first, second = eventfd(), eventfd(), eventfd()
    copy = os.dup(first)
    await set_eventfd(device, 0, c.VFIO_IRQ_SET_ACTION_TRIGGER, irq)
    await set_eventfd(device, 0, c.VFIO_IRQ_SET_ACTION_UNMASK, first)
    os.close(first)
    with pytest.raises(OSError, match="busy"):
        await set_eventfd(device, 0, c.VFIO_IRQ_SET_ACTION_UNMASK, second)
    os.close(copy)
    await set_eventfd(device, 0, c.VFIO_IRQ_SET_ACTION_UNMASK, second)
    for fd in (irq, second):
        os.close(fd)


def how_a_touch_ends(mapped):
    pid = os.fork()
    if not pid:
        faulthandler.disable()
        mapped[0]
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


async def test_a_mapping_is_a_bus_error_while_memory_is_not_decoded(session):
    _, _, device = await open_function(session, "memory")
    mapped = await device.mmap(PAGE)
    mapped[:4] = b"kept"
    assert how_a_touch_ends(mapped) == 0

    await device.pwrite(b"\0", CONFIG + 4)
    assert how_a_touch_ends(mapped) == signal.SIGBUS
    with pytest.raises(OSError, match="Input/output"):
        await device.pread(4, 0)

    await device.pwrite(b"\x02", CONFIG + 4)
    assert mapped[:4] == b"kept"
    mapped.close()


async def test_an_eventfd_unmasks_before_the_next_call_is_looked_at(session):
    _, _, device = await open_function(session, "edu")
    irq, unmask = eventfd(), eventfd()
    await set_eventfd(device, c.VFIO_PCI_INTX_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_TRIGGER, irq)
    await set_eventfd(device, c.VFIO_PCI_INTX_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_UNMASK, unmask)
    await device.pwrite(struct.pack("<I", 1), edu.IRQ_RAISE)
    assert count(irq) == 1

    for _ in range(20):
        os.eventfd_write(unmask, 1)
        await device.info()
        assert count(irq) == 1  # the line is asserted still
        assert count(unmask) == 0

    await device.pwrite(struct.pack("<I", 1), edu.IRQ_ACK)
    os.eventfd_write(unmask, 3)
    await device.pwrite(struct.pack("<I", 2), edu.IRQ_RAISE)
    assert count(irq) == 1
    await set_eventfd(device, c.VFIO_PCI_INTX_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_UNMASK, -1)
    os.eventfd_write(unmask, 1)
    await device.info()
    assert (count(irq), count(unmask)) == (0, 1)
    os.close(irq)
    os.close(unmask)


async def test_a_blocking_eventfd_and_one_that_goes_away_do_no_harm(session):
    _, _, device = await open_function(session, "edu")
    irq, unmask = eventfd(), os.eventfd(0, os.EFD_CLOEXEC)
    await set_eventfd(device, c.VFIO_PCI_INTX_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_TRIGGER, irq)
    await set_eventfd(device, c.VFIO_PCI_INTX_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_UNMASK, unmask)
    os.eventfd_write(unmask, 1)
    await device.info()
    os.close(unmask)
    await device.info()
    device.close()
    os.close(irq)


async def test_a_storm_of_interrupts_leaves_room_for_others(session, server):
    _, _, device = await open_function(session, "edu")
    fd = eventfd()
    await set_eventfd(device, c.VFIO_PCI_INTX_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_TRIGGER, fd)
    await set_eventfd(device, c.VFIO_PCI_INTX_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_UNMASK, fd)
    await device.pwrite(
        struct.pack("<I", 1), edu.IRQ_RAISE
    )  # signals fd, which unmasks, which signals fd ...

    async with client.connect(server.socket_path) as other:
        for _ in range(10):
            container = await other.open_container()
            container.close()
    await device.pwrite(struct.pack("<I", 1), edu.IRQ_ACK)
    assert await device.pread(4, edu.IRQ_STATUS) == bytes(4)
    os.close(fd)


async def test_a_signalled_eventfd_writes_to_a_bar(session):
    _, _, device = await open_function(session, "memory")
    fd = eventfd()
    rule = struct.pack("<IIQQiI", 32, 4, 8, 0x11223344, fd, 0)
    await device.ioctl_buffer(c.VFIO_DEVICE_IOEVENTFD, bytearray(rule))

    os.eventfd_write(fd, 1)

    assert await device.pread(4, 8) == struct.pack("<I", 0x11223344)
    os.close(fd)


async def transfer(device, source, destination, command):
    for place, value in (
        (edu.DMA_SOURCE, source),
        (edu.DMA_DESTINATION, destination),
        (edu.DMA_LENGTH, PAGE),
        (edu.DMA_COMMAND, command | edu.DMA_RUN | edu.DMA_IRQ),
    ):
        await device.pwrite(struct.pack("<I", value), place)
    while struct.unpack("<I", await device.pread(4, edu.DMA_COMMAND))[0] & edu.DMA_RUN:
        pass


@pytest.mark.parametrize("shared", [True, False])
async def test_hardware_keeps_pages_that_a_client_discards(session, server, shared):
    container, _, device = await open_function(session, "edu")
    await device.pwrite(b"\x06", CONFIG + 4)
    with client.Memory(16 * PAGE) as memory, client.Memory(PAGE) as other:
        if shared:
            await session.share_memory(memory)
        await container.map_dma(memory.address, iova=0x10000, size=memory.size)
        await container.map_dma(other.address, iova=0x80000, size=PAGE)
        memory.view[:PAGE] = bytes(range(256)) * 16

        await session.discard(memory)
        await transfer(device, 0x10000, edu.BUFFER, 0)
        await transfer(device, edu.BUFFER, 0x13000, edu.DMA_TO_MEMORY)
        await transfer(device, edu.BUFFER, 0x80000, edu.DMA_TO_MEMORY)

        assert other.view[:] == bytes(range(256)) * 16
        assert memory.view[:] == bytes(16 * PAGE)
        assert server.dispatcher.counters.remarks == {"discarded": 1}


async def test_edu_does_dma_and_interrupts_by_msi(session, server):
    container, _, device = await open_function(session, "edu")
    irq = eventfd()
    with client.Memory(16 * PAGE) as memory:
        memory.populate()
        await session.share_memory(memory)
        await container.map_dma(memory.address, iova=0x10000, size=memory.size)
        memory.view[:PAGE] = bytes(range(256)) * 16
        await set_eventfd(device, c.VFIO_PCI_MSI_IRQ_INDEX, c.VFIO_IRQ_SET_ACTION_TRIGGER, irq)
        await device.pwrite(b"\x06", CONFIG + 4)

        await transfer(device, 0x10000, edu.BUFFER, 0)
        await transfer(device, edu.BUFFER, 0x13000, edu.DMA_TO_MEMORY)

        assert memory.view[3 * PAGE : 4 * PAGE] == memory.view[:PAGE]
        assert count(irq) == 2
    os.close(irq)


async def test_a_hot_reset_of_a_group(session):
    _, group, device = await open_function(session, "one")
    payload = struct.pack("<3Ii", 16, 0, 1, group.fileno())
    await device.ioctl_buffer(c.VFIO_DEVICE_PCI_HOT_RESET, bytearray(payload))

    info = bytearray(struct.pack("<3I", 28, 0, 0).ljust(28, b"\0"))
    await device.ioctl_buffer(c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info)
    assert struct.unpack_from("<I", info, 8) == (2,)
