# SPDX-License-Identifier: MIT
"""The ledger of a device's writes, which the core keeps beside dirty tracking: every write is in it, however it is made."""

import pytest

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.streams import RUNNING, RUNNING_P2P, STOP, STOP_COPY
from vfioemu.native.dma import DmaBatch, Op
from vfioemu.native.ledger import WriteLedger

PAGE = 4096
PAGES = 8
RANGE = [(0, PAGES * PAGE)]


def batch_of(*transfers):
    batch = DmaBatch(bytearray(2 * PAGE), len(transfers))
    for op, iova, size in transfers:
        batch.add(op, iova, size, 0)
    return batch


def in_a_batch(op):
    return lambda device, iova, size: device.dma_batch(batch_of((op, iova, size)))


WAYS = {
    "rw_write": lambda device, iova, size: device.rw_write(iova, b"x" * size),
    "dma_write": lambda device, iova, size: device.dma_write(iova, b"x" * size),
    "words": lambda device, iova, size: device.dma_write(iova, memoryview(bytes(size)).cast("H")),
    "write": in_a_batch(Op.WRITE),
    "hardware write": in_a_batch(Op.HARDWARE_WRITE),
    "hidden write": in_a_batch(Op.HIDDEN_WRITE),
}


def begin(device):
    device.ledger = WriteLedger(RANGE)
    return device.ledger


def noted(ledger):
    return [(one.iova, one.size, one.stopped) for one in ledger.since(0)]


def pages(ledger):
    [(_, _, bitmap)] = ledger.pages.ranges
    return [page for first, count in bitmap.take_runs() for page in range(first, first + count)]


@pytest.fixture(params=["pci", "mdev"])
def device(request, rig):
    client = rig(request.param)
    for at in range(0, PAGES * PAGE, 4 * PAGE):
        client.map(at, vaddr=client.memory.allocate(4 * PAGE, shared=not at), size=4 * PAGE)
    found = client.machine.devices["d0"]
    found.client = client
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("iova", [10, 5 * PAGE - 10, 4 * PAGE - 10], ids=["window", "by address", "both"])
def test_every_way_to_write_is_noted_once_with_all_its_pages(device, way, iova):
    ledger = begin(device)
    device.client.run(WAYS[way](device, iova, 100))

    assert noted(ledger) == [(iova, 100, False)]
    assert pages(ledger) == list(range(iova // PAGE, (iova + 99) // PAGE + 1))


def test_reads_are_not_noted(device):
    ledger = begin(device)
    device.client.run(device.dma_read(0, 100))
    device.client.run(device.rw_read(0, 100))
    device.client.run(device.dma_batch(batch_of((Op.READ, 0, 100))))
    assert (noted(ledger), pages(ledger)) == ([], [])


@pytest.mark.parametrize("way", WAYS)
def test_write_that_fails_in_its_middle_is_noted(device, way):
    ledger = begin(device)
    device.client.run(WAYS[way](device, PAGES * PAGE - 10, 100))
    assert noted(ledger) == [(PAGES * PAGE - 10, 100, False)]
    assert pages(ledger) == [PAGES - 1]


@pytest.mark.parametrize(
    ("state", "stopped"), [(RUNNING, False), (RUNNING_P2P, False), (STOP, True), (STOP_COPY, True)]
)
@pytest.mark.parametrize("way", WAYS)
def test_write_counts_as_one_of_the_state_in_which_it_ends(device, way, state, stopped):
    ledger = begin(device)
    steps = WAYS[way](device, 5 * PAGE, 100)
    effect = next(steps)  # from here on it waits, for a lock or for its memory
    assert effect is not None
    assert pages(ledger) == [5], "who reads the ledger now has to see a write that is under way"
    assert noted(ledger) == []
    device.migration.state = state
    with pytest.raises(IoctlError):
        steps.throw(IoctlError(14, "planted"))
    assert noted(ledger) == [(5 * PAGE, 100, stopped)]
    assert pages(ledger) == [5], "and who has read it before finds it again"


@pytest.mark.parametrize("way", WAYS)
def test_ledger_that_begins_in_the_middle_of_a_write_has_it(device, way):
    steps = WAYS[way](device, 5 * PAGE, 100)
    next(steps)
    ledger = begin(device)
    with pytest.raises(IoctlError):
        steps.throw(IoctlError(14, "planted"))
    assert (noted(ledger), pages(ledger)) == ([(5 * PAGE, 100, False)], [5])


def test_without_a_ledger_nothing_is_noted_and_dirty_tracking_is_as_ever(device):
    ledger = begin(device)
    device.ledger = None
    assert device.client.run(device.dma_write(0, b"x")) is None
    assert noted(ledger) == []


def test_device_that_is_not_open_notes_nothing(rig):
    client = rig("mdev", type=0, joined=0)
    found = client.machine.devices["d0"]
    ledger = begin(found)
    for way in WAYS.values():
        client.run(way(found, 0, 8))
    assert noted(ledger) == []
