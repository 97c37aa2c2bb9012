# SPDX-License-Identifier: MIT
"""Config space: what can be written and what cannot, BAR sizing, chains, power states, and saving and loading it."""

import dataclasses
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfioemu.core.model.streams import StateLost
from vfioemu.devices.pci import (
    Bar,
    Capability,
    Express,
    ExtendedCapability,
    Function,
    Msi,
    MsiX,
    PciHardware,
    PowerManagement,
    VfioPci,
)
from vfioemu.devices.pci.cards.e1000e import E1000e
from vfioemu.devices.pci.cards.edu import Edu
from vfioemu.devices.pci.cards.nvme import Nvme
from vfioemu.devices.pci.cards.testdev import PciTestdev
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

ADDRESS = "0000:00:12.0"
CONFIG = c.VFIO_PCI_CONFIG_REGION_INDEX << 40
QEMU = [Edu, E1000e, Nvme, PciTestdev]
PM = 0x80


class RichCard(PciHardware):
    """A function with one of everything, some of which vfio-pci does not know."""

    def __init__(self, **changes):
        function = Function(
            vendor=0x1234,
            device=0x5678,
            class_code=0xFF0000,
            interrupt_pin=1,
            bars={
                0: Bar(0x4000),
                1: Bar(0x10, kind="io"),
                2: Bar(0x2000, kind="mem64", prefetchable=True),
            },
            capabilities=(
                Capability(0x0C, bytes(6), at=0x40),  # hot plug controller: hidden
                PowerManagement(at=PM),
                Capability(0x14, bytes(6), at=0x90),  # enhanced allocation: hidden
                Msi(8, maskable=True, at=0xA0),
                Capability(0x09, b"\x08" + bytes(5), b"\xff" * 6, at=0xC0),  # vendor specific
                Capability(0x13, b"\x06\x03\0\0", at=0xD0),  # advanced features: FLR
                Express(flr=True, at=0x44),
                MsiX(4, table_bar=0, table_offset=0x1000, pba_offset=0x2000, at=0xE0),
            ),
            extended=(
                ExtendedCapability(0x1B, 1, bytes(4)),  # PASID: hidden, and the first
                ExtendedCapability(0x03, 1, bytes(range(8))),
                ExtendedCapability(0x19, 1, bytes(12)),  # secondary PCI Express: hidden
                ExtendedCapability(0x01, 2, bytes(0x44), b"\xff" * 0x44),
            ),
        )
        super().__init__(dataclasses.replace(function, **changes))
        self.resets = 0

    def reset_function(self):
        self.resets += 1


def Rich(options=None, **changes):
    return VfioPci(options or {}, RichCard(**changes))


def open_bench(model):
    return Bench(model, name=ADDRESS)


def config(bench):
    return bench.pread(len(bench.model.hardware.config.data), CONFIG)


def write(bench, place, data):
    assert bench.pwrite(data, CONFIG + place).ret == len(data)


def word(bench, place, size=2):
    return int.from_bytes(bench.pread(size, CONFIG + place), "little")


accesses = st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=16))


@pytest.mark.parametrize("model", [*QEMU, Rich])
@settings(deadline=None)
@given(history=st.lists(accesses, max_size=40))
def test_no_write_changes_what_identifies_the_function(model, history):
    bench = open_bench(model({}))
    before = config(bench)
    size = len(before)

    for place, data in history:
        result = bench.pwrite(data, CONFIG + place)
        assert (result.err == "EFAULT") is (place + len(data) > size), place

    after = config(bench)
    fixed = [*range(4), *range(6, 0x0C), 0x0E, *range(0x28, 0x30), 0x34, 0x3D]
    for capability in bench.model.hardware.config.caps.values():
        fixed += [capability, capability + 1]
    for place in fixed:
        assert after[place] == before[place], hex(place)


@pytest.mark.parametrize("model", [*QEMU, Rich])
@settings(deadline=None)
@given(history=st.lists(accesses, max_size=20), cuts=st.lists(st.integers(1, 64), min_size=1, max_size=20))
def test_reading_in_pieces_gives_the_same_bytes(model, history, cuts):
    bench = open_bench(model({}))
    for place, data in history:
        bench.pwrite(data, CONFIG + place)
    whole = config(bench)

    place = 0
    for cut in cuts:
        cut = min(cut, len(whole) - place)
        assert bench.pread(cut, CONFIG + place) == whole[place : place + cut]
        place += cut


