# SPDX-License-Identifier: MIT
"""The migration region: QEMU 7.2's handshake, hostile clients, and the same state as through v2."""

import errno
import mmap
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.objects.v1_client import BASE, FEATURE_SET, Box, Client, final, migrate
from vfioemu.core.base.effects import AllocatePages, finish
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.streams import (
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    STOP,
    STOP_COPY,
    StateLost,
)
from vfioemu.core.objects.migration_v1 import DATA_OFFSET, DATA_SIZE, REGION_SIZE, take_option
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c


@pytest.fixture(params=[False, True], ids=["pread", "mapped"])
def mapped(request):
    return request.param


def test_it_is_found_as_qemu_looks_for_it():
    client = Client(Box())
    bench = client.bench
    info = struct.unpack(
        "<4I", (bench.ioctl(c.VFIO_DEVICE_GET_INFO, bytes([16, *[0] * 15])), bench.answer(16))[1]
    )
    assert info[2] == 10  # regions 2 to 8 are none of its own

    assert bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIII16x", 32, 0, 8, 0)).err == "EINVAL"
    bench.ioctl(c.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<IIII16x", 96, 0, 9, 0) + bytes(64))
    argsz, flags, _, cap, size, offset = struct.unpack("<IIIIQQ", bench.answer(32))
    assert (argsz, flags, cap, size, offset) == (96, 15, 32, REGION_SIZE, BASE)
    assert struct.unpack("<HHIII", bench.answer(16, 32)) == (2, 1, 48, 3, 1)
    assert struct.unpack("<HHIIIQQ", bench.answer(32, 48)) == (1, 1, 0, 1, 0, DATA_OFFSET, DATA_SIZE)


def test_v2_is_not_there_beside_it():
    client = Client(Box())
    for number in (1, 2, 9):
        result, _ = client.bench.feature(c.VFIO_DEVICE_FEATURE_PROBE | number)
        assert result.err == "ENOTTY"


@pytest.mark.parametrize("size", [0, 1, 1000, DATA_SIZE - 11, DATA_SIZE, DATA_SIZE + 1, 2 * DATA_SIZE + 77])
@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_a_device_moves_as_qemu_moves_it(mapped, size, flags):
    source = Client(Box(os.urandom(size), flags), mapped)
    destination = Client(Box(b"", flags, limit=16 << 20), mapped)

    pieces = migrate(source, destination)

    assert destination.model.contents == source.model.contents
    assert source.model.streams == 1  # writing the state that it has does not start the stream anew
    assert all(len(piece) <= DATA_SIZE for piece in pieces)
    assert (source.state, destination.state) == (0, 1)


def test_the_handshake_of_the_recorded_migration(mapped):
    """trace-7.2-v1-src: polling does not change what is pending, and a piece is taken back by the next poll."""
    client = Client(Box(bytes(range(200))), mapped)
    assert client.state == 1
    assert client.write(0, 4, 1).err is None  # the guest starts: it runs already
    assert client.model.arcs == []
    client.write(0, 4, 3)
    first = client.pending
    assert first == 201
    assert client.pending == first
    assert client.data_offset == DATA_OFFSET
    assert client.pending == first  # the piece is there, but the client does not know how long it is
    assert client.data_size == first
    assert client.data_size == first
    assert client.data_offset == DATA_OFFSET
    assert client.get(first) == b"P" + bytes(range(200))
    assert client.pending == 0
    assert client.data_size == 0
    client.write(0, 4, 2)
    last = client.pending
    assert last == 212
    assert (client.data_offset, client.data_size) == (DATA_OFFSET, last)
    assert client.get(last)[:1] == b"F"
    assert client.pending == 0
    assert client.write(0, 4, 0).err is None
    assert (client.pending, client.data_size) == (0, 0)


def test_a_piece_that_was_told_of_stays_until_it_is_taken_back():
    client = Client(Box(b"abc"))
    client.write(0, 4, 3)
    assert (client.data_offset, client.data_size) == (DATA_OFFSET, 4)
    client.write(0, 4, 2)
    assert (client.data_offset, client.data_size) == (DATA_OFFSET, 4)
    assert client.get(4) == b"Pabc"
    assert client.pending == 15
    assert (client.data_offset, client.data_size) == (DATA_OFFSET, 15)


@pytest.mark.parametrize("told", [False, True])
def test_a_piece_ends_with_its_session(told):
    client = Client(Box(b"abc"))
    client.write(0, 4, 3)
    assert client.data_offset == DATA_OFFSET
    assert not told or client.data_size == 4
    client.write(0, 4, 1)
    assert client.data_size == 0

    client.write(0, 4, 2)

    assert client.save_all() == [final(b"abc")]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8, 12, 16, 32, 40])
