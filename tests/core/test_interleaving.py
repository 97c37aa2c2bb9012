# SPDX-License-Identifier: MIT
"""Two calls at a time: the lock is held over effects, dropped for devices, and no order of effects goes wrong."""

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from vfioemu.testing.process import Process
from vfioemu.uapi import constants as c

PAGE = 4096


def prepared(client, at, payload):
    """A second argument, so that two calls of one process do not share theirs."""
    address = client.argument + at
    client.memory.poke(address, payload)
    return address


def map_payload(client, iova, size=PAGE, flags=3):
    return struct.pack("<IIQQQ", 32, flags, client.data, iova, size)


def unmap_payload(iova, size, flags=0):
    return struct.pack("<IIQQ", 24, flags, iova, size)


def start(client, fd, cmd, address):
    return client.process.start_ioctl(fd, cmd, address)


def test_map_waits_while_another_map_pins(rig):
    client = rig("pci")
    scheduler = client.process.scheduler
    one = start(
        client, client.container, c.VFIO_IOMMU_MAP_DMA, prepared(client, PAGE, map_payload(client, 0))
    )
    two = start(
        client, client.container, c.VFIO_IOMMU_MAP_DMA, prepared(client, 2 * PAGE, map_payload(client, 0))
    )

    scheduler.step(one)  # its argument
    scheduler.step(one)  # the lock
    scheduler.step(one)  # the pages
    scheduler.step(two)
    assert not scheduler.step(two)  # waits
    scheduler.run(one)
    scheduler.run_all()

    assert one.result() == 0
    assert two.done
    assert client.gauges()["mappings"] == 1


def test_call_that_waits_while_the_last_group_leaves_is_einval(rig):
    client = rig()
    scheduler = client.process.scheduler
    client.close(client.devices[0])
    late = start(
        client, client.container, c.VFIO_IOMMU_MAP_DMA, prepared(client, PAGE, map_payload(client, 0))
    )
    scheduler.step(late)  # its argument has been read
    assert client.unset_container(0) == 0
    client.set_container(0)
    client.set_iommu(3)
    scheduler.run_all()

    assert late.done
    assert client.gauges()["mappings"] == 0
    client.finish()


def test_device_that_is_being_opened_keeps_the_group_whose_fd_is_closed(rig):
    client = rig("mdev")
    client.close(client.devices[0])
    scheduler = client.process.scheduler
    address = prepared(client, PAGE, b"name0\0")
    opening = start(client, client.groups[0], c.VFIO_GROUP_GET_DEVICE_FD, address)
    scheduler.step(opening)
    client.close(client.groups[0])
    scheduler.run_all()

    assert client.open_group(0) == "EBUSY"
    assert client.gauges()["groups"] == 1
    client.close(opening.result())
    assert isinstance(client.open_group(0), int)
    client.finish()


def test_set_container_that_is_under_way_when_the_group_fd_is_closed_does_not_last(rig):
    client = rig("mdev pci", joined=1)
    client.map(0)
    client.open_group(1)
    scheduler = client.process.scheduler
    address = prepared(client, PAGE, struct.pack("<i", client.container))
    joining = start(client, client.groups[1], c.VFIO_GROUP_SET_CONTAINER, address)
    for _ in range(5):
        scheduler.step(joining)
    client.close(client.groups[1])
    scheduler.run_all()

    assert joining.result() == 0
    assert client.gauges()["groups"] == 1
    assert client.process.locked_pages == 0
    client.finish()


def test_unmap_while_its_device_closes_and_its_group_leaves(rig):
    client = rig("mdev")
    client.map(0)
    client.pin(0)
    scheduler = client.process.scheduler
    unmap = start(
        client, client.container, c.VFIO_IOMMU_UNMAP_DMA, prepared(client, PAGE, unmap_payload(0, PAGE))
    )
    scheduler.step(unmap)
    scheduler.step(unmap)  # holds the lock
    scheduler.step(unmap)  # has dropped it, and is in the callback
    client.close(client.devices[0])
    client.unset_container(0)
    scheduler.run_all()

    assert unmap.done
    assert client.gauges() == {"groups": 0, "open": 1}
    client.finish()


@given(seed=st.integers(0, 1 << 32))
def test_any_order_of_effects_ends_without_deadlock_and_leaves_nothing(rig, seed):
    chance = random.Random(seed)
    client = rig("mdev mdev pci", joined=2)
    process = client.process
    process.scheduler.choose = None
    client.open_group(2)
    second = Process(client.machine, scheduler=process.scheduler, pid=2)
    container = process.send(client.container, second)
    argument = second.memory.allocate(16 * PAGE)
    devices = [client.machine.devices[f"d{n}"] for n in range(2)]
    calls = []
    for n in range(14):
        at = (n + 1) * PAGE
        iova, size = chance.randrange(8) * PAGE, chance.randrange(1, 5) * PAGE
        kind = chance.randrange(9)
        if kind <= 1:
            calls.append((client.container, c.VFIO_IOMMU_MAP_DMA, at, map_payload(client, iova, size)))
        elif kind == 2:
            calls.append((client.container, c.VFIO_IOMMU_UNMAP_DMA, at, unmap_payload(0, 16 * PAGE)))
        elif kind == 3:
            flags = chance.choice([1, 2, 4])
            body = struct.pack("<IIQQQQQ", 48, flags, 0, 16 * PAGE, PAGE, 8, client.bitmap)
            calls.append((client.container, c.VFIO_IOMMU_DIRTY_PAGES, at, body))
        elif kind == 4:
            calls.append(
                (client.groups[2], c.VFIO_GROUP_SET_CONTAINER, at, struct.pack("<i", client.container))
            )
        elif kind == 5:
            calls.append((client.groups[2], c.VFIO_GROUP_UNSET_CONTAINER, at, b""))
        else:
            calls.append((None, kind, iova, chance.randrange(2)))
    for fd, cmd, at, payload in calls:
        if fd is None:
            device = devices[payload]
            steps = {
                6: device.pin(at, 2, 3),
                7: device.unpin_range(at, 4 * PAGE),
                8: device.rw_write(at, b"x" * 5000),
            }
            process.start(steps[cmd], f"device {cmd}")
        else:
            start(client, fd, cmd, prepared(client, at, payload))
    second.memory.poke(argument, map_payload(client, 9 * PAGE))
    second.start_ioctl(container, c.VFIO_IOMMU_MAP_DMA, argument)
    process.scheduler.choose = chance.choice
    process.scheduler.run_all()
    process.scheduler.choose = None

    gauges = client.gauges()
    assert gauges["pin_references"] == sum(device.npinned for device in devices)
    assert gauges["mappings"] + gauges["dma_avail"] == 65535
    second.exit()
    client.finish()
    assert second.locked_pages == 0
