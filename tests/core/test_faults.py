# SPDX-License-Identifier: MIT
"""A fault at any effect, and a caller that dies at any effect: nothing is left behind, nothing stays locked."""

import errno

import pytest

PAGE = 4096


def scenario(client):
    """A bit of everything that yields effects; every answer may be an error here."""
    for n in (0, 1):
        client.open_group(n)
        if n in client.groups:
            client.set_container(n)
    client.set_iommu(3)
    for n in (0, 1):
        if n in client.groups:
            client.open_device(n)
    client.map(0, 8 * PAGE)
    client.map(20 * PAGE, 4 * PAGE)
    if 0 in client.devices:
        client.pin(0, 4)
    client.start()
    client.open_group(2)
    if 2 in client.groups:
        client.set_container(2)
        client.open_device(2)
    client.map(32 * PAGE, 4 * PAGE)
    if 0 in client.devices:
        client.write(PAGE, b"x" * 9000)
        client.read(PAGE, 9000)
        client.pin(20 * PAGE, 2)
    client.get_bitmap(0, 64 * PAGE)
    client.get_bitmap(PAGE, 63 * PAGE)
    client.unmap_dirty(0, 8 * PAGE)
    client.unmap(20 * PAGE, 4 * PAGE)
    client.ioctl(client.container, 0x3B70, (256).to_bytes(4, "little") + bytes(12))
    client.stop()
    if 2 in client.devices:
        client.close(client.devices[2])
        client.unset_container(2)
    client.unmap(0, 0, 2)


def count_effects(rig):
    client = rig("mdev mdev pci", joined=0, type=0)
    begin = client.process.fallible
    scenario(client)
    return client.process.fallible - begin


def assert_consistent(client):
    """What gauges say fits together, and no lock is held."""
    for container in client.machine.containers.values():
        assert not container.lock.held
        if container.iommu is None:
            continue
        iommu = container.iommu
        gauges = container.gauges()
        assert gauges["mappings"] + gauges["dma_avail"] == 65535
        assert gauges["bitmaps"] == (gauges["mappings"] if iommu.dirty_page_tracking else 0)
        assert gauges["locked_pages"] == client.process.locked_pages
        assert len(iommu.index) == gauges["mappings"]
        assert gauges["pin_references"] == sum(d.npinned for d in client.machine.devices.values())
        backed = sum(attached.domain is not None for attached in iommu.groups.values())
        assert backed == sum(len(domain.groups) for domain in iommu.domains)
        assert iommu.num_non_pinned_groups <= backed
    for group in client.machine.groups.values():
        assert not group.lock.held


def test_a_fault_at_any_effect_leaves_all_consistent(rig):
    for nth in range(1, count_effects(rig) + 1):
        client = rig("mdev mdev pci", joined=0, type=0)
        client.process.inject(nth)
        scenario(client)
        assert_consistent(client)
        client.process.heal()
        client.finish()


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.EBADF])
def test_other_faults_at_any_effect_leave_all_consistent(rig, fault):
    for nth in range(1, count_effects(rig) + 1):
        client = rig("mdev mdev pci", joined=0, type=0)
        client.process.inject(nth, fault)
        scenario(client)
        assert_consistent(client)
        client.finish()


def test_a_client_that_dies_at_any_effect_leaves_nothing(rig):
    for nth in range(1, count_effects(rig) + 1):
        client = rig("mdev mdev pci", joined=0, type=0)
        process = client.process
        begin = process.fallible
        perform = process.perform

        def dying(effect, task, process=process, begin=begin, nth=nth, perform=perform):
            if process.fallible - begin >= nth - 1:
                process.alive = False
            return perform(effect, task)

        process.perform = dying
        scenario(client)
        assert_consistent(client)
        client.finish()
