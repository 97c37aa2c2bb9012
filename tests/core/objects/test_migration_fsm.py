# SPDX-License-Identifier: MIT
"""The migration state machine: which arcs a device is told to make, against a table written by hand."""

import errno
import mmap
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.files.data import DataFile
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.streams import ResumingStream, SavingStream, StateLost
from vfioemu.core.objects.migration import STATE_FLAGS, Session, next_state
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

GET = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
SET = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
NUMBERS = {"E": 0, "S": 1, "R": 2, "SC": 3, "RES": 4, "RP": 5, "PC": 6, "PCP": 7}
NAMES = {number: name for name, number in NUMBERS.items()}

PATHS = {
    1: """
        S: - R SC RES
        R: S - S,SC S,RES
        SC: S S,R - S,RES
        RES: S S,R S,SC -
    """,
    3: """
        S: - RP,R SC RES RP
        R: RP,S - RP,S,SC RP,S,RES RP
        SC: S S,RP,R - S,RES S,RP
        RES: S S,RP,R S,SC - S,RP
        RP: S R S,SC S,RES -
    """,
    5: """
        S: - R SC RES R,PC
        R: S - S,SC S,RES PC
        SC: S S,R - S,RES !
        RES: S S,R S,SC - S,R,PC
        PC: R,S R SC R,S,RES -
    """,
    7: """
        S: - RP,R SC RES RP RP,R,PC RP,PCP
        R: RP,S - RP,S,SC RP,S,RES RP PC RP,PCP
        SC: S S,RP,R - S,RES S,RP ! !
        RES: S S,RP,R S,SC - S,RP S,RP,R,PC S,RP,PCP
        RP: S R S,SC S,RES - R,PC PCP
        PC: R,RP,S R PCP,SC R,RP,S,RES R,RP - PCP
        PCP: RP,S RP,R SC RP,S,RES RP PC -
    """,
}
"""What migration_v2's table says, by VFIO_MIGRATION_ flags: a row a state, a column a target; ! is EINVAL."""
COLUMNS = {1: "S R SC RES", 3: "S R SC RES RP", 5: "S R SC RES PC", 7: "S R SC RES RP PC PCP"}


def cases():
    for flags, table in PATHS.items():
        for line in table.strip().splitlines():
            current, _, row = line.strip().partition(": ")
            for target, path in zip(COLUMNS[flags].split(), row.split(), strict=True):
                yield pytest.param(flags, current, target, path, id=f"{flags}-{current}-{target}")


def walk(flags, current, target):
    path = []
    while current != target:
        current = next_state(flags, current, target)
        path.append(NAMES[current])
    return ",".join(path) or "-"


@pytest.mark.parametrize(("flags", "current", "target", "path"), [*cases()])
def test_paths_are_those_of_the_uapi(flags, current, target, path):
    if path == "!":
        with pytest.raises(IoctlError) as refused:
            next_state(flags, NUMBERS[current], NUMBERS[target])
        assert refused.value.errno == errno.EINVAL
    else:
        assert walk(flags, NUMBERS[current], NUMBERS[target]) == path


@given(st.sampled_from([1, 3, 5, 7]), st.integers(0, 7), st.integers(0, 9) | st.just(0xFFFFFFFF))
def test_targets_that_a_device_has_not_are_refused_at_once(flags, current, target):
    has = {state for state, needed in STATE_FLAGS.items() if not needed & ~flags}
    if current in has and target in has:
        return

    with pytest.raises(IoctlError) as refused:
        next_state(flags, current, target)

    assert refused.value.errno == errno.EINVAL


class Numbers(SavingStream):
    """Four bytes."""

    def __init__(self):
        self.left = b"1234"

    def peek(self, size):
        return self.left[:size]

    def advance(self, size):
        self.left = self.left[size:]


class Scripted(DeviceModel):
    """Fails the arcs that it is told to fail."""

    migration_flags = 7

    def __init__(self):
        super().__init__({})
        self.made = []
        self.fail = {}

    def arc(self, current, target):
        if error := self.fail.pop((NAMES[current], NAMES[target]), None):
            raise error
        self.made.append((NAMES[current], NAMES[target]))
        opens = {("S", "SC"), ("R", "PC"), ("RP", "PCP")}
        return Numbers() if (NAMES[current], NAMES[target]) in opens else None


@pytest.fixture
def bench():
    return Bench(Scripted())


