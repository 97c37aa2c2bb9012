# SPDX-License-Identifier: MIT
"""The migration region in hostile hands: any accesses, failing devices, two callers at once."""

import contextlib
import errno
import random
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.objects.v1_client import BASE, Box, Client, final
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.streams import StateLost
from vfioemu.core.objects.migration_v1 import DATA_OFFSET, REGION_SIZE
from vfioemu.testing.scheduler import Scheduler
from vfioemu.uapi import constants as c

OFFSETS = st.sampled_from(
    [0, 4, 8, 16, 24, 1, 32, DATA_OFFSET, DATA_OFFSET + 9, REGION_SIZE - 3]
) | st.integers(0, REGION_SIZE + 4096)
SIZES = st.sampled_from([0, 1, 2, 4, 8, 16]) | st.integers(0, 300)
VALUES = st.integers(0, 8) | st.sampled_from([0, 1, 2, 3, 4, 24, 200]) | st.integers(0, (1 << 64) - 1)
ARCS = st.tuples(st.integers(1, 7), st.integers(1, 7))
OPERATIONS = st.one_of(
    st.tuples(st.just("read"), OFFSETS, SIZES),
    st.tuples(st.just("write"), OFFSETS, SIZES, VALUES),
    st.tuples(st.just("state"), st.integers(0, 7)),
    st.tuples(st.just("size"), st.integers(0, 64)),
    st.tuples(st.just("fail"), ARCS, st.booleans()),
    st.tuples(st.just("reset")),
    st.tuples(st.just("fault"), st.integers(1, 4)),
)
ALLOWED = {None, "EINVAL", "EIO", "ENXIO", "ENOMEM", "EFAULT"}


def invariants(client, before):
    """What holds after any call."""
    device = client.bench.device
    state = client.state & 7
    assert state in {0, 1, 2, 3, 4, 6}
    assert (state == 6) == (device.migration.state == 0)
    assert device.migration.runs == (state in (1, 3))
    assert client.data_offset == DATA_OFFSET
    session = device.migration.session
    assert (session is not None) == (
        state in (2, 4) or (state == 3 and bool(client.model.migration_flags & 4))
    )
    assert not device.lock.held
    assert session is None or not session.lock.held
    if state not in (2, 3):
        assert client.data_size == 0
    if before == 6:
        assert state == 6  # only a reset leads out of it


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([1, 3, 5, 7]), st.lists(OPERATIONS, max_size=25))
def test_any_accesses_are_answered(flags, operations):
    client = Client(Box(bytes(100), flags, limit=1000))
    for operation, *args in operations:
        before = client.state & 7
        if operation == "read":
            offset, size = args
            result = client.bench.process.pread(client.bench.fd, client.bench.arg, size, BASE + offset)
            assert result.err in ALLOWED
        elif operation == "write":
            offset, size, value = args
            data = value.to_bytes(8, "little").ljust(size, b"\xff")[:size]
            assert client.bench.pwrite(data, BASE + offset).err in ALLOWED
        elif operation == "state":
            assert client.write(0, 4, args[0]).err in ALLOWED
        elif operation == "size":
            assert client.write(24, 8, args[0]).err in ALLOWED
        elif operation == "fail":
            arc, lost = args
            client.model.fail[arc] = (StateLost if lost else IoctlError)(errno.ENXIO, "told to fail")
        elif operation == "fault":
            client.bench.process.inject(args[0])
            assert client.write(0, 4, 3).err in ALLOWED
            client.bench.process.heal()
        else:
            assert client.bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
            assert client.state == 1
            before = 1
        invariants(client, before)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([1, 3, 5, 7]))
def test_two_callers_at_once_never_mix_streams_up(seed, flags):
    """One saves; the other changes the state under it, resets, polls. What a piece says of itself is always true."""
    choice = random.Random(seed)
    scheduler = Scheduler(choice.choice)
    client = Client(Box(b"contents" * 40, flags), scheduler=scheduler)
    process, fd = client.bench.process, client.bench.fd
    arguments = [process.memory.allocate(4096) for _ in range(2)]

    def pread(who, offset, size):
        return lambda file, caller: file.pread(caller, arguments[who], size, BASE + offset)

    def pwrite(who, offset, data):
        process.memory.write(arguments[who], data)
        return lambda file, caller: file.pwrite(caller, arguments[who], len(data), BASE + offset)

    def reset(file, caller):
        return file.ioctl(caller, c.VFIO_DEVICE_RESET, 0)

    for _ in range(30):
        offset = choice.choice([8, 16, 24])
        state = struct.pack("<I", choice.choice([0, 1, 2, 3, 4]))
        other = choice.choice(
            [pwrite(1, 0, state), pwrite(1, 0, state), pread(1, 8, 8), pread(1, 24, 8), reset]
        )
        tasks = [process.start_call(fd, call) for call in (pread(0, offset, 8), other)]
        scheduler.run_all()
        for task in tasks:
            with contextlib.suppress(IoctlError):  # EINVAL, as from any state that cannot be
                task.result()
        if client.state in (2, 3) and (size := client.data_size):
            piece = client.get(size)
            live, last = b"P" + client.model.contents, final(client.model.contents)
            assert piece in (live, last, live + last)
        invariants(client, 1)
