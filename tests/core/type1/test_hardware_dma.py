# SPDX-License-Identifier: MIT
"""DMA of a device behind an IOMMU: rights, and pages instead of addresses; and how vfio_dma_rw() differs from it."""

import errno

import pytest

from vfioemu.core.base.errors import IoctlError
from vfioemu.native.dma import DmaBatch, Op, Status
from vfioemu.native.log import DirtyLog
from vfioemu.testing.process import Process

PAGE = 4096
READ, WRITE, BOTH = 1, 2, 3


def device(client, n=0):
    return client.machine.devices[f"d{n}"]


def batch_of(*transfers):
    batch = DmaBatch(bytearray(b"\xda" * 8192), len(transfers))
    for op, iova, size in transfers:
        batch.add(op, iova, size, 0)
    return batch


def kernel_thread(client):
    return Process(client.machine, scheduler=client.process.scheduler, pid=0, kernel_thread=True)


def outcome(process, steps):
    """What a device gets that works in the name of `process`."""
    try:
        return process.scheduler.call(steps, process, "device")
    except IoctlError as error:
        return errno.errorcode[error.errno]


@pytest.mark.parametrize("shared", [True, False], ids=["window", "by address"])
@pytest.mark.parametrize("prot", [READ, WRITE, BOTH])
@pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.HARDWARE_WRITE, Op.HIDDEN_WRITE])
def test_hardware_has_the_right_that_map_dma_gave_and_needs_no_other(rig, shared, prot, op):
    client = rig("pci")
    client.map(0, vaddr=client.memory.allocate(PAGE, shared=shared), flags=prot)
    may = bool(prot & (READ if op is Op.READ else WRITE))
    steps = device(client).dma_read(8, 4) if op is Op.READ else device(client).dma_write(8, b"1234")
    batch = batch_of((op, 0, 16))

    assert (client.run(steps) == "EFAULT") is not may
    assert client.run(device(client).dma_batch(batch)) == int(may)
    assert (batch[0].status == Status.DONE) is may


@pytest.mark.parametrize("shared", [True, False], ids=["window", "by address"])
@pytest.mark.parametrize("prot", [READ, WRITE, BOTH])
@pytest.mark.parametrize("op", [Op.READ, Op.WRITE, Op.HIDDEN_WRITE])
def test_dma_rw_needs_read_for_writes_too(rig, shared, prot, op):
    client = rig("mdev")
    client.map(0, vaddr=client.memory.allocate(PAGE, shared=shared), flags=prot)
    may = bool(prot & READ) and (op is Op.READ or bool(prot & WRITE))

    assert client.run(device(client).dma_batch(batch_of((op, 0, 16)))) == int(may)


@pytest.mark.parametrize("shared", [True, False], ids=["window", "by address"])
def test_hardware_goes_on_while_vaddrs_are_invalid(rig, shared):
    client = rig("pci")
    memory = client.memory.allocate(2 * PAGE, shared=shared)
    client.map(0, vaddr=memory)
    client.map(PAGE, vaddr=memory + PAGE)
    client.unmap(0, PAGE, 4)

    assert client.run(device(client).dma_write(0, b"one")) is None
    assert client.run(device(client).dma_batch(batch_of((Op.HARDWARE_WRITE, PAGE, 3)))) == 1
    assert client.memory.peek(memory, 3) == b"one"
    assert client.memory.peek(memory + PAGE, 3) == b"\xda" * 3
    assert client.write(0, b"two") == "EBUSY"


@pytest.mark.parametrize("shared", [True, False], ids=["window", "by address"])
@pytest.mark.parametrize("what", ["protect", "unmap", "exit"])
def test_hardware_keeps_what_it_has_whatever_becomes_of_the_address(rig, shared, what):
    client = rig("pci")
    memory = client.memory.allocate(PAGE, shared=shared)
    client.map(0, vaddr=memory)
    if what == "protect":
        client.memory.protect(memory, PAGE, "none")
    elif what == "unmap":
        client.memory.unmap(memory, PAGE)
    else:
        client.process.alive = False
    thread = kernel_thread(client)

    assert outcome(thread, device(client).dma_write(16, b"there")) is None
    assert outcome(thread, device(client).dma_read(16, 5)) == b"there"
    assert outcome(thread, device(client).dma_batch(batch_of((Op.HARDWARE_WRITE, 0, 8)))) == 1


