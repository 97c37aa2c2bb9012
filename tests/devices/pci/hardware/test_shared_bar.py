# SPDX-License-Identifier: MIT
"""The memory of a BAR, which goes away while it is not decoded: nothing in it is lost, and no step takes long."""

import mmap
import os
from itertools import pairwise

import pytest

from tests.devices.pci.rigs import ADDRESS, CONFIG
from vfioemu.core.base.effects import Breathe
from vfioemu.devices.pci import (
    Bar,
    Function,
    PciHardware,
    SharedBar,
    VfioPci,
)
from vfioemu.devices.pci.cards.plain import PlainFunction
from vfioemu.testing.bench import Bench

PAGE = 4096


def put_aside(shared):
    while shared.move(shown=False):
        pass


def show(shared):
    while shared.move(shown=True):
        pass


def test_pages_go_away_and_come_back():
    shared = SharedBar(2 * PAGE, b"hello")
    with mmap.mmap(shared.fd, 2 * PAGE) as mapped:
        assert mapped[:5] == b"hello"
        mapped[PAGE : PAGE + 2] = b"hi"

        put_aside(shared)
        assert os.fstat(shared.fd).st_size == 0
        assert shared.read(PAGE, 2) == b"hi"
        shared.write(0, b"J")
        show(shared)

        assert mapped[:5] == b"Jello"
        assert mapped[PAGE : PAGE + 2] == b"hi"


def test_memory_that_a_device_still_reaches_by_dma_goes_with_the_last_close():
    shared = SharedBar(2 * PAGE, b"hello")
    reached = os.dup(shared.fd)  # as what has pinned it

    shared.close()
    shared.close()

    assert os.fstat(reached).st_size == 0  # an access is a fault: io/memory/windows.py
    os.close(reached)


def held(*files):
    """How many bytes of memory files have, in pages that exist."""
    return sum(os.fstat(fd).st_blocks * 512 for fd in files)


class RemembererCard(PciHardware):
    """A function whose BARs are memory, which no reset clears."""

    def __init__(self, sizes):
        bars = {index: Bar(size, memory=True) for index, size in enumerate(sizes)}
        super().__init__(Function(vendor=1, device=2, class_code=0, bars=bars))


def Rememberer(sizes):
    return VfioPci({}, RemembererCard(sizes))


MIB = 1 << 20


@pytest.mark.parametrize("decoded", [True, False])
@pytest.mark.parametrize("make", [Rememberer, lambda sizes: PlainFunction({"bars": sizes, "reset": True})])
def test_no_step_of_the_last_close_gives_back_much(make, decoded):
    bench = Bench(make([MIB, 128 * MIB, 128 * MIB, MIB]), name=ADDRESS)
    memories = [bench.model.hardware.bar_memory(bar) for bar in range(4)]
    for memory in memories:
        for at in range(0, memory.size, 32 * MIB):
            memory.write(at, bytes(MIB))  # 10 MiB in all
    if not decoded:
        assert bench.pwrite(b"\0", CONFIG + 4).ret == 1
    files = [os.dup(fd) for memory in memories for fd in memory.files]
    left = [held(*files)]
    assert left == [10 * MIB]

    left += [held(*files) for effect in bench.model.close_device() if isinstance(effect, Breathe)]
    left.append(held(*files))

    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= 2 * MIB  # of 64 MiB
    assert [os.fstat(fd).st_size for fd in files] == [0] * len(files)
    assert [memory.files for memory in memories] == [()] * 4
    for fd in files:
        os.close(fd)


def test_memory_that_somebody_asks_for_during_the_last_close_is_new_and_stays():
    """A file in /sys is not the device's: whoever reads there does not hold the function open."""
    bench = Bench(Rememberer([MIB, MIB]), name=ADDRESS)
    old = [bench.model.hardware.bar_memory(bar) for bar in range(2)]
    closing = bench.model.close_device()
    while not isinstance(next(closing), Breathe):
        pass

    new = [bench.model.hardware.bar_memory(bar) for bar in range(2)]
    new[1].write(0, b"new")
    for _ in closing:
        pass

    assert [memory.files for memory in old] == [(), ()]
    assert [bench.model.hardware.bar_memory(bar) for bar in range(2)] == new
    assert new[1].read(0, 3) == b"new"


def test_pages_that_are_written_while_memory_is_given_back_hold_nothing_up():
    shared = SharedBar(256 * MIB, b"x")
    file = os.dup(shared.fd)  # as of the program that has mapped it
    steps = 1
    while shared.release():
        os.pwrite(file, b"again", 255 * MIB)
        assert not shared.move(shown=False)
        steps += 1
    assert steps <= 4
    assert os.fstat(file).st_size == held(file) == 0
    assert not shared.release()
    os.close(file)


def test_whoever_maps_a_bar_can_spoil_its_contents_only():
    shared = SharedBar(1 << 30, b"x")
    shared.write(1 << 29, b"y")
    shared.write((1 << 30) - 1, b"zz")
    for change in (put_aside, show):
        change(shared)
        assert shared.read(0, 2) == b"x\0"
        assert shared.read(1 << 29, 1) == b"y"
        assert shared.read((1 << 30) - 1, 5) == b"z\0\0\0\0"

    os.truncate(shared.fd, 0)
    assert shared.read(0, 1) == b"\0"
    os.truncate(shared.fd, 1 << 40)
    os.pwrite(shared.fd, b"far", 1 << 39)
    put_aside(shared)
    os.truncate(shared.fd, PAGE)
    show(shared)
    assert os.fstat(shared.fd).st_size == 1 << 30
    shared.write(0, b"again")
    shared.clear()
    assert shared.read(0, 5) == bytes(5)


@pytest.mark.parametrize("turns", [(16, 16), (3, 3, 16, 16), (7, 2, 4, 8, 16)])
def test_pages_of_a_large_bar_go_step_by_step_and_nothing_is_lost_on_the_way(turns):
    """Others are served meanwhile: they may access it, and have it go the other way."""
    places = [at << 20 for at in range(0, 64, 3)]
    shared = SharedBar(64 << 20)
    expected = {}
    for number, place in enumerate(places):
        expected[place] = b"%04d" % number
        shared.write(place - 2 if place else 0, expected[place])
    more = True
    for turn, steps in enumerate(turns):
        for step in range(steps):
            more = shared.move(shown=bool(turn % 2))
            place = places[(5 * step + turn) % len(places)]
            expected[place] = b"%02d%02d" % (turn, step)
            shared.write(place - 2 if place else 0, expected[place])  # some lie across a border
            for at, data in expected.items():
                assert shared.read(at - 2 if at else 0, 4) == data
            size = os.fstat(shared.fd).st_size
            assert size % (4 << 20) == 0
            assert shared.revoked == (not size)
    assert not more
    assert os.fstat(shared.fd).st_size == (0 if len(turns) % 2 else 64 << 20)
    assert sum(size for _, size in shared.written(0, 64 << 20)) <= 2 * PAGE * len(places)
