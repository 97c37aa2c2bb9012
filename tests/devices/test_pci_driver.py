# SPDX-License-Identifier: MIT
"""BARs and their mappings, hot resets, low power mode, IOEVENTFD and DMA buffers of PCI functions."""

import dataclasses
import errno
import mmap
import os
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devices.test_pci_irqs import ADDRESS, CONFIG, Console
from tests.releases import having
from vfioemu.core.base.effects import Breathe
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.pci import (
    Bar,
    Express,
    ExtendedCapability,
    Function,
    Msi,
    MsiX,
    PciHardware,
    PowerManagement,
    SharedBar,
    VfioPci,
)
from vfioemu.devices.pci.cards.e1000e import E1000e
from vfioemu.devices.pci.cards.edu import Edu
from vfioemu.devices.pci.cards.nvme import Nvme
from vfioemu.devices.pci.cards.plain import PlainFunction
from vfioemu.devices.pci.cards.testdev import PciTestdev
from vfioemu.devices.registry import load_models
from vfioemu.testing.bench import Bench
from vfioemu.testing.process import Process
from vfioemu.uapi import constants as c

PAGE = 4096


class RecorderCard(PciHardware):
    """Remembers every access."""

    def __init__(self, **changes):
        function = Function(
            vendor=1,
            device=2,
            class_code=0,
            interrupt_pin=1,
            bars={
                0: Bar(0x4000, areas=((0x1000, 0x2000),)),
                1: Bar(0x20, kind="io"),
                2: Bar(0x800),
                3: Bar(0x2000, registers=0x10, beyond=0xEE),
                4: Bar(0x2000),
            },
            capabilities=(
                MsiX(4, table_bar=4, table_offset=0x1000, pba_bar=4, pba_offset=0x1800),
                PowerManagement(),
            ),
        )
        super().__init__(dataclasses.replace(function, **changes))
        self.seen = []

    def read_bar(self, bar, offset, size):
        self.seen.append(("r", bar, offset, size))
        return bytes(range(offset & 0xFF, (offset & 0xFF) + size))

    def write_bar(self, bar, offset, data):
        self.seen.append(("w", bar, offset, data))


def Recorder(options=None, **changes):
    return VfioPci(options or {}, RecorderCard(**changes))


def at(bar, offset=0):
    return (bar << 40) + offset


@pytest.fixture
def bench():
    return Bench(Recorder(), name=ADDRESS)


def test_accesses_are_cut_into_aligned_pieces(bench):
    assert bench.pread(8, at(0, 1)) == bytes(range(1, 9))
    assert bench.model.hardware.seen == [("r", 0, 1, 1), ("r", 0, 2, 2), ("r", 0, 4, 4), ("r", 0, 8, 1)]
    bench.model.hardware.seen.clear()

    assert bench.pwrite(b"abcdefg", at(2, 2)).ret == 7
    assert bench.model.hardware.seen == [("w", 2, 2, b"ab"), ("w", 2, 4, b"cdef"), ("w", 2, 8, b"g")]


def test_an_access_ends_where_the_bar_ends(bench):
    assert len(bench.pread(100, at(1, 0x1C))) == 4
    assert bench.pwrite(bytes(100), at(2, 0x7FF)).ret == 1
    assert bench.process.pread(bench.fd, bench.arg, 4, at(1, 0x20)).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 4, at(5)).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 4, at(8)).err == "EINVAL"
    assert bench.process.pread(bench.fd, bench.arg, 0, at(5)).ret == 0


def test_the_msix_table_is_the_kernels(bench):
    assert bench.pread(0x60, at(4, 0xFF8))[:8] == bytes((*range(0xF8, 0xFC), *range(0xFC, 0x100)))
    assert bench.pread(0x40, at(4, 0x1000)) == b"\xff" * 0x40
    bench.model.hardware.seen.clear()

    assert bench.pwrite(bytes(0x48), at(4, 0xFFC)).ret == 0x48
    assert bench.model.hardware.seen == [("w", 4, 0xFFC, bytes(4)), ("w", 4, 0x1040, bytes(4))]


