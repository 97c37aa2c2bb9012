# SPDX-License-Identifier: MIT
"""What a dma-engine says of its writes: copies are marked, the journal tells what memory holds, a log that fails."""

import errno
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.devices.dma_engine.rig import (
    PAGE,
    Rig,
)
from tests.stamps import Stamp
from vfioemu.abi.dma_engine import (
    Command,
    Pattern,
)
from vfioemu.core.base.errors import IoctlError
from vfioemu.native.bitmap import DirtyBitmap
from vfioemu.testing.bench import GUEST
from vfioemu.uapi import constants as c


@given(
    source=st.integers(0, 3 * PAGE),
    target=st.integers(4 * PAGE, 7 * PAGE),
    size=st.integers(0, 3 * PAGE),
    seed=st.binary(min_size=1, max_size=9),
)
def test_a_copy_copies_and_marks_what_it_wrote(source, target, size, seed):
    rig = Rig()
    rig.memory[: 16 * PAGE] = (seed * (16 * PAGE))[: 16 * PAGE]
    expected = bytearray(rig.memory[: 16 * PAGE])
    expected[target : target + size] = expected[source : source + size]

    assert rig.command(Command.COPY, source, target, size) == size

    assert rig.memory[: 16 * PAGE] == expected
    touched = set(range(target // PAGE, (target + size - 1) // PAGE + 1)) if size else set()
    assert rig.bench.iommu.dirty == touched


def test_a_copy_of_what_is_not_there_fails(rig):
    rig = rig()

    assert rig.command(Command.COPY, GUEST, 0, PAGE) == -errno.EFAULT
    assert rig.command(Command.COPY, 0, GUEST - 10, PAGE) == -errno.EFAULT
    assert rig.command(Command.COPY, 0, 0, (1 << 20) + 1) == -errno.EINVAL
    assert rig.command(Command.COPY, (1 << 64) - 1, 0, 8) == -errno.EINVAL
    assert rig.command(Command.COPY, 0, 4 * PAGE, 1 << 20) in (1 << 20, -errno.EFAULT)


def test_copies_of_a_pinning_device_pin_and_are_logged(rig):
    rig = rig(type=3, pin_from="run")
    ranges = rig.bench.process.memory.allocate(PAGE)
    rig.bench.process.memory.write(ranges, struct.pack("<QQ", 0, 16 * PAGE))
    start = struct.pack("<QIIQ", PAGE, 1, 0, ranges)
    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 6, start)[0].ret == 0

    assert rig.command(Command.COPY, 0, 3 * PAGE + 5, PAGE) == PAGE

    assert set(rig.bench.iommu.pins) == {3 * PAGE, 4 * PAGE}
    report = struct.pack("<QQQQ", 0, 16 * PAGE, PAGE, ranges + 64)
    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_GET | 8, report)[0].ret == 0
    assert rig.bench.process.memory.read(ranges + 64, 8) == struct.pack("<Q", 0b11000)


@given(
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    npages=st.integers(1, 20),
    pattern=st.integers(0, 2),
    offset=st.integers(0, 100),
    hide=st.integers(0, 3),
    limit=st.integers(1, 30),
)
def test_the_journal_tells_what_memory_holds(counts, npages, pattern, offset, hide, limit):
    rig = Rig(id=8, journal=True, hide=hide)
    rig.set(base=PAGE, size=npages * PAGE, pattern=pattern, offset=offset, write_size=77)
    for count in counts:
        rig.command(Command.WRITE, count)

    writes: list[Any] = []
    following: int | None = 0
    answer: Any = None
    while following is not None:
        answer = rig.model.inspect("writes", {"first": following, "limit": limit})
        writes += answer["writes"]
        following = answer["next"]

    assert (answer["device_id"], answer["seq"], answer["total"]) == (8, sum(counts), len(writes))
    found = {page for page in range(0, len(rig.memory), PAGE) if Stamp.parse(rig.memory, page + offset)}
    assert [iova - offset for iova, _, _ in writes] == sorted(found)
    for iova, seq, size in writes:
        assert rig.memory[iova : iova + 32] == Stamp(8, seq, iova).build()
        assert rig.memory[iova + 32 : iova + size] == bytes([seq & 255]) * (size - 32)


def test_the_journal_outlives_the_client_until_the_next_one(rig):
    rig = rig(journal=True)
    rig.set(size=2 * PAGE)
    rig.command(Command.WRITE, 5)
    rig.bench.process.close(rig.bench.fd)

    assert rig.model.inspect("writes", {})["writes"] == [(0, 5, 64), (PAGE, 4, 64)]
    rig.bench.open()
    assert rig.model.inspect("writes", {})["writes"] == []


def test_a_page_that_was_copied_over_leaves_the_journal(rig):
    rig = rig(journal=True)
    rig.set(size=4 * PAGE)
    rig.command(Command.WRITE, 4)
    rig.command(Command.COPY, 8 * PAGE, PAGE + 100, PAGE)

    assert [iova for iova, _, _ in rig.model.inspect("writes", {})["writes"]] == [0, 3 * PAGE]


def test_failed_writes_are_not_in_the_journal(rig):
    rig = rig(journal=True)
    rig.set(base=GUEST - PAGE, size=2 * PAGE)
    rig.command(Command.WRITE, 2)

    assert rig.model.inspect("writes", {})["writes"] == [(GUEST - PAGE, 1, 64)]


def test_what_cannot_be_inspected(rig):
    rig = rig()

    assert rig.model.inspect("registers", {})["IRQ_STATUS"] == 0
    with pytest.raises(KeyError):
        rig.model.inspect("writes", {})
    with pytest.raises(KeyError):
        rig.model.inspect("weather", {})


def test_what_no_container_lets_through_is_in_no_journal(rig):
    """The whole batch is refused: a vaddr is invalid, the backend is gone."""
    rig = rig(type=3, journal=True)
    rig.set(size=4 * PAGE)
    rig.bench.iommu.rw_batch = _refused

    assert rig.command(Command.WRITE, 4) == 0
    assert (rig.get("failed"), rig.model.inspect("writes", {})["total"]) == (4, 0)


def test_writes_to_nowhere_cost_no_memory(rig):
    """What a device of type 3 has written it has to pin later; what it only tried to write it has not."""
    rig = rig(type=3)
    before = DirtyBitmap.large
    rig.set(size=1 << 48, pattern=Pattern.RANDOM)

    assert rig.command(Command.WRITE, 4096) < 10
    assert DirtyBitmap.large <= before + 1


def _refused(*_):
    yield from ()
    raise IoctlError(errno.EBUSY, "a mapping waits for its vaddr")


def test_logging_that_is_told_to_fail_fails_and_the_device_lives(rig):
    rig = rig(fail_logging_start="ENOMEM")
    ranges = rig.bench.process.memory.allocate(PAGE)
    rig.bench.process.memory.write(ranges, struct.pack("<QQ", 0, 16 * PAGE))
    start = struct.pack("<QIIQ", PAGE, 1, 0, ranges)

    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 6, start)[0].err == "ENOMEM"
    assert rig.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 7, b"")[0].ret == 0
    rig.set(size=PAGE)
    assert rig.command(Command.WRITE, 1) == 1