@pytest.mark.parametrize("kind", ["mem32", "mem64", "io"])
@given(power=st.integers(4, 20), junk=st.integers(0, (1 << 64) - 1))
@settings(deadline=None, max_examples=40)
def test_bars_say_their_size(kind, power, junk):
    size = 1 << min(power, 8) if kind == "io" else 1 << power
    bench = open_bench(Rich(bars={2: Bar(size, kind=kind)}, capabilities=(), extended=()))
    place = 0x18

    write(bench, place, b"\xff" * 8)
    value = word(bench, place, 8)
    low = 0x3 if kind == "io" else 0xF
    if kind == "mem64":
        assert ~(value & ~low) + 1 & (1 << 64) - 1 == size
    else:
        assert ~(value & 0xFFFFFFFF & ~low) + 1 & 0xFFFFFFFF == size
        assert value >> 32 == 0
    assert value & low == {"mem32": 0, "mem64": 4, "io": 1}[kind]

    write(bench, place, junk.to_bytes(8, "little"))
    kept = word(bench, place, 8)
    mask = ~(size - 1) & ((1 << 64) - 1 if kind == "mem64" else 0xFFFFFFFF)
    assert kept & ~low == junk & mask & ~low


def test_what_vfio_does_not_know_is_taken_out_of_the_chains():
    bench = open_bench(Rich())
    data = config(bench)

    chain, place = [], data[0x34]
    while place:
        chain.append((data[place], place))
        place = data[place + 1]
    assert chain == [(1, PM), (5, 0xA0), (9, 0xC0), (0x13, 0xD0), (0x10, 0x44), (0x11, 0xE0)]

    extended, place = [], 0x100
    while place:
        (header,) = struct.unpack_from("<I", data, place)
        extended.append((header & 0xFFFF, place))
        place = header >> 20
    assert extended == [(0, 0x100), (3, 0x108), (1, 0x124)]


def test_a_function_whose_only_capability_is_hidden_has_none():
    bench = open_bench(Rich(capabilities=(Capability(0x14, bytes(6)),), extended=()))

    assert bench.pread(1, CONFIG + 0x34) == b"\0"
    assert not word(bench, 6) & 0x10


def test_a_read_only_capability_takes_no_bytes_from_the_caller():
    bench = open_bench(Rich())
    process = bench.process

    assert process.pwrite(bench.fd, 0, 4, CONFIG + 0xE4).ret == 4  # MSI-X: nothing there can be written
    assert process.pwrite(bench.fd, 0, 4, CONFIG + 4).err == "EFAULT"


@pytest.mark.parametrize(("kind", "length"), [(0x00, 28), (0x1F, 28), (0x20, 24), (0xA8, 24), (0xE0, 24)])
def test_hypertransport_is_as_long_as_its_type_says(kind, length):
    """HT_CAP_SIZEOF_SHORT and _LONG: types of three bits belong to hosts and secondary interfaces."""
    body = bytes((0, kind)) + bytes(30)
    bench = open_bench(Rich(capabilities=(Capability(0x08, body, b"\xff" * 32, at=0x80),), extended=()))

    write(bench, 0x80, b"\xff" * 34)

    assert bench.pread(34, CONFIG + 0x80) == b"\x08\0" + body[: length - 2] + b"\xff" * (34 - length)


def test_advanced_errors_take_only_the_bits_that_exist():
    bench = open_bench(Rich())
    aer = 0x124
    for place in range(4, 0x1C, 4):
        write(bench, aer + place, b"\xff" * 4)
    got = [word(bench, aer + place, 4) for place in range(4, 0x1C, 4)]

    assert got == [0x03FFF031, 0x03FFF031, 0x03FFF031, 0xF1C1, 0xF1C1, 0x140]


# --- decoding, power, resets ---


def test_memory_that_is_not_decoded_is_eio_and_ports_do_not_care():
    bench = open_bench(Rich())
    assert bench.pread(4, 0) == bytes(4)

    write(bench, 4, b"\0\0")

    for place in (0, 2 << 40):
        assert bench.process.pread(bench.fd, bench.arg, 4, place).err == "EIO"
        assert bench.pwrite(b"1234", place).err == "EIO"
    assert bench.pread(4, 1 << 40) == bytes(4)
    assert bench.pread(4, 0x1000) == b"\xff" * 4  # the MSI-X table never was the function's


def test_d3hot_turns_memory_off_and_coming_back_resets():
    bench = open_bench(Rich())
    model = bench.model
    write(bench, 4, b"\x06\0")
    assert model.hardware.memory_enabled
    assert model.hardware.bus_master
    before = model.hardware.resets

    write(bench, PM + 4, b"\x03\0")
    assert word(bench, PM + 4) & 3 == 3
    assert not model.hardware.memory_enabled
    assert not model.hardware.bus_master
    assert bench.process.pread(bench.fd, bench.arg, 4, 0).err == "EIO"
    assert bench.ioctl(c.VFIO_DEVICE_SET_IRQS, struct.pack("<5Ii", 24, 0x24, 1, 0, 1, -1)).err == "EINVAL"

    write(bench, PM + 4, b"\0\0")
    assert model.hardware.memory_enabled
    assert model.hardware.resets == before + 1
    assert word(bench, 4) == 6  # restored