def test_a_write_that_faults_has_done_what_came_before(bench):
    page = bench.process.memory.allocate(PAGE)
    bench.process.memory.write(page + PAGE - 14, b"abcdefghijklmn")

    assert bench.process.pwrite(bench.fd, page + PAGE - 14, 20, at(2, 4)).err == "EFAULT"

    assert bench.model.hardware.seen == [("w", 2, 4, b"abcd"), ("w", 2, 8, b"efghijkl")]


def test_what_is_behind_the_registers_costs_nothing(bench):
    assert bench.pread(0x2000, at(3)) == bytes(range(16)) + b"\xee" * 0x1FF0
    assert bench.pwrite(bytes(0x2000), at(3)).ret == 0x2000
    assert [(call, size) for call, _, _, size in bench.model.hardware.seen[:2]] == [("r", 8)] * 2
    assert len(bench.model.hardware.seen) == 4


def test_regions_tell_what_can_be_mapped(bench):
    def region(index):
        bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<4I2Q", 256, 0, index, 0, 0, 0))
        _, flags, _, cap, size, _ = struct.unpack("<4I2Q", bench.answer(32))
        return flags, size, bench.answer(64, cap) if flags & 8 else b""

    assert region(1)[0] == 3
    assert region(2)[0] == 7  # less than a page, which it has for itself
    assert region(3) == (7, 0x2000, b"")
    assert region(4)[0] == 15
    assert region(4)[2][:8] == struct.pack("<HHI", 3, 1, 0)
    assert region(0)[0] == 15
    assert region(0)[2][:32] == struct.pack("<HHIIIQQ", 1, 1, 0, 1, 0, 0x1000, 0x2000)

    plain = Bench(Recorder({"mmap": False}), name=ADDRESS)
    plain.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<4I2Q", 32, 0, 3, 0, 0, 0))
    assert plain.answer(4, 4) == b"\x03\0\0\0"
    assert plain.process.mmap(plain.fd, PAGE, "rw", at(3)).err == "EINVAL"


@pytest.mark.parametrize(
    ("place", "size", "answer"),
    [
        (at(0), PAGE, "EINVAL"),
        (at(0, PAGE), 2 * PAGE, None),
        (at(0, 2 * PAGE), PAGE, None),
        (at(0, 2 * PAGE), 2 * PAGE, "EINVAL"),
        (at(1), PAGE, "EINVAL"),
        (at(2), PAGE, None),
        (at(2), 2 * PAGE, "EINVAL"),
        (at(3), 2 * PAGE, None),
        (at(3), 3 * PAGE, "EINVAL"),
        (at(5), PAGE, "EINVAL"),
        (at(6), PAGE, "EINVAL"),
        (at(7), PAGE, "EINVAL"),
        (at(8), PAGE, "EINVAL"),
        (at(9), PAGE, "EINVAL"),
    ],
)
def test_what_can_be_mapped(bench, place, size, answer):
    assert bench.process.mmap(bench.fd, size, "rw", place).err == answer


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


def test_a_mapping_ends_with_memory_decoding(bench):
    bench.model.hardware.bar_memory(3).write(0, b"kept")
    size = lambda: os.fstat(bench.model.hardware.bar_memory(3).fd).st_size  # noqa: E731

    for off, on in ((b"\0", b"\x02"), (b"\x03", b"\0")):
        place = CONFIG + (4 if off == b"\0" else bench.model.hardware.config.caps[1] + 4)
        assert size() == 0x2000
        assert bench.pwrite(off, place).ret == 1
        assert size() == 0
        assert bench.pwrite(on, place).ret == 1
    assert bench.model.hardware.bar_memory(3).read(0, 4) == b"kept"


def test_a_rom_is_there_as_far_as_its_bar_goes():
    bench = Bench(E1000e({}), name=ADDRESS)

    assert bench.pread(4, at(6)) == b"\x55\xaa\x01\0"
    assert bench.pread(0x1000, at(6, 0x200)) == b"\xff" * 0x1000
    assert bench.pread(100, at(6, 0x3FFF0)) == b"\xff" * 16
    assert bench.pwrite(b"x", at(6)).err == "EINVAL"