def test_fields_have_their_own_width(size):
    client = Client(Box())
    for offset in [*range(40), DATA_OFFSET - 8]:
        if (offset, size) in {(0, 4), (4, 4), (8, 8), (16, 8), (24, 8)}:
            client.read(offset, size)
        else:
            with pytest.raises(OSError, match="EINVAL"):
                client.read(offset, size)
        if (offset, size) not in {(0, 4), (4, 4)}:
            assert client.write(offset, size, 0).err == "EINVAL"  # data_size too: nothing is being resumed
    assert client.state == 1


def test_reserved_bits_are_kept_and_the_reserved_field_is_nothing():
    client = Client(Box(b"x"))
    assert client.write(4, 4, 0xFFFFFFFF).err is None
    assert client.read(4, 4) == 0
    assert client.write(0, 4, 0xABCDEF00 | 1).err is None
    assert client.state == 0xABCDEF01
    assert client.write(0, 4, 0x12345600 | 5).err == "EINVAL"
    assert client.state == 0xABCDEF01
    client.set_state(0xFFFFFFF8, 4)
    assert client.state == 0xABCDEF04
    client.model.fail = {(RESUMING, STOP): StateLost(errno.EINVAL, "broken")}
    assert client.set_state(0xFFFFFFF8, 1).err == "EINVAL"
    assert client.state == 0xABCDEF06


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("target", range(8))
@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_every_pair_of_states(start, target, flags):
    client = Client(Box(b"", flags))
    assert client.write(0, 4, start).err is None
    if start == 4:
        client.load_piece(b"F" + bytes(8) + b"END")
    arcs = len(client.model.arcs)

    result = client.write(0, 4, target)

    if target in (5, 6, 7):
        assert result.err == "EINVAL"
        assert client.state == start
        assert len(client.model.arcs) == arcs
    else:
        assert result.err is None
        assert client.state == target
    running = client.bench.device.migration.runs
    assert running == bool(client.state & 1)


def test_in_error_nothing_works_but_reset():
    client = Client(Box(b"abc"))
    client.write(0, 4, 3)
    client.model.fail = {(PRE_COPY, PRE_COPY_P2P): StateLost(errno.EIO, "broken")}
    assert client.write(0, 4, 2).err == "EIO"

    for value in range(8):
        assert client.write(0, 4, value).err == "EIO"
    assert client.write(24, 8, 1).err == "EIO"
    assert (client.state, client.pending, client.data_offset, client.data_size) == (6, 0, DATA_OFFSET, 0)

    assert client.bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
    assert client.state == 1
    assert client.write(0, 4, 3).err is None


