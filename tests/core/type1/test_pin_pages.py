# SPDX-License-Identifier: MIT
"""vfio_pin_pages(), vfio_unpin_pages() and vfio_dma_rw()."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.releases import every_release, name
from vfioemu.native.dma import DmaBatch, Op, Status
from vfioemu.native.log import DirtyLog

PAGE = 4096

requests = st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 10)), max_size=20)


@given(requests=requests)
def test_pins_are_counted_and_charged_once(rig, requests):
    client = rig()
    client.map(0, 16 * PAGE)
    client.map(16 * PAGE, 8 * PAGE)
    held = {}
    for pin, first, count in requests:
        pages = range(first, first + count)
        if pin:
            if pages.stop <= 24:
                assert client.pin(first * PAGE, count) == count
                held |= {page: held.get(page, 0) + 1 for page in pages}
            else:
                assert client.pin(first * PAGE, count) == "EINVAL"
        else:
            assert client.unpin(first * PAGE, count) == sum(page in held for page in pages)
            held = {p: n - (p in pages) for p, n in held.items() if n - (p in pages)}
        gauges = client.gauges()
        assert (gauges["pins"], gauges["pin_references"]) == (len(held), sum(held.values()))
        assert client.process.locked_pages == gauges["locked_pages"] == len(held)
    client.finish()


@pytest.mark.parametrize(("npages", "answer"), [(0, "EINVAL"), (513, "E2BIG"), (-1, "E2BIG"), (512, 512)])
def test_pin_takes_1_to_512_pages(rig, npages, answer):
    client = rig()
    client.map(0, 1024 * PAGE, vaddr=client.memory.allocate(1024 * PAGE))

    assert client.pin(0, npages) == answer


@pytest.mark.parametrize(
    ("setup", "answer"),
    [
        ({"type": 1}, "EACCES"),
        ({"groups": "deaf-mdev"}, "EINVAL"),
        ({"groups": "deaf-mdev mdev"}, "EINVAL"),
        ({}, 1),
    ],
)
def test_pin_needs_v2_and_a_dma_unmap_callback(rig, setup, answer):
    client = rig(**setup)
    client.map(0)

    assert client.pin(0) == answer


@every_release
def test_pin_across_2_to_the_64(rig, profile):
    client = rig(profile=profile.name)

    assert client.pin((1 << 64) - PAGE, 2) == (name(profile.pin_wrap_errno) or "EINVAL")  # nothing is mapped


@given(allowed=st.integers(1, 3), asked=st.integers(0, 8))
def test_pin_asks_for_no_more_than_the_mapping_allows(rig, allowed, asked):
    client = rig()
    client.map(0, flags=allowed)

    assert client.pin(0, prot=asked) == (1 if asked & allowed == asked else "EPERM")


def test_pin_needs_the_mappings_access_to_memory_not_its_own(rig):
    client = rig()
    client.map(0, flags=3)
    client.map(PAGE, flags=1)
    client.memory.protect(client.data, PAGE, "r")

    assert client.pin(0, prot=1) == "EFAULT"
    assert client.pin(PAGE, prot=1) == 1


def test_pin_of_a_pinned_page_does_not_look_at_memory(rig):
    client = rig()
    client.map(0)
    client.pin(0)
    client.memory.unmap(client.data, 1 << 20)

    assert client.pin(0) == 1
    assert client.write(0, b"x") == "EFAULT"


def test_failed_pin_gives_back_only_its_own(rig):
    client = rig()
    client.map(0, 4 * PAGE)
    client.memory.protect(client.data + 3 * PAGE, PAGE, "none")
    client.pin(PAGE)

    assert client.pin(0, 4) == "EFAULT"
    assert (client.gauges()["pins"], client.gauges()["pin_references"]) == (1, 1)
    assert client.process.locked_pages == 1
    client.finish()


def test_pins_are_keyed_by_the_exact_iova(rig):
    client = rig()
    client.map(0, 4 * PAGE)

    assert [client.pin(iova) for iova in (0x2000, 0x2005, 0x2006)] == [1, 1, 1]
    assert client.gauges()["pins"] == 3
    assert client.unpin(0x2001) == 0
    client.start()
    assert client.harvest(0, 4) == [4]
    client.finish()


@pytest.mark.parametrize("iova", [0, PAGE - 1, (1 << 64) - PAGE, (1 << 64) - 1])
def test_closing_the_device_gives_back_every_pin(rig, iova):
    client = rig("mdev mdev", quirks="clean")
    client.map(iova & -PAGE)
    assert client.pin(iova) == 1

    client.close(client.devices.pop(0))

    assert client.gauges()["pins"] == client.gauges()["locked_pages"] == 0


def test_pin_that_begins_below_its_mapping_marks_nothing_outside(rig):
    client = rig()
    client.map(PAGE, vaddr=client.data + PAGE)
    client.start()

    assert client.pin(0x800) == 1  # overlaps the mapping: vfio_find_dma(iommu, iova, PAGE_SIZE)
    assert client.harvest(PAGE, 1) == [0]
    client.stop()
    client.start()
    assert client.harvest(PAGE, 1) == [0]
    client.finish()


# --- dma_rw ---


@given(
    spans=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=5),
    offset=st.integers(0, 12 * PAGE),
    size=st.integers(1, 5 * PAGE),
)
def test_write_goes_as_far_as_mappings_reach_and_marks_just_that(rig, spans, offset, size):
    client = rig()
    mapped = set()
    for first, count in spans:
        if client.map(first * PAGE, count * PAGE, vaddr=client.data + first * PAGE) == 0:
            mapped |= set(range(first, first + count))
    client.start()
    pages = range(offset // PAGE, (offset + size - 1) // PAGE + 1)
    reached = [page for n, page in enumerate(pages) if all(p in mapped for p in pages[: n + 1])]

    whole = len(reached) == len(pages)
    assert client.write(offset, b"\x5a" * size) == (None if whole else "EINVAL")
    written = size if whole else max(0, len(reached) * PAGE - offset % PAGE) if reached else 0
    memory = client.memory.peek(client.data + offset, size)
    assert memory == b"\x5a" * written + bytes(size - written)
    if whole:
        assert client.read(offset, size) == memory
    dirty = {
        page
        for first, count in spans
        if any(p in mapped for p in range(first, first + count))
        for page in range(first, first + count)
        if page in mapped and client.run(_is_dirty(client, page))
    }
    assert dirty == set(reached)


def _is_dirty(client, page):
    yield from ()
    dma = client.iommu.map.find(page * PAGE, 1)
    return dma.bitmap.test(page - dma.iova // PAGE)


@pytest.mark.parametrize(
    ("flags", "read", "write"), [(1, b"\0", "EPERM"), (2, "EPERM", "EPERM"), (3, b"\0", None)]
)
def test_write_needs_read_as_well(rig, flags, read, write):
    client = rig()
    client.map(0, flags=flags)

    assert client.read(0, 1) == read
    assert client.write(0, b"x") == write


@pytest.mark.parametrize(("quirks", "dirty"), [("recorded", 0), ("clean", 3)])
def test_failed_write_marks_what_it_may_have_touched_only_when_clean(rig, quirks, dirty):
    client = rig(quirks=quirks)
    client.map(0, 2 * PAGE)
    client.memory.protect(client.data + PAGE, PAGE, "r")
    client.start()

    assert client.write(0, bytes([1]) * 2 * PAGE) == "EFAULT"
    assert client.memory.peek(client.data, PAGE) == bytes([1]) * PAGE
    assert client.harvest(0, 2) == [dirty]


def test_dma_on_v1_works(rig):
    client = rig(type=1)
    client.map(0)

    assert client.write(0, b"abc") is None
    assert client.read(0, 3) == b"abc"


def test_dma_goes_to_whoever_mapped_even_after_its_death(rig):
    client = rig()
    client.map(0)
    client.process.alive = False

    assert client.read(0, 1) == "EPERM"
    assert client.pin(0) == "ENODEV"  # vfio_pin_page_external() has another word for it
    client.process.alive = True
    assert client.pin(0) == 1
    client.process.alive = False
    assert client.pin(0) == 1  # the page is there already
    client.process.alive = True


# --- batches ---


def make_batch(transfers):
    local = bytearray(range(256)) * 64
    batch = DmaBatch(local)
    for op, iova, size, at in transfers:
        batch.add(op, iova, size, at)
    return batch


transfers = st.lists(
    st.tuples(
        st.sampled_from([Op.READ, Op.WRITE]),
        st.integers(0, 10 * PAGE),
        st.integers(1, 2 * PAGE),
        st.integers(0, 14 << 10),
    ),
    max_size=20,
)


@given(transfers=transfers, flags=st.integers(1, 3), shared=st.booleans())
def test_batch_does_what_single_transfers_do(rig, transfers, flags, shared):
    batched, single = rig(), rig()
    for client in (batched, single):
        memory = client.memory.allocate(8 * PAGE, shared=shared)
        client.map(PAGE, 4 * PAGE, vaddr=memory, flags=flags)
        client.map(5 * PAGE, 2 * PAGE, vaddr=memory + 4 * PAGE)
        client.start()
        client.shared = memory
    batch = make_batch([])
    alone = bytearray(batch.local)
    # the C code does its part of a batch first, so a batch of one shows the order that is promised
    for op, iova, size, at in transfers:
        batch.clear()
        batch.add(op, iova, size, at)
        done = batched.run(batched.machine.devices["d0"].dma_batch(batch))
        if at + size > len(alone):
            assert (done, batch[0].status) == (0, Status.BAD)
            continue
        if op is Op.WRITE:
            ok = single.write(iova, bytes(alone[at : at + size])) is None
        else:
            data = single.read(iova, size)
            ok = isinstance(data, bytes)
            if ok:
                alone[at : at + size] = data
        assert (done, batch[0].status == Status.DONE) == (int(ok), ok)
    assert batch.local == alone
    assert batched.memory.peek(batched.shared, 8 * PAGE) == single.memory.peek(single.shared, 8 * PAGE)
    assert batched.harvest(PAGE, 6) == single.harvest(PAGE, 6)


@pytest.mark.parametrize("shared", [True, False])
def test_batch_marks_the_devices_own_log(rig, shared):
    client = rig()
    client.map(0, 4 * PAGE, vaddr=client.memory.allocate(4 * PAGE, shared=shared))
    log = DirtyLog(12, [(0, 2 * PAGE)])
    batch = make_batch(
        [(Op.WRITE, PAGE, 8, 0), (Op.READ, 0, 8, 0), (Op.WRITE, 3 * PAGE, 8, 0), (Op.WRITE, 9 * PAGE, 8, 0)]
    )

    assert client.run(client.machine.devices["d0"].dma_batch(batch, log)) == 3
    assert [transfer.status == Status.DONE for transfer in batch] == [True, True, True, False]
    assert log.ranges[0][2].runs() == [(1, 1)]


def test_rw_batch_while_a_vaddr_is_invalid_is_ebusy(rig):
    client = rig("pci")
    client.map(0)
    client.unmap(0, PAGE, 4)
    iommu = client.machine.devices["d0"].group.backend

    assert client.run(iommu.rw_batch(make_batch([(Op.WRITE, 0, 8, 0)]), None)) == "EBUSY"


def test_batch_beside_a_mapping_up_to_2_to_the_64_still_reaches_what_lookups_find(rig):
    client = rig()
    client.map(1 << 63, 1 << 63, vaddr=0)
    client.map(0, vaddr=client.memory.allocate(PAGE, shared=True))
    batch = make_batch([(Op.WRITE, 0, 8, 8), (Op.WRITE, 1 << 63, 8, 8)])

    assert client.run(client.machine.devices["d0"].dma_batch(batch)) == 1


def test_batch_after_unmap_touches_nothing(rig):
    client = rig()
    memory = client.memory.allocate(PAGE, shared=True)
    client.map(0, vaddr=memory)
    client.unmap(0)
    batch = make_batch([(Op.WRITE, 0, 8, 8)])

    assert client.run(client.machine.devices["d0"].dma_batch(batch)) == 0
    assert client.memory.peek(memory, 8) == bytes(8)