def set_state(bench, name):
    result, payload = bench.feature(SET, struct.pack("<Ii", NUMBERS[name], 77))
    return result.err or 0, struct.unpack("<Ii", payload)


def state(bench):
    result, payload = bench.feature(GET, bytes(8))
    assert result.ret == 0
    number, data_fd = struct.unpack("<Ii", payload)
    assert data_fd == -1
    return NAMES[number]


def test_a_failure_on_the_way_leaves_the_last_state_that_was_reached(bench):
    bench.model.fail = {("RP", "S"): IoctlError(errno.EIO, "broken")}

    answer = set_state(bench, "SC")

    assert answer == ("EIO", (NUMBERS["SC"], -1))
    assert state(bench) == "RP"
    assert bench.model.made == [("R", "RP")]


def test_a_lost_device_is_in_error_until_it_is_reset(bench):
    set_state(bench, "PC")
    bench.model.fail = {("PC", "PCP"): StateLost(errno.EINVAL, "gone")}

    assert set_state(bench, "SC")[0] == "EINVAL"
    assert state(bench) == "E"
    assert set_state(bench, "R")[0] == "EINVAL"
    assert set_state(bench, "E") == (0, (0, -1))
    assert bench.ioctl(c.VFIO_DEVICE_RESET).ret == 0
    assert state(bench) == "R"


def test_the_fd_of_pre_copy_goes_on_in_stop_copy_and_ends_with_it(bench):
    result, (_, data_fd) = set_state(bench, "PC")
    assert result == 0
    assert set_state(bench, "SC") == (0, (NUMBERS["SC"], -1))
    process = bench.process

    assert process.read(data_fd, bench.arg, 3).ret == 3
    assert process.read(data_fd, bench.arg, 8).ret == 1
    assert process.read(data_fd, bench.arg, 8).ret == 0
    assert set_state(bench, "S") == (0, (NUMBERS["S"], -1))
    assert process.read(data_fd, bench.arg, 8).err == "ENODEV"
    assert process.write(data_fd, bench.arg, 1).err == "EBADF"
    assert process.pread(data_fd, bench.arg, 1, 0).err == "ESPIPE"


@pytest.mark.parametrize(
    ("stream", "prot", "shared", "error"),
    [
        (SavingStream, mmap.PROT_READ, True, errno.ENODEV),
        (SavingStream, mmap.PROT_READ | mmap.PROT_WRITE, True, errno.EACCES),
        (SavingStream, mmap.PROT_READ | mmap.PROT_WRITE, False, errno.ENODEV),
        (ResumingStream, 0, True, errno.EACCES),
        (ResumingStream, mmap.PROT_READ, False, errno.EACCES),
    ],
)
def test_no_data_fd_can_be_mapped_and_the_reason_is_what_it_is_open_for(bench, stream, prot, shared, error):
    file = DataFile(Session(stream(), "d"))

    with pytest.raises(IoctlError) as refusal:
        bench.run(file.mmap(bench.process.caller, 0, 4096, prot, shared))

    assert refusal.value.errno == error


def test_reset_and_the_last_close_end_a_session(bench):
    _, (_, first) = set_state(bench, "PC")
    bench.ioctl(c.VFIO_DEVICE_RESET)
    _, (_, second) = set_state(bench, "SC")
    bench.process.close(bench.fd)

    assert bench.process.read(first, bench.arg, 1).err == "ENODEV"
    assert bench.process.read(second, bench.arg, 1).err == "ENODEV"
    bench.fd = bench.open()
    assert state(bench) == "R"


def test_an_fd_that_cannot_be_given_leaves_the_new_state(bench):
    while bench.process.null() < 1023:
        pass

    answer = set_state(bench, "SC")

    assert answer[0] == "EMFILE"
    assert state(bench) == "SC"


def test_an_fd_that_cannot_be_told_is_taken_back(bench):
    before = set(bench.process.fds)
    bench.process.memory.write(bench.arg, struct.pack("<IIIi", 16, SET, NUMBERS["SC"], 0))
    bench.process.memory.protect(bench.arg, 4096, "r")

    answer = bench.process.ioctl(bench.fd, c.VFIO_DEVICE_FEATURE, bench.arg)

    assert answer.err == "EFAULT"
    assert set(bench.process.fds) == before
    assert bench.device.migration.state == NUMBERS["SC"]


def test_no_check_is_made_for_the_state_that_it_has(bench):
    assert set_state(bench, "R") == (0, (NUMBERS["R"], -1))
    assert bench.model.made == []