@pytest.mark.parametrize("flags", [1, 3, 5, 7])
@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("target", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("broken_back", [False, True])
def test_a_transition_that_fails_at_any_arc_leaves_the_old_state_or_an_error(
    flags, start, target, broken_back
):
    def make():
        client = Client(Box(b"abc", flags))
        client.write(0, 4, start)
        if start == 4:
            client.load_piece(b"F" + bytes(8) + b"END")
        client.model.arcs.clear()
        return client

    whole = make()
    assert whole.write(0, 4, target).err is None
    for index, arc in enumerate(whole.model.arcs):
        client = make()
        client.model.fail = {arc: IoctlError(errno.ENXIO, "told to fail")}
        if broken_back:
            for state in range(8):
                for other in range(8):
                    if (state, other) not in whole.model.arcs:
                        client.model.fail[state, other] = IoctlError(errno.EIO, "so is the way back")
        before = client.bench.device.migration.state

        assert client.write(0, 4, target).err == "ENXIO"

        state = client.state
        if index == 0:
            assert state == start
        assert state in (start, 6)
        assert client.bench.device.migration.state == (before if state == start else 0)
        if state == 6 and not broken_back:
            assert start == 4  # what was loaded is in the device, and it is not where it was
        client.bench.ioctl(c.VFIO_DEVICE_RESET)
        assert client.state == 1
        client.model.fail = {}
        assert client.write(0, 4, 2).err is None
        assert client.pending > 0


@pytest.mark.parametrize("kept", [0, 1, 8, 50, 110, 111])
def test_data_that_ends_early_are_refused_when_the_state_is_left(kept):
    source = Client(Box(bytes(100)))
    source.write(0, 4, 2)
    (piece,) = source.save_all()
    destination = Client(Box())
    destination.write(0, 4, 4)
    assert destination.load_piece(piece[:kept]) is None

    assert destination.write(0, 4, 1).err == "EINVAL"
    assert destination.state == 4

    assert destination.load_piece(piece[kept:]) is None  # it can still be made good
    assert destination.write(0, 4, 1).err is None
    assert destination.model.contents == bytes(100)


def test_too_much_is_refused():
    client = Client(Box(limit=10000))
    client.write(0, 4, 4)
    for size in (DATA_SIZE + 1, 1 << 32, (1 << 64) - 1):
        assert client.write(24, 8, size).err == "EINVAL"
    assert client.write(24, 8, DATA_SIZE).err == "ENOMEM"
    assert client.write(24, 8, 0).err is None


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 4096), (0, REGION_SIZE), (DATA_OFFSET, DATA_SIZE + 4096), (0x1001, 4096)]
)
def test_only_the_data_section_can_be_mapped(offset, size):
    client = Client(Box())
    assert client.bench.process.mmap(client.bench.fd, size, "rw", BASE + offset).err == "EINVAL"


def test_a_part_of_the_data_section_can_be_mapped():
    client = Client(Box())
    file = client.bench.process.fds[client.bench.fd].what
    mapped = client.bench.run(file.mmap(client.bench.process.caller, BASE + 0x3000, 0x2000, 3, shared=True))
    with mmap.mmap(mapped.fd, 0x2000, offset=mapped.start) as part:
        part[:5] = b"there"
    assert client.bench.pread(5, BASE + 0x3000) == b"there"


def test_the_last_close_ends_everything():
    client = Client(Box(b"abc"), mapped=True)
    client.write(0, 4, 3)
    assert client.data_offset == DATA_OFFSET
    client.bench.process.close(client.bench.fd)
    client.bench.fd = client.bench.open()

    assert (client.state, client.pending) == (1, 0)
    assert client.bench.pread(4, BASE + DATA_OFFSET) == bytes(4)
    assert client.map is not None
    assert client.map[:4] == b"Pabc"  # what is mapped stays mapped


class Reads:
    """A client that reads registers in any order; what it takes is right all the same."""

    def __init__(self, client, draw):
        self.client = client
        self.draw = draw

    def noise(self):
        for name in self.draw(st.lists(st.sampled_from(["state", "data_offset", "data_size"]), max_size=3)):
            getattr(self.client, name)

    def piece(self):
        """One iteration of the protocol, with reads in between."""
        client = self.client
        # Before the piece is known, polling has no effect.
        *_, pending = [client.pending for _ in range(self.draw(st.integers(1, 3)))]
        if not pending:
            return None
        self.noise_before()
        size = client.data_size
        self.noise()
        data = client.get(size)
        self.noise()
        assert client.get(client.data_size) == data
        return data

    def noise_before(self):
        for name in self.draw(st.lists(st.sampled_from(["state", "data_offset", "pending"]), max_size=3)):
            getattr(self.client, name)
        assert self.client.data_offset == DATA_OFFSET


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_reading_gives_the_same_bytes(data):
    contents = data.draw(st.binary(max_size=300)) * data.draw(st.sampled_from([1, 1, 1, 5000]))
    flags = data.draw(st.sampled_from([1, 3, 5, 7]))
    mapped = data.draw(st.booleans())
    source = Client(
        Box(contents, flags, empty_error=data.draw(st.sampled_from([None, errno.ENOMSG]))), mapped
    )
    destination = Client(Box(b"", flags, limit=64 << 20), data.draw(st.booleans()))
    reads = Reads(source, data.draw)
    stream = b""
    if data.draw(st.booleans()):
        source.write(0, 4, 3)
        for _ in range(data.draw(st.integers(0, 3))):
            stream += reads.piece() or b""
    source.write(0, 4, 2)
    while (piece := reads.piece()) is not None:
        stream += piece
    assert source.write(0, 4, 0).err is None

    destination.write(0, 4, 4)
    while stream:  # any segmentation, with reads in between
        n = data.draw(st.integers(1, min(len(stream), DATA_SIZE)))
        Reads(destination, data.draw).noise()
        assert destination.load_piece(stream[:n]) is None
        stream = stream[n:]
    assert destination.write(0, 4, 1).err is None
    assert destination.model.contents == contents


