# SPDX-License-Identifier: MIT
"""All of a dma-engine moves with its state; in the P2P states it begins no DMA, and loses none."""

import errno
import struct

import pytest

from tests.devices.dma_engine.rig import (
    ADDRESS,
    COMMAND,
    CONFIG,
    PAGE,
    PRE_COPY,
    PRE_COPY_P2P,
    RUNNING,
    RUNNING_P2P,
    STOP_COPY,
)
from tests.stamps import Stamp
from vfioemu.abi.dma_engine import (
    COMMAND_INTERRUPT,
    RING_OFFSET,
    Command,
    Register,
)
from vfioemu.uapi import constants as c


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("states", [(), (PRE_COPY,)])
def test_everything_moves(rig, states, config):
    source, target = (rig(name=ADDRESS, big_bar=1 << 20, config=config) for _ in range(2))
    source.master()
    source.bench.pwrite(struct.pack("<I", 0xFEBC0000), CONFIG + 0x10)
    source.ring(3 * PAGE, 5 * PAGE, 7 * PAGE)
    source.set(irq_vector=4)
    source.command(Command.WRITE | COMMAND_INTERRUPT, 4)
    source.bench.pwrite(b"somewhere in it", (4 << 40) + 0x81234)
    target.bench.pwrite(b"left over", (4 << 40) + 0x100)

    assert target.load(source.save(*states)) == 0

    if config:
        assert target.bench.pread(256, CONFIG) == source.bench.pread(256, CONFIG)
    else:  # whoever migrates it restores that
        assert target.bench.pread(2, COMMAND) == b"\x03\1"
        assert target.command(Command.WRITE, 1) == -errno.EIO
        target.master()
    assert target.bench.pread(PAGE, RING_OFFSET) == source.bench.pread(PAGE, RING_OFFSET)
    big = [bench.pread(32 << 10, (4 << 40) + 0x80000) for bench in (source.bench, target.bench)]
    assert big[0] == big[1] != bytes(32 << 10)
    assert target.bench.pread(16, (4 << 40) + 0x100) == bytes(16)
    for name in ("irq_status", "irq_vector", "seq", "irqs", "device_id", "pattern"):
        assert target.get(name) == source.get(name), name
    assert target.command(Command.WRITE, 1) == 1  # it may do DMA, and goes on in the ring
    assert Stamp.parse(target.memory, 5 * PAGE).seq == 5


@pytest.mark.parametrize("written", [b"", b"x"])
@pytest.mark.parametrize(
    ("there", "here"),
    [(0x10000, 0x20000), (0x20000, 0x10000), (0x10000, 0), (0, 0x10000), (0x1000, 0x4000000)],
)
def test_a_state_of_other_bars_is_refused_whatever_is_in_them(rig, there, here, written):
    source, target = rig(big_bar=there), rig(big_bar=here)
    if written and there:
        source.bench.pwrite(written, (4 << 40) + there - 1)

    assert target.load(source.save()) == "EINVAL"


@pytest.mark.parametrize("there", [True, False])
def test_a_state_with_config_space_is_for_a_device_that_wants_it(rig, there):
    source, target = rig(config=there), rig(config=not there)
    assert target.load(source.save()) == "EINVAL"


def test_the_size_of_a_state_is_told_as_it_is(rig):
    rig = rig(big_bar=64 << 20)

    def told():
        result, answer = rig.bench.feature(c.VFIO_DEVICE_FEATURE_GET | 9, bytes(8))
        assert result.ret == 0
        return int.from_bytes(answer, "little")

    assert told() == rig.model.stop_copy_size() < 1200
    rig.bench.pwrite(b"x" * 100, (4 << 40) + 0x12345)
    rig.bench.pwrite(b"x", (4 << 40) + (64 << 20) - 1)
    rig.bench.pwrite(bytes(1 << 20), (4 << 40) + (2 << 20))  # zeros are not sent
    assert 2 * (16 << 10) < told() < 34_000
    size = told()
    rig.ring(3 * PAGE)
    assert told() > size
    size = told()
    assert len(rig.save()) == size


def test_pending_vectors_move(rig):
    source, target = rig(name=ADDRESS), rig(name=ADDRESS)
    for one in (source, target):
        one.master()
        one.irqs(2, 1)
    source.command(Command.INTERRUPT, 3)
    assert source.bench.pread(8, (2 << 40) + 0x800) == b"\x08" + bytes(7)
    assert target.load(source.save()) == 0
    assert target.bench.pread(8, (2 << 40) + 0x800) == b"\x08" + bytes(7)
    assert target.heard(target.irqs(2, 4)) == [0, 0, 0, 1]


def test_a_line_moves_without_config_space(rig):
    source, target = rig(), rig()
    source.command(Command.INTERRUPT, 2)
    assert target.load(source.save()) == 0
    assert target.heard(target.irqs(0, 1)) == [1]
    target.set(irq_status=4)
    assert not target.bench.pread(2, CONFIG + 6)[0] & 8


P2P = [(RUNNING_P2P, RUNNING), (PRE_COPY_P2P, PRE_COPY), (PRE_COPY_P2P, RUNNING)]


def work(rig, now):
    return rig.bench.run(rig.bench.device.work(now))