@pytest.mark.parametrize("off", [(4, b"\0"), (0xCC, b"\x03")])
@pytest.mark.parametrize("place", [0, 0x100, 0x200, 0x3FFFF])
def test_a_rom_that_is_not_decoded_cannot_be_mapped_to_be_read(off, place):
    """pci_map_rom() looks for its signature at each read, also of what lies behind the image."""
    bench = Bench(E1000e({}), name=ADDRESS)
    assert bench.pwrite(off[1], CONFIG + off[0]).ret == 1

    assert bench.process.pread(bench.fd, bench.arg, 1, at(6, place)).err == "ENOMEM"
    assert bench.process.pread(bench.fd, bench.arg, 1, at(6, 0x40000)).err == "EINVAL"


# --- hot reset ---


class Resettable(RecorderCard):
    """Counts its resets."""

    count = 0

    def reset_function(self):
        self.count += 1


PLACES = {
    "a": ("0000:02:01.0", 10),
    "b": ("0000:02:02.0", 10),
    "other": ("0000:02:03.0", 11),
    "root": ("0000:00:04.0", 12),
}


def card_of(device):
    return device.model.hardware


class Lab:
    """Four functions, three of them on one bus, in a container."""

    def __init__(self, *symbols):
        spec = MachineSpec(
            groups=tuple(GroupSpec(number=n, iommu=IommuSpec()) for n in (10, 11, 12)),
            devices=tuple(
                DeviceSpec(symbol=s, name=PLACES[s][0], group=PLACES[s][1], model="counted") for s in symbols
            ),
        )
        self.machine = Machine(spec, load_models({"counted": lambda options: VfioPci(options, Resettable())}))
        self.process = Process(self.machine)
        self.page = self.process.memory.allocate(PAGE)
        self.container = self.process.open("/dev/vfio/vfio").ret
        self.groups = {}
        for number in sorted({PLACES[s][1] for s in symbols}):
            self.groups[number] = self.process.open(f"/dev/vfio/{number}").ret
            assert (
                self.ask(
                    self.groups[number], c.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", self.container)
                ).ret
                == 0
            )
        assert self.process.ioctl(self.container, c.VFIO_SET_IOMMU, 3).ret == 0
        self.fds = {}
        for symbol in symbols:
            name, group = PLACES[symbol]
            self.fds[symbol] = self.ask(
                self.groups[group], c.VFIO_GROUP_GET_DEVICE_FD, name.encode() + b"\0"
            ).ret

    def ask(self, fd, cmd, payload):
        self.process.memory.write(self.page, payload)
        return self.process.ioctl(fd, cmd, self.page)

    def hot_reset(self, symbol, *fds):
        payload = struct.pack("<3I", 12 + 4 * len(fds), 0, len(fds)) + struct.pack(f"<{len(fds)}i", *fds)
        return self.ask(self.fds[symbol], c.VFIO_DEVICE_PCI_HOT_RESET, payload).err

    def counts(self):
        return [card_of(self.machine.devices[symbol]).count for symbol in self.fds]


def test_a_hot_reset_lists_and_hits_the_whole_bus():
    lab = Lab("b", "a", "other")
    info = struct.pack("<3I", 100, 7, 0)
    assert lab.ask(lab.fds["a"], c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info).ret == 0
    assert lab.process.memory.read(lab.page, 36) == struct.pack("<3I", 100, 0, 3) + b"".join(
        struct.pack("<IHBB", group, 0, 2, devfn) for group, devfn in ((10, 8), (10, 16), (11, 24))
    )

    before = lab.counts()
    assert lab.hot_reset("a", lab.groups[10]) == "EINVAL"  # not all groups
    assert lab.counts() == before
    assert lab.hot_reset("a", lab.groups[10], lab.groups[11]) is None
    assert lab.counts() == [count + 1 for count in before]


def test_hot_resets_that_are_refused():
    lab = Lab("a", "root")
    group = lab.groups[10]

    assert (
        lab.ask(lab.fds["root"], c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, struct.pack("<3I", 12, 0, 0)).err
        == "ENODEV"
    )
    assert lab.hot_reset("root", lab.groups[12]) == "ENODEV"
    assert lab.hot_reset("a") == "EINVAL"
    assert lab.hot_reset("a", group, group) == "EINVAL"
    assert lab.hot_reset("a", 999) == "EBADF"
    assert lab.hot_reset("a", lab.container) == "EINVAL"
    assert lab.hot_reset("a", lab.process.eventfd()) == "EINVAL"
    assert lab.hot_reset("a", lab.process.null()) == "EINVAL"
    assert (
        lab.ask(lab.fds["a"], c.VFIO_DEVICE_PCI_HOT_RESET, struct.pack("<3Ii", 16, 1, 1, group)).err
        == "EINVAL"
    )


