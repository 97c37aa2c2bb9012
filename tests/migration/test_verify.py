# SPDX-License-Identifier: MIT
"""The parts of the comparison of devices: states that are read again, memory that is mapped, config space, verdicts."""

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.migration.deadlines import DaemonSilent
from vfioemu.migration.messages import Checked, DeviceLedger, DeviceView, Likeness
from vfioemu.migration.plan import Reason
from vfioemu.migration.stream import StreamError
from vfioemu.migration.verify import config_masks, echo
from vfioemu.migration.verify.devices import ask_again
from vfioemu.migration.verify.echo import Unreadable
from vfioemu.migration.verify.mapped import digest_areas
from vfioemu.migration.verify.result import STATE, check_answer, compare, explain
from vfioemu.uapi import constants as u

STOP, STOP_COPY = u.VFIO_DEVICE_STATE_STOP, u.VFIO_DEVICE_STATE_STOP_COPY


class Device:
    """Gives one state after the other, each in pieces."""

    def __init__(self, *states, fail=None):
        self.states = list(states)
        self.fail = fail
        self.calls = []
        self.left = b""

    async def set_state(self, state):
        self.calls.append(state)
        if self.fail == state:
            raise OSError(errno.EIO, "broken")
        if state == STOP_COPY:
            self.left = self.states.pop(0)

    async def read_own(self, size):
        piece, self.left = self.left[: min(size, 7)], self.left[7:]
        return piece


async def test_state_is_read_from_its_beginning_and_the_device_is_stopped_afterwards():
    device = Device(b"x" * 100, b"x" * 100)
    found = await echo.read(device, 100)
    assert found.size == 100
    assert found == await echo.read(device, 100)
    assert found == await echo.read(Device(b"x" * 100), 100)
    assert found != await echo.read(Device(b"x" * 99 + b"y"), 100)
    assert device.calls == [STOP, STOP_COPY, STOP] * 2


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (Device(bytes(echo.SLACK + 30)), f"more than {echo.SLACK + 20} bytes"),
        (Device(fail=STOP_COPY), "cannot be read again: broken"),
        (Device(b"x", fail=STOP), "cannot be read again: broken"),
    ],
)
async def test_state_that_tells_nothing_is_no_state(device, why):
    with pytest.raises(Unreadable, match=why):
        await echo.read(device, 10)


@pytest.mark.parametrize(
    ("device", "result", "detail"),
    [
        (Device(b"x" * 10), Likeness.DIFFERS, "10 bytes, which are not those of the source"),
        (
            Device(b"x" * 9),
            Likeness.NOT_COMPARED,
            "at the source: its state is not the same when it is read twice",
        ),
        (
            Device(fail=STOP_COPY),
            Likeness.NOT_COMPARED,
            "at the source: its state cannot be read again: broken",
        ),
    ],
)
async def test_device_whose_state_is_never_the_same_has_lost_nothing_that_anybody_knows_of(
    device, result, detail
):
    found = await echo.read(Device(b"x" * 10), 10)
    theirs, ours = ledger(found.digest, 10, [view(a="1")]), ledger("ab", 10, [view(a="1")])
    told = await ask_again(device, theirs, compare(theirs, ours))
    assert (told.parts[0].result, told.parts[0].detail) == (result, detail)
    assert [part.what for part in told.parts] == ["state", "face"]
    assert told.result is result


async def test_device_that_is_the_same_is_not_asked_again():
    device = Device()
    same = compare(ledger(), ledger())
    assert await ask_again(device, ledger(), same) is same
    blind = compare(ledger("", 0, why="no"), ledger())
    assert await ask_again(device, ledger("", 0, why="no"), blind) is blind
    assert not device.calls


class Silent(Device):
    """Its daemon does not answer when it is read."""

    async def read_own(self, size):
        raise DaemonSilent("read", 5.0, "--call-timeout")