@pytest.mark.parametrize("type_", [1, 2, 3])
@pytest.mark.parametrize(("quiet", "loud"), P2P)
def test_no_dma_begins_in_a_p2p_state_and_none_is_lost(rig, quiet, loud, type_):
    rig = rig(type=type_)
    rig.set(size=8 * PAGE, rate=1000, control=1)
    work(rig, 100.0)
    work(rig, 100.01)
    before = rig.get("seq")
    assert before > 0
    assert rig.get("active") == 1

    rig.state(quiet)
    for later in (100.02, 100.5, 101.0):
        assert work(rig, later) is None
    assert (rig.get("seq"), rig.get("active")) == (before, 0)
    assert rig.command(Command.WRITE, 3) == -errno.EINPROGRESS
    rig.bench.pwrite(struct.pack("<Q", 2), Register.DOORBELL)
    assert rig.command(Command.COPY, 0, 5 * PAGE, 64) == -errno.EINPROGRESS
    rig.memory[:64] = b"c" * 64
    assert (rig.get("seq"), rig.memory[5 * PAGE]) == (before, rig.memory[5 * PAGE])
    assert rig.get("irq_status") == 0

    rig.state(loud)
    done = []
    for _ in range(3):
        assert work(rig, 101.0) == 101.0
        done.append(struct.unpack("<q", rig.bench.pread(8, Register.RESULT))[0])
    assert done == [3, 2, 64]
    assert rig.memory[5 * PAGE : 5 * PAGE + 64] == b"c" * 64
    assert rig.get("seq") == before + 5
    assert rig.get("irq_status") == 1  # the doorbell's
    work(rig, 101.0)
    work(rig, 101.01)
    assert before + 5 < rig.get("seq") < before + 100  # it makes up for nothing


@pytest.mark.parametrize("quiet", [RUNNING_P2P, PRE_COPY_P2P])
def test_a_device_in_a_p2p_state_answers_and_interrupts(rig, quiet):
    rig = rig(big_bar=1 << 16)
    rig.set(size=PAGE)
    rig.state(quiet)
    assert rig.bench.pwrite(b"from another device", (4 << 40) + 0x100).ret == 19
    assert rig.bench.pread(4, (4 << 40) + 0x100) == b"from"
    rig.set(seed=5)
    assert rig.get("seed") == 5
    assert rig.command(Command.INTERRUPT, 3) == 1
    assert rig.get("irq_status") == 8
    assert rig.command(Command.PIN, 0, 1, 2) == 1
    assert rig.command(Command.UNPIN_ALL) == 1


def test_only_so_much_is_put_off(rig):
    rig = rig()
    rig.set(size=PAGE)
    rig.state(RUNNING_P2P)
    for _ in range(64):
        assert rig.command(Command.WRITE, 1) == -errno.EINPROGRESS
    assert rig.command(Command.WRITE, 1) == -errno.EBUSY
    rig.bench.ioctl(c.VFIO_DEVICE_RESET)
    rig.set(size=PAGE)
    work(rig, 1.0)
    assert rig.get("seq") == 0  # a reset forgets


@pytest.mark.parametrize("quiet", [RUNNING_P2P, PRE_COPY_P2P])
def test_what_was_put_off_goes_on_at_the_destination(rig, quiet):
    source, target = rig(), rig()
    source.set(size=8 * PAGE)
    assert source.command(Command.WRITE, 2) == 2
    data = b""
    fd = source.state(quiet)
    assert source.command(Command.WRITE | COMMAND_INTERRUPT, 3) == -errno.EINPROGRESS
    fd = max(fd, source.state(STOP_COPY))
    while (result := source.bench.process.read(fd, source.bench.arg, 50_000)).ret > 0:
        data += source.bench.answer(result.ret)
    assert source.command(Command.WRITE, 1) == -errno.EBUSY

    assert target.load(data) == 0
    assert target.get("seq") == 2
    assert work(target, 1.0) == 1.0
    assert (target.get("seq"), target.get("irq_status"), target.get("result")) == (5, 1, 3)


@pytest.mark.parametrize(
    ("options", "flags"),
    [({}, 7), ({"p2p": False}, 5), ({"precopy": False}, 3), ({"p2p": False, "precopy": False}, 1)],
)
def test_it_can_be_told_to_know_less(rig, options, flags):
    result, answer = rig(**options).bench.feature(c.VFIO_DEVICE_FEATURE_GET | 1, bytes(8))

    assert (result.ret, int.from_bytes(answer, "little")) == (0, flags)


def test_it_moves_by_the_region_of_v1_as_well(rig):
    source, target = rig(migration="v1"), rig(migration="v1")
    base = 9 << 40
    source.ring(3 * PAGE, 5 * PAGE)
    source.command(Command.WRITE, 3)
    field = lambda rig, at, size: int.from_bytes(rig.bench.pread(size, base + at), "little")  # noqa: E731
    put = lambda rig, at, value, size: rig.bench.pwrite(value.to_bytes(size, "little"), base + at)  # noqa: E731

    for low in (3, 2):
        assert put(source, 0, low, 4).ret == 4
        put(target, 0, 4, 4)
        while field(source, 8, 8):
            offset, size = field(source, 16, 8), field(source, 24, 8)
            piece = source.bench.pread(size, base + offset)
            assert target.bench.pwrite(piece, base + field(target, 16, 8)).ret == size
            assert put(target, 24, size, 8).ret == 8
            field(source, 8, 8)
    assert put(target, 0, 1, 4).ret == 4

    assert target.command(Command.WRITE, 1) == 1
    assert Stamp.parse(target.memory, 5 * PAGE).seq == 4