def test_a_function_that_is_no_pci_function_has_no_bus():
    bench = Bench(Recorder())

    for cmd in (c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, c.VFIO_DEVICE_PCI_HOT_RESET, c.VFIO_DEVICE_IOEVENTFD):
        assert bench.ioctl(cmd, bytes(64)).err == "ENOTTY"


# --- IOEVENTFD ---


def ioeventfd(console, flags, place, data, name, argsz=32):
    payload = struct.pack("<IIQQiI", argsz, flags, place, data, console.fds[name], 0)
    result = console.bench.ioctl(c.VFIO_DEVICE_IOEVENTFD, payload)
    return result.err


@pytest.fixture
def console():
    made = Console()
    made.bench = Bench(Recorder(), name=ADDRESS)
    made.fds = {
        "a": made.bench.process.eventfd(),
        "null": made.bench.process.null(),
        "closed": 999,
        None: -1,
        "odd": -2,
    }
    return made


def test_a_signalled_eventfd_writes(console):
    assert ioeventfd(console, 4, at(2, 8), 0x1122334455667788, "a") is None
    assert ioeventfd(console, 2, at(1, 2), 0xABCD, "a") is None

    console.write_eventfd("a")

    seen = console.bench.model.hardware.seen
    assert sorted(seen) == [("w", 1, 2, b"\xcd\xab"), ("w", 2, 8, b"\x88\x77\x66\x55")]
    seen.clear()
    assert console.bench.pwrite(b"\0", CONFIG + 4).ret == 1
    console.write_eventfd("a")
    assert seen == [("w", 1, 2, b"\xcd\xab")]  # ports only

    assert ioeventfd(console, 2, at(1, 2), 0xABCD, None) is None
    assert ioeventfd(console, 2, at(1, 2), 0xABCD, None) == "ENODEV"
    console.bench.process.close(console.bench.fd)
    assert console.bench.process.fds[console.fds["a"]].what.references == 0


@pytest.mark.parametrize(
    ("flags", "place", "name", "argsz", "answer"),
    [
        (4, at(2), "a", 27, "EINVAL"),
        (0x14, at(2), "a", 32, "EINVAL"),
        (0, at(2), "a", 32, "EINVAL"),
        (6, at(2), "a", 32, "EINVAL"),
        (8, at(2), "a", 32, None),
        (8, at(2, 0x7F9), "a", 32, "EINVAL"),
        (4, at(2), "odd", 32, "EINVAL"),
        (4, at(2, 0x7FD), "a", 32, "EINVAL"),
        (4, at(5), "a", 32, "EINVAL"),
        (4, at(7), "a", 32, "EINVAL"),
        (4, at(4, 0xFFE), "a", 32, "EINVAL"),
        (4, at(4, 0x1040), "a", 32, None),
        (4, at(2), "null", 32, "EINVAL"),
        (4, at(2), "closed", 32, "EBADF"),
        (4, at(2), None, 32, "ENODEV"),
    ],
)
def test_rules_that_are_refused(console, flags, place, name, argsz, answer):
    assert ioeventfd(console, flags, place, 0, name, argsz) == answer


def test_the_same_rule_twice(console):
    assert ioeventfd(console, 1, at(2), 5, "a") is None
    assert ioeventfd(console, 1, at(2), 5, "a") == "EEXIST"
    assert ioeventfd(console, 1, at(2), 6, "a") is None


# --- low power ---

SET = c.VFIO_DEVICE_FEATURE_SET
ENTRY = SET | c.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
WAKEUP = SET | c.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
EXIT = SET | c.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT


def feature(bench, flags, payload=b""):
    return bench.feature(flags, payload)[0].err