@given(st.binary(max_size=200), st.sampled_from([1, 3, 5, 7]))
def test_v1_and_v2_move_the_same_bytes(contents, flags):
    v1 = Client(Box(contents, flags))
    v1.write(0, 4, 2)
    v2 = Bench(Box(contents, flags))
    result, payload = v2.feature(FEATURE_SET, struct.pack("<Ii", STOP_COPY, -1))
    assert result.ret == 0
    data_fd = struct.unpack("<Ii", payload)[1]
    got = v2.process.read(data_fd, v2.arg, 4096).ret

    assert b"".join(v1.save_all()) == v2.answer(got)


def test_the_option_is_the_cores():
    options = {"migration": "v1", "ports": 2}
    assert take_option(options) == "v1"
    assert options == {"ports": 2}
    mine: dict[str, object] = {"migration": ["stop-copy"]}
    assert take_option(mine) is None
    assert mine == {"migration": ["stop-copy"]}
    with pytest.raises(ValueError, match="v3"):
        take_option({"migration": "v3"})


def test_a_model_that_does_not_migrate_cannot_be_told_to():
    for protocol in ("v1", "v2"):
        with pytest.raises(ValueError, match="does not migrate"):
            Bench(Box(flags=0), migration=protocol)
    bench = Bench(Box(), migration="none")
    assert bench.feature(c.VFIO_DEVICE_FEATURE_PROBE | 1)[0].err == "ENOTTY"
    assert bench.ioctl(c.VFIO_DEVICE_GET_INFO, bytes([16, *[0] * 15])).ret == 0
    assert struct.unpack("<4I", bench.answer(16))[2] == 2


class Memory:
    """Pages that say whether they were given up."""

    fd = -1

    def __init__(self):
        self.view = bytearray(DATA_SIZE)
        self.closed = False

    def close(self):
        self.closed = True


def test_accesses_that_meet_share_one_data_section():
    """An access holds no lock: while one waits for the pages, another may have made them."""
    regions = Bench(Box(), migration="v1").device.regions
    index = len(regions.regions()) - 1
    accesses = [finish(regions.write_region(index, DATA_OFFSET + at, bytes([at]))) for at in (1, 2)]
    asked = [next(access) for access in accesses]
    assert asked == [AllocatePages("vfio-migration", DATA_SIZE)] * 2
    made = Memory(), Memory()

    for access, pages in zip(accesses, made, strict=True):
        with pytest.raises(StopIteration):
            access.send(pages)

    assert [pages.closed for pages in made] == [False, True]
    assert made[0].view[:3] == bytes([0, 1, 2])


def test_a_data_section_that_cannot_be_had_is_asked_for_again():
    regions = Bench(Box(), migration="v1").device.regions
    index = len(regions.regions()) - 1
    access = finish(regions.write_region(index, DATA_OFFSET, b"a"))
    next(access)
    with pytest.raises(IoctlError, match="ENOMEM"):
        access.throw(IoctlError(errno.ENOMEM, "no memory"))

    again = finish(regions.write_region(index, DATA_OFFSET, b"a"))
    assert next(again) == AllocatePages("vfio-migration", DATA_SIZE)