async def test_daemon_that_is_silent_says_nothing_of_a_device():
    with pytest.raises(DaemonSilent):
        await echo.read(Silent(b"x"), 10)


@pytest.fixture
def memory():
    fd = os.memfd_create("bar", os.MFD_CLOEXEC)
    os.truncate(fd, 1 << 30)
    yield fd
    os.close(fd)


def digest(fd, start=0, size=1 << 30, offset=0x1000, areas=1):
    return digest_areas(os.dup(fd), start, size, offset, areas)


def test_holes_of_mapped_memory_stay_holes_and_are_as_zeros(memory):
    assert digest(memory) == {}
    os.pwrite(memory, b"x", (5 << 22) + 9)
    found = digest(memory)
    assert list(found) == [f"{(5 << 22) + 0x1000:#x}+0x400000"]
    os.pwrite(memory, bytes(1 << 20), 5 << 22 | 1 << 21)
    assert digest(memory) == found
    assert os.fstat(memory).st_blocks * 512 < 4 << 20
    os.pwrite(memory, b"y", (5 << 22) + 9)
    assert digest(memory) != found
    os.pwrite(memory, b"\0", (5 << 22) + 9)
    assert digest(memory) == {}


def test_the_place_of_a_byte_counts(memory):
    os.pwrite(memory, b"x", 0)
    here = digest(memory)
    os.pwrite(memory, b"\0", 0)
    os.pwrite(memory, b"x", 4096)
    assert digest(memory).keys() == here.keys()
    assert digest(memory) != here


def test_memory_that_the_device_does_not_decode_is_no_memory_of_zeros(memory):
    os.truncate(memory, 0)
    with pytest.raises(OSError, match="does not decode"):
        digest(memory)


def config_space():
    config = bytearray(256)
    struct.pack_into("<HHHH", config, 0, 0x1234, 1, 7, 0xFFFF)
    config[0x34] = 0x40
    config[0x40:0x48] = bytes([0x01, 0x50, 0, 0, 0, 0xFF, 0, 0])
    config[0x50:0x60] = bytes([0x05, 0x70]) + b"\xff" * 14
    struct.pack_into("<BBHII", config, 0x70, 0x11, 0x40, 0xC007, 0x2002, 0x3004)  # a circle
    return config


def test_bits_of_the_host_do_not_count_and_all_others_do():
    config = bytes(config_space())
    seen = config_masks.masked(config)
    changed = {i for i in range(256) if seen[i] != config[i]}
    assert changed == {0x07, 0x45, 0x52, 0x73}
    assert seen[0x06] == 0xFF  # the interrupt bit is among them
    assert (seen[0x07], seen[0x45], seen[0x52], seen[0x73]) == (0x06, 0x7F, 0x8E, 0x00)
    assert config_masks.msix(config) == config_masks.MsiX(8, 2, 0x2000, 4, 0x3000)


@given(st.binary(max_size=4096), st.integers(0, 255))
def test_any_config_space_is_masked_and_keeps_its_size(config, first):
    if len(config) > 0x40:
        config = config[:6] + b"\x10\0" + config[8:0x34] + bytes([first]) + config[0x35:]
    seen = config_masks.masked(config)
    assert len(seen) == len(config)
    assert all(a & b == a for a, b in zip(seen, config, strict=True))
    config_masks.msix(config)


def ledger(state="aa", size=10, views=(), **other):
    return DeviceLedger(name="d", state=state, size=size, views=list(views), **other)


def view(**values):
    return DeviceView(what="face", values=values)