def test_d1_and_d2_are_refused():
    bench = open_bench(Rich())
    for state in (1, 2):
        write(bench, PM + 4, bytes((state, 0)))
        assert word(bench, PM + 4) & 3 == 0


def test_a_function_with_no_soft_reset_keeps_its_state():
    bench = open_bench(Nvme({}))
    assert bench.pwrite(b"\x01\x00\x46\x00", 0x14).ret == 4

    write(bench, 0x64, b"\x03\0")
    write(bench, 0x64, b"\x00\0")

    assert bench.pread(4, 0x14) == b"\x01\x00\x46\x00"


def test_power_management_events_are_hidden():
    bench = open_bench(E1000e({}))
    assert word(bench, 0xCA) == 0x22
    assert bench.model.hardware.config.read(0xCA, 2) == 0xC822

    write(bench, 0xCC, b"\0\x81")
    assert word(bench, 0xCC) == 0


@pytest.mark.parametrize(("place", "data"), [(0x4C, b"\0\x80"), (0xD4, b"\x01")])
def test_the_guest_can_ask_for_a_function_reset(place, data):
    bench = open_bench(Rich())
    before = bench.model.hardware.resets

    write(bench, place, data)

    assert bench.model.hardware.resets == before + 1
    assert bench.pread(len(data), CONFIG + place) == bytes(len(data))


def test_vfio_resets_what_can_be_reset():
    for model, flags in ((Edu, 2), (E1000e, 3), (Nvme, 3), (PciTestdev, 2)):
        bench = open_bench(model({}))
        assert bench.ioctl(c.VFIO_DEVICE_GET_INFO, struct.pack("<6I", 24, 0, 0, 0, 0, 0)).ret == 0
        assert bench.answer(4, 4) == flags.to_bytes(4, "little")
        assert bench.ioctl(c.VFIO_DEVICE_RESET).err == (None if flags & 1 else "EINVAL")


def test_a_new_open_begins_with_a_new_copy():
    bench = open_bench(Rich())
    before = config(bench)
    write(bench, 4, b"\x06\x04")
    write(bench, 0x10, b"\xff" * 4)
    write(bench, 0x3C, b"\x07")
    write(bench, PM + 4, b"\x03\0")
    assert config(bench) != before
    bench.process.close(bench.fd)

    bench.fd = bench.open()

    assert config(bench) == before


# --- migration ---


@settings(deadline=None)
@given(history=st.lists(accesses, max_size=30), line=st.booleans())
def test_a_saved_state_makes_another_function_look_the_same(history, line):
    source, target = open_bench(Rich()), open_bench(Rich())
    for place, data in history:
        source.pwrite(data, CONFIG + place)
    source.run(source.model.hardware.set_intx(line))

    target.run(target.model.load_pci(source.model.save_pci()))

    assert config(target) == config(source)
    assert target.model.interrupts.line is line


@given(st.binary(max_size=64), st.integers(0, 8200), st.integers(0, 255))
@settings(deadline=None)
def test_whatever_is_loaded_changes_nothing_that_cannot_be_written(junk, place, value):
    bench = open_bench(Rich())
    before = bytes(bench.model.hardware.config.data)
    saved = bytearray(bench.model.save_pci())
    saved[place % len(saved)] = value
    hardware = bench.model.hardware.config
    for data in (junk, bytes(saved), bytes(saved[:-1])):
        now = bytes(hardware.data)
        try:
            bench.run(bench.model.load_pci(data))
        except StateLost:
            assert bytes(hardware.data) == now
    for i, mask in enumerate(hardware.mask):
        if i not in (6, 7):  # the INTx line shows in STATUS
            assert hardware.data[i] & ~mask == before[i] & ~mask, hex(i)


def test_the_state_of_another_function_is_refused():
    bench = open_bench(Rich())

    for other in (Edu({}), E1000e({}), Rich(device=0x9999)):
        with pytest.raises(StateLost):
            bench.run(bench.model.load_pci(open_bench(other).model.save_pci()))


@pytest.mark.parametrize(
    "changes",
    [
        {"bars": {5: Bar(16, kind="mem64")}},
        {"bars": {0: Bar(16, kind="mem64"), 1: Bar(16)}},
        {"interrupt_pin": 5},
        {"vendor": 0x10000},
        {"capabilities": (MsiX(4, table_bar=3),), "extended": ()},
        {"capabilities": (Capability(9, bytes(300)),), "extended": ()},
        {"capabilities": ()},
    ],
)
def test_descriptions_that_make_no_sense(changes):
    with pytest.raises(ValueError, match=r".+"):
        Rich(**changes)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Bar(24),
        lambda: Bar(0x200, kind="io"),
        lambda: Bar(0x2000, areas=((0x800, 0x1000),)),
        lambda: Bar(0x2000, areas=((0x1000, 0x2000),)),
        lambda: Msi(3),
        lambda: MsiX(0),
        lambda: MsiX(1, table_offset=4),
    ],
)
def test_parts_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=r".+"):
        wrong()