def test_hardware_spans_mappings_and_faults_at_a_hole(rig):
    client = rig("pci")
    memory = client.memory.allocate(2 * PAGE)
    client.map(0, vaddr=memory + PAGE)
    client.map(PAGE, vaddr=memory)

    assert client.run(device(client).dma_write(PAGE - 2, b"abcd")) is None
    assert client.run(device(client).dma_read(PAGE - 2, 4)) == b"abcd"
    assert client.memory.peek(memory, 2) + client.memory.peek(memory + 2 * PAGE - 2, 2) == b"cdab"
    assert client.run(device(client).dma_write(2 * PAGE - 1, b"yz")) == "EFAULT"
    assert client.run(device(client).dma_read(2 * PAGE, 1)) == "EFAULT"
    assert client.memory.peek(memory + PAGE - 1, 1) == b"y"


def test_what_was_mapped_before_the_iommu_came_is_reached_through_it(rig):
    client = rig("mdev pci", joined=1)
    memory = client.memory.allocate(PAGE)
    client.map(0, vaddr=memory)

    client.open_group(1)
    client.set_container(1)
    client.open_device(1)

    assert client.run(device(client, 1).dma_write(0, b"late")) is None
    assert client.memory.peek(memory, 4) == b"late"


def test_each_write_of_hardware_is_in_the_devices_own_log_also_what_failed_half_way(rig):
    client = rig("pci")
    client.map(0)
    log = DirtyLog(12, [(0, 4 * PAGE)])

    done = client.run(device(client).dma_batch(batch_of((Op.HARDWARE_WRITE, PAGE - 4, 8)), log))

    assert done == 0
    assert log.ranges[0][2].runs() == [(0, 2)]


# --- vfio_dma_rw(): in whose name, and whether there is anybody ---


@pytest.mark.parametrize("shared", [True, False], ids=["window", "by address"])
def test_dma_rw_of_memory_of_another_process_is_efault_but_for_a_kernel_thread(rig, shared):
    client = rig("mdev")
    memory = client.memory.allocate(PAGE, shared=shared)
    client.map(0, vaddr=memory)
    other = Process(client.machine, scheduler=client.process.scheduler, pid=2)
    thread = kernel_thread(client)

    assert outcome(other, device(client).rw_write(0, b"x")) == "EFAULT"
    assert outcome(other, device(client).rw_read(0, 1)) == "EFAULT"
    assert outcome(other, device(client).dma_batch(batch_of((Op.WRITE, 0, 8), (Op.READ, 0, 8)))) == 0
    assert client.memory.peek(memory, 8) == bytes(8)
    assert outcome(thread, device(client).rw_write(0, b"y")) is None
    assert outcome(thread, device(client).dma_batch(batch_of((Op.WRITE, 0, 8)))) == 1


def test_another_process_meets_the_checks_of_the_mapping_first(rig):
    client = rig("mdev")
    client.map(0, flags=WRITE)
    other = Process(client.machine, scheduler=client.process.scheduler, pid=2)

    assert outcome(other, device(client).rw_write(0, b"x")) == "EPERM"
    assert outcome(other, device(client).rw_read(PAGE, 1)) == "EINVAL"


@pytest.mark.parametrize("shared", [True, False], ids=["window", "by address"])
def test_dead_memory_is_eperm_for_dma_rw_and_enodev_for_a_pin(rig, shared):
    client = rig("mdev")
    client.map(0, vaddr=client.memory.allocate(PAGE, shared=shared))
    client.process.alive = False
    other = Process(client.machine, scheduler=client.process.scheduler, pid=2)

    for process in (other, kernel_thread(client)):
        assert outcome(process, device(client).rw_write(0, b"x")) == "EPERM"
        assert outcome(process, device(client).rw_read(0, 1)) == "EPERM"
        assert outcome(process, device(client).dma_batch(batch_of((Op.WRITE, 0, 8)))) == 0
        assert outcome(process, device(client).pin(0, 1, BOTH)) == "ENODEV"


def test_a_pin_reaches_memory_of_another_process_that_lives(rig):
    client = rig("mdev")
    client.map(0)
    other = Process(client.machine, scheduler=client.process.scheduler, pid=2)

    assert outcome(other, device(client).pin(0, 1, BOTH)) == 1