BLIND = DeviceView(what="face", why="it cannot be read")
CASES = [
    # the source's, the destination's: result, what is said
    (ledger(), ledger(), Likeness.SAME, ""),
    (ledger(), ledger("ab"), Likeness.DIFFERS, "state: 10 bytes, which are not those of the source"),
    (ledger(), ledger("ab", 9), Likeness.DIFFERS, "state: 9 bytes, and 10 at the source"),
    (ledger("", 0), ledger("", 0), Likeness.NOT_COMPARED, "state: the device gives no state"),
    (ledger("", 0, why="no"), ledger(), Likeness.NOT_COMPARED, "state: at the source: no"),
    (ledger(), ledger("", 0, why="no"), Likeness.NOT_COMPARED, "state: at the destination: no"),
    (ledger(views=[view(a="1")]), ledger(views=[view(a="1")]), Likeness.SAME, ""),
    (ledger(views=[view(a="1")]), ledger(views=[view(a="2")]), Likeness.DIFFERS, "face: a is 2, was 1"),
    (ledger(views=[view(a="1")]), ledger(views=[view()]), Likeness.DIFFERS, "face: a is zero, was 1"),
    (ledger(views=[view()]), ledger(views=[view(a="1")]), Likeness.DIFFERS, "face: a is 1, was zero"),
    (ledger(views=[view()]), ledger(), Likeness.DIFFERS, "face: the device here shows none"),
    (ledger(), ledger(views=[view()]), Likeness.DIFFERS, "face: the source's device shows none"),
    (ledger(views=[BLIND]), ledger(views=[BLIND]), Likeness.SAME, ""),
    (ledger(views=[BLIND]), ledger("ab", views=[view()]), Likeness.DIFFERS, "state: 10 bytes, which"),
    (
        ledger("", 0, why="no", views=[view(a="1")]),
        ledger(views=[view(a="1")]),
        Likeness.NOT_COMPARED,
        "state",
    ),
    (
        ledger(size=2 << 20, said=5),
        ledger(size=2 << 20),
        Likeness.DIFFERS,
        "size of its state: MIG_DATA_SIZE said 5",
    ),
    (ledger(said=5), ledger(), Likeness.SAME, ""),
    (
        ledger(promised=2 << 20, came=9),
        ledger(),
        Likeness.DIFFERS,
        "pre-copy: PRECOPY_INFO said that 2097152 bytes",
    ),
    (ledger(promised=2 << 20, came=1 << 20), ledger(), Likeness.SAME, ""),
    (ledger(promised=0, came=1 << 30), ledger(), Likeness.SAME, ""),
]


@pytest.mark.parametrize(("theirs", "ours", "result", "detail"), CASES)
def test_verdict(theirs, ours, result, detail):
    verdict = compare(theirs, ours)
    assert (verdict.name, verdict.result) == ("d", result)
    assert verdict.detail.startswith(detail)
    assert bool(verdict.detail) == (result is not Likeness.SAME)
    checked = Checked(pages=1, mismatched_pages=0, mismatches=[], verdicts=[verdict], seconds=0.0)
    assert checked.unproven == (result is not Likeness.SAME)
    check_answer(checked, [theirs], 1)
    reason, sentence = explain(checked)
    assert bool(sentence) == (result is not Likeness.SAME)
    assert result is not Likeness.NOT_COMPARED or reason is Reason.NOT_COMPARED


def test_many_differences_are_counted():
    theirs = ledger(views=[view(**{f"a{i}": "1" for i in range(50)})])
    assert compare(theirs, ledger(views=[view()])).detail.endswith("; 46 more")


def test_answer_that_leaves_something_out_is_corrupt():
    theirs = ledger(views=[view()])
    whole = Checked(
        pages=1, mismatched_pages=0, mismatches=[], verdicts=[compare(theirs, theirs)], seconds=0.0
    )
    check_answer(whole, [theirs], 1)
    for wrong in (
        lambda: check_answer(whole, [theirs], 2),
        lambda: check_answer(whole, [], 1),
        lambda: check_answer(whole, [theirs, theirs], 1),
        lambda: check_answer(whole, [ledger(views=[view(), DeviceView(what="more")])], 1),
        lambda: check_answer(whole, [ledger(why="unknown", views=[view()])], 1),
    ):
        with pytest.raises(StreamError, match="the destination"):
            wrong()
    assert STATE == whole.verdicts[0].parts[0].what
