# SPDX-License-Identifier: MIT
"""Updating vaddrs: UNMAP_DMA and MAP_DMA with VADDR, and what is refused in between."""

from vfioemu.testing.process import Process

PAGE = 4096
ALL, VADDR = 2, 4


def test_vaddr_cycle(rig):
    client = rig("pci")
    client.map(0, 2 * PAGE)

    assert client.unmap(0, 2 * PAGE, VADDR) == 2 * PAGE
    assert client.unmap(0, 2 * PAGE, VADDR) == "EINVAL"
    assert client.map(0, PAGE, flags=VADDR) == "EINVAL"
    assert client.map(4 * PAGE, PAGE, flags=VADDR) == "ENOENT"
    assert client.map(0, 2 * PAGE, flags=VADDR) == 0
    assert client.map(0, 2 * PAGE, flags=VADDR) == "EINVAL"
    client.finish()


def test_vaddr_of_a_range_with_an_invalid_mapping_undoes_what_it_did(rig):
    client = rig("pci")
    client.map(0)
    client.map(PAGE)
    client.unmap(PAGE, PAGE, VADDR)

    assert client.unmap(0, 2 * PAGE, VADDR) == "EINVAL"
    assert client.gauges()["vaddr_invalid"] == 1
    assert client.unmap(0, PAGE, VADDR) == PAGE


def test_vaddr_of_all_invalidates_all(rig):
    client = rig("pci")
    client.map(0)
    client.map(8 * PAGE)

    assert client.unmap(0, 0, ALL | VADDR) == 2 * PAGE
    assert client.gauges()["vaddr_invalid"] == 2


def test_vaddr_with_an_mdev_in_the_container_is_ebusy_before_alignment(rig):
    client = rig("mdev")

    assert client.unmap(0x800, 0, VADDR) == "EBUSY"


def test_vaddr_invalid_refuses_pins_dma_and_groups(rig):
    client = rig("pci mdev", joined=1)
    client.map(0)
    client.unmap(0, PAGE, VADDR)
    client.open_group(1)

    assert client.pin(0) == "EBUSY"
    assert client.read(0, 1) == "EBUSY"
    assert client.write(0, b"x") == "EBUSY"
    assert client.set_container(1) == "EBUSY"
    client.map(0, flags=VADDR)
    assert client.pin(0) == 1
    assert client.set_container(1) == 0


def test_vaddr_invalid_mapping_can_be_unmapped(rig):
    client = rig("pci")
    client.map(0)
    client.unmap(0, PAGE, VADDR)

    assert client.unmap(0) == PAGE
    assert client.gauges()["vaddr_invalid"] == 0


def test_vaddr_moves_dma_to_the_new_address(rig):
    client = rig("pci")
    client.map(0)
    client.unmap(0, PAGE, VADDR)
    client.map(0, vaddr=client.data + PAGE, flags=VADDR)

    assert client.write(0, b"moved") is None
    assert client.memory.peek(client.data + PAGE, 5) == b"moved"


def test_vaddr_given_by_another_process_is_charged_to_it(rig):
    client = rig("pci")
    client.map(0, 4 * PAGE)
    client.unmap(0, 4 * PAGE, VADDR)
    heir = Process(client.machine, scheduler=client.process.scheduler)
    container = client.process.send(client.container, heir)
    argument, memory = heir.memory.allocate(PAGE), heir.memory.allocate(4 * PAGE)
    heir.memory.poke(
        argument, b"".join(n.to_bytes(size, "little") for n, size in ((32, 4), (VADDR, 4), (memory, 8)))
    )
    heir.memory.poke(argument + 24, (4 * PAGE).to_bytes(8, "little"))

    assert heir.ioctl(container, 0x3B71, argument).ret == 0
    assert (client.process.locked_pages, heir.locked_pages) == (0, 4)
    heir.exit()
    client.finish()
    assert heir.locked_pages == 0


def test_vaddr_given_by_a_process_without_room_is_enomem_and_changes_nothing(rig):
    client = rig("pci")
    client.map(0, 4 * PAGE)
    client.unmap(0, 4 * PAGE, VADDR)
    heir = Process(client.machine, scheduler=client.process.scheduler, ipc_lock=False, memlock=3 * PAGE)
    container = client.process.send(client.container, heir)
    argument, memory = heir.memory.allocate(PAGE), heir.memory.allocate(4 * PAGE)
    heir.memory.poke(
        argument, b"".join(n.to_bytes(size, "little") for n, size in ((32, 4), (VADDR, 4), (memory, 8)))
    )
    heir.memory.poke(argument + 24, (4 * PAGE).to_bytes(8, "little"))

    assert heir.ioctl(container, 0x3B71, argument).err == "ENOMEM"
    assert (client.process.locked_pages, heir.locked_pages) == (4, 0)
    assert client.gauges()["vaddr_invalid"] == 1