def test_low_power_mode_takes_mappings_away_and_keeps_registers_reachable(bench):
    memory = bench.model.hardware.bar_memory(3)
    assert feature(bench, ENTRY) is None
    assert os.fstat(memory.fd).st_size == 0
    assert not bench.model.hardware.bus_master
    assert feature(bench, ENTRY) == "EINVAL"
    assert bench.pread(2, at(2)) == b"\0\x01"
    assert bench.pread(4, CONFIG) == b"\x01\0\x02\0"
    assert bench.pwrite(b"x", at(2)).ret == 1
    assert os.fstat(memory.fd).st_size == 0

    assert feature(bench, EXIT) is None
    assert feature(bench, EXIT) is None
    assert os.fstat(memory.fd).st_size == 0x2000


@pytest.mark.parametrize("model", [Edu, E1000e, Nvme, PciTestdev])
@settings(deadline=None)
@given(
    index=st.integers(0, 8),
    offset=st.integers(0, 0x40) | st.integers(0, 0x40000),
    size=st.integers(0, 64),
)
def test_low_power_mode_changes_no_answer_to_a_read(model, index, offset, size):
    bench = Bench(model({}), name=ADDRESS)

    def read():
        result = bench.process.pread(bench.fd, bench.arg, size, at(index, offset))
        return result, bench.process.memory.read(bench.arg, size) if result.ret > 0 else b""

    expected = read()
    assert feature(bench, ENTRY) is None

    assert read() == expected


USES = {
    "read": ("read", at(2)),
    "write": ("write", at(2)),
    "config": ("read", CONFIG),
    "lost write": ("write", at(4, 0x1000)),
    "write to what is read-only": ("write", CONFIG + 0x42),
    "refused read": ("read", at(5)),
    "refused write": ("write", at(6)),
    "no VGA": ("read", at(8)),
    "read behind the end": ("read", at(2, 0x800)),
    "read behind config space": ("read", CONFIG + 0x100),
}


@pytest.mark.parametrize("how", ["ioctl", *USES])
def test_the_first_use_wakes_up_and_is_told(bench, how):
    wakeup = bench.process.eventfd()
    assert feature(bench, WAKEUP, struct.pack("<iI", wakeup, 0)) is None
    assert bench.process.fds[wakeup].what.count == 0

    if how == "ioctl":
        bench.ioctl(c.VFIO_DEVICE_GET_INFO, struct.pack("<6I", 24, 0, 0, 0, 0, 0))
    else:
        kind, place = USES[how]
        call = bench.process.pread if kind == "read" else bench.process.pwrite
        call(bench.fd, bench.arg, 1, place)

    assert bench.process.fds[wakeup].what.count == 1
    assert bench.process.fds[wakeup].what.references == 0
    bench.pread(2, at(2))
    assert bench.process.fds[wakeup].what.count == 1
    assert feature(bench, ENTRY) is None


@pytest.mark.parametrize(("size", "place"), [(0, at(2)), (0, CONFIG), (1, at(9)), (1, at(300))])
def test_an_access_to_nothing_is_no_use(bench, size, place):
    wakeup = bench.process.eventfd()
    assert feature(bench, WAKEUP, struct.pack("<iI", wakeup, 0)) is None

    bench.process.pread(bench.fd, bench.arg, size, place)
    bench.process.pwrite(bench.fd, bench.arg, size, place)

    assert bench.process.fds[wakeup].what.count == 0


def test_wakeup_eventfds_that_are_none(bench):
    assert feature(bench, WAKEUP, struct.pack("<iI", -1, 0)) == "EINVAL"
    assert feature(bench, WAKEUP, struct.pack("<iI", 999, 0)) == "EBADF"
    assert feature(bench, WAKEUP, struct.pack("<iI", bench.process.null(), 0)) == "EINVAL"
    eventfd = bench.process.eventfd()
    assert feature(bench, ENTRY) is None
    assert feature(bench, WAKEUP, struct.pack("<iI", eventfd, 0)) == "EINVAL"
    assert bench.process.fds[eventfd].what.references == 0


def test_intx_is_silent_in_low_power_mode():
    console = Console()
    assert console.call(0, 0x24, 0, 1, ["a"]) == ""
    assert feature(console.bench, ENTRY) is None
    console.bench.run(console.bench.model.hardware.set_intx(True))
    assert console.rung()["a"] == 0

    assert feature(console.bench, EXIT) is None
    assert console.rung()["a"] == 1


def test_a_close_ends_low_power_mode(bench):
    wakeup = bench.process.eventfd()
    assert feature(bench, WAKEUP, struct.pack("<iI", wakeup, 0)) is None
    bench.process.close(bench.fd)
    assert bench.process.fds[wakeup].what.references == 0
    bench.fd = bench.open()
    assert feature(bench, ENTRY) is None


# --- other features ---

DMA_BUF = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_DMA_BUF


def dma_buf(bench, bar, *ranges, flags=0):
    payload = struct.pack("<4I", bar, 2, flags, len(ranges)) + b"".join(
        struct.pack("<QQ", *r) for r in ranges
    )
    return bench.feature(DMA_BUF, payload)[0]


def test_dma_buffers_of_a_release_that_has_them(bench):
    assert dma_buf(bench, 3, (0, PAGE)).err == "ENOTTY"
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    made = dma_buf(bench, 3, (0, PAGE), (PAGE, PAGE))
    assert made.ret >= 0
    assert bench.process.poll(made.ret) == 5
    assert bench.process.read(made.ret, bench.arg, 4).err == "EINVAL"
    assert bench.process.mmap(made.ret, PAGE, "rw", 0).err == "EINVAL"
    assert bench.process.ioctl(made.ret, 0x3B6B, bench.arg).err == "ENOTTY"

    for refused, answer in (
        (dma_buf(bench, 3), "EINVAL"),
        (dma_buf(bench, 3, (0, PAGE), flags=1), "EINVAL"),
        (dma_buf(bench, 5, (0, PAGE)), "ENODEV"),
        (dma_buf(bench, 6, (0, PAGE)), "ENODEV"),
        (dma_buf(bench, 1, (0, PAGE)), "EINVAL"),
        (dma_buf(bench, 3, (0, 3 * PAGE)), "EINVAL"),
        (dma_buf(bench, 3, (1 << 63, 1 << 63)), "EINVAL"),
        (dma_buf(bench, 3, ((1 << 64) - PAGE, PAGE)), "EOVERFLOW"),
        (dma_buf(bench, 3, (0, (1 << 64) - PAGE), (0, PAGE)), "EINVAL"),
    ):
        assert refused.err == answer


@pytest.mark.parametrize("bar", [5, 6, 9])
@pytest.mark.parametrize(
    "ranges", [b"", struct.pack("<2Q", 1, PAGE), struct.pack("<2Q", 0, 0), struct.pack("<2Q", 0, PAGE)]
)
def test_a_dma_buffer_of_no_bar_is_refused_before_its_ranges_are_read(bench, bar, ranges):
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    for count in (1, 1 << 18, (1 << 32) - 1):
        assert bench.feature(DMA_BUF, struct.pack("<4I", bar, 2, 0, count) + ranges)[0].err == "ENODEV"
    for count, flags in ((0, 0), (1, 1)):
        assert bench.feature(DMA_BUF, struct.pack("<4I", bar, 2, flags, count) + ranges)[0].err == "EINVAL"


@pytest.mark.parametrize("bar", [1, 3])
def test_ranges_of_a_dma_buffer_are_read_before_they_are_looked_at(bench, bar):
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    head = (24).to_bytes(4, "little") + DMA_BUF.to_bytes(4, "little")
    at = bench.arg + (64 << 10) - 24
    for count, answer in ((1, "EFAULT"), (1 << 18, "EFAULT"), ((1 << 18) + 1, "ENOMEM")):
        bench.process.memory.write(at, head + struct.pack("<4I", bar, 2, 0, count))
        assert bench.process.ioctl(bench.fd, c.VFIO_DEVICE_FEATURE, at).err == answer


@pytest.mark.parametrize(
    ("flags", "readable", "writable"),
    [
        (os.O_RDONLY, True, False),
        (os.O_WRONLY, False, True),
        (os.O_RDWR, True, True),
        (os.O_ACCMODE, False, False),
        (0xFFFFFFFF, False, False),
        (os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, True, False),
    ],
)
def test_a_dma_buffer_is_open_for_what_its_open_flags_say(bench, flags, readable, writable):
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    process = bench.process
    made = bench.feature(DMA_BUF, struct.pack("<4I2Q", 3, flags, 0, 1, 0, PAGE))[0].ret

    assert process.read(made, bench.arg, 4).err == ("EINVAL" if readable else "EBADF")
    assert process.write(made, bench.arg, 4).err == ("EINVAL" if writable else "EBADF")
    assert process.pread(made, bench.arg, 4, 0).err == "ESPIPE"
    assert process.pwrite(made, bench.arg, 4, 0).err == "ESPIPE"
    for prot, may in (("none", readable), ("r", readable), ("rw", readable and writable)):
        assert process.mmap(made, PAGE, prot, 0).err == ("EINVAL" if may else "EACCES")
    assert process.poll(made) == 5


@pytest.mark.parametrize(
    ("cmd", "payload", "answer"),
    [(0x40086200, flags.to_bytes(8, "little"), None) for flags in (1, 2, 3, 5, 6, 7)]
    + [(0x40086200, flags.to_bytes(8, "little"), "EINVAL") for flags in (0, 4, 8, 9, 1 << 32 | 1)]
    + [(0x40086200, b"\1" + bytes(6), "EFAULT")]
    + [(cmd, b"\0", None) for cmd in (0x40046201, 0x40086201)]
    + [(0x40086201, b"n" * 31 + b"\0", None), (0x40086201, b"n" * 32 + b"\0", "EINVAL")]
    + [(0x40086201, b"n" * 31, "EFAULT"), (0x40046200, bytes(8), "ENOTTY"), (0x6200, bytes(8), "ENOTTY")],
)
def test_the_ioctls_of_a_dma_buffer_change_nothing(bench, cmd, payload, answer):
    """Each payload ends where memory ends."""
    bench.iommu.profile = having("VFIO_DEVICE_FEATURE_DMA_BUF")
    made = dma_buf(bench, 3, (0, PAGE)).ret
    at = bench.arg + (64 << 10) - len(payload)
    bench.process.memory.write(at, payload)

    assert bench.process.ioctl(made, cmd, at).err == answer
    assert bench.process.memory.read(at, len(payload)) == payload


def test_only_functions_that_may_have_virtual_ones_take_a_token():
    token = bytes(range(16))
    uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f"
    flags = SET | c.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN
    assert feature(Bench(Recorder(), name=ADDRESS), flags, token) == "ENOTTY"

    physical = Recorder(capabilities=(Express(),), extended=(ExtendedCapability(0x10, 1, bytes(60)),))
    bench = Bench(physical, name=ADDRESS)
    assert feature(bench, flags, token[:15]) == "EINVAL"
    assert feature(bench, flags, token) is None
    assert bench.device.matches(f"{ADDRESS} vf_token={uuid}")
    with pytest.raises(IoctlError, match="EINVAL"):
        bench.device.matches(f"{ADDRESS} vf_token={uuid} vf_token={uuid}")


def test_dma_needs_a_bus_master(bench):
    model = bench.model
    with pytest.raises(IoctlError) as refused:
        bench.run(model.hardware.dma_write(0x1000, b"x"))
    assert refused.value.errno == errno.EIO

    bench.pwrite(b"\x06", CONFIG + 4)
    bench.run(model.hardware.dma_write(0x1000, b"x"))
    assert bench.run(model.hardware.dma_read(0x1000, 1)) == b"x"


@pytest.mark.parametrize("options", [{"mmap": 1}, {"host-vectors": 0}, {"host-vectors": True}, {"bars": []}])
@pytest.mark.parametrize("model", [Edu, E1000e, Nvme])
def test_options_that_make_no_sense(model, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        model(options)


def test_msi_with_an_eventfd_for_a_function_behind_the_layer():
    bench = Bench(Recorder(capabilities=(Msi(2),)), name=ADDRESS)
    eventfd = bench.process.eventfd()
    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5Ii", 24, 0x24, 1, 1, 1, eventfd)).ret == 0
    assert bench.pwrite(b"\6", CONFIG + 4).ret == 1

    assert bench.run(bench.model.hardware.interrupt(0)) is False
    assert bench.run(bench.model.hardware.interrupt(1)) is True
    assert bench.process.fds[eventfd].what.count == 1
