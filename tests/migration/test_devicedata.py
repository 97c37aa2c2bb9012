# SPDX-License-Identifier: MIT
"""Devices that say too much, too little or nothing of their state, or have no end: each is named, in seconds."""

import errno

import pytest
import trio

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, destination, progresses
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.devicedata import MORE, STUCK, DeviceData
from vfioemu.migration.guest import UNKNOWN_STATE, GuestError
from vfioemu.migration.loader import Loader
from vfioemu.migration.narrator import Narrator
from vfioemu.migration.plan import Limits, OnMismatch, Reason, Tracker
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType, Header, StreamError, pack_state
from vfioemu.migration.transport import Channel
from vfioemu.uapi import constants as u

MIB = 1 << 20
GIB = 1 << 30
PIECE = bytes(MIB)


async def migrate(prepare, limits=None, there=None):
    """Migrate a fake guest whose device `prepare` has changed: the result, what was warned of, and whether it lives."""
    told = []
    async with fake_guest(running=True) as guest, destination(prepare=there) as (address, _, _):
        prepare(guest.devices["dma0"])
        limits = limits or Limits(downtime=0.3, on_mismatch=OnMismatch.MOVE)
        with trio.fail_after(20):
            result = await Source(guest, address, limits, tell=told.append, patience=QUICK).migrate()
        if result.code == 3:
            await progresses(guest)
    return result, [event.detail for event in told if isinstance(event, events.Warned)]


def answers(value):
    async def answer():
        return value

    return answer


async def test_precopy_bytes_that_are_counted_and_never_given_hold_nothing_up():
    """QEMU: ENOMSG means that nothing is left, whatever PRECOPY_INFO says."""

    def prepare(device):
        device.pending = answers(1 << 40)

    result, warned = await migrate(prepare)
    # It moves, and whoever compares finds out that it has said what is not so.
    assert (result.finish.outcome, result.finish.reason) == (Outcome.COMPLETED, Reason.MISMATCH)
    assert result.finish.detail.startswith("dma0 differs (pre-copy: ")
    assert [text for text in warned if "dma0" in text] == [
        "dma0 says that 1099511627776 bytes of pre-copy data are left, and gives none"
    ]


async def test_enomsg_of_a_stopped_device_is_named():
    def prepare(device):
        read = device.read_state

        async def read_state(size):
            return None if device.state == u.VFIO_DEVICE_STATE_STOP_COPY else await read(size)

        device.read_state = read_state

    result, _ = await migrate(prepare)
    assert (result.code, result.finish.reason) == (3, Reason.DEVICE_ERROR)
    assert (result.finish.errno, result.finish.detail) == (
        errno.ENOMSG,
        "dma0: ENOMSG from its data fd in STOP_COPY",
    )


async def test_state_without_an_end_is_ended_with_the_outage_and_named():
    def prepare(device):
        read = device.read_state

        async def read_state(size):
            if device.state != u.VFIO_DEVICE_STATE_STOP_COPY:
                return await read(size)
            await trio.sleep(0.01)
            return bytes(100)

        device.read_state = read_state

    result, _ = await migrate(prepare, Limits(downtime=0.3, max_outage=0.5))
    assert (result.code, result.finish.reason) == (3, Reason.OUTAGE_TOO_LONG)
    assert "the guest has stood still for 0.5 s (--max-outage)" in result.finish.detail
    assert "the state of dma0, " in result.finish.detail


async def test_state_that_is_larger_than_allowed_is_refused_before_the_stop():
    def prepare(device):
        device.stop_copy_size = answers(5 * MIB)

    result, _ = await migrate(prepare, Limits(downtime=10.0, max_device_state=4 * MIB))
    assert (result.code, result.finish.reason) == (3, Reason.DEVICE_STATE_TOO_LARGE)
    assert result.engine.timeline.paused is None
    assert result.finish.detail == (
        "dma0 has a state of 5242880 bytes, and 4194304 are allowed (--max-device-state)"
    )


async def test_state_of_unknown_size_is_not_refused_for_that():
    def prepare(device):
        device.stop_copy_size = answers(UNKNOWN_STATE)

    result, _ = await migrate(prepare, Limits(downtime=1e6, max_device_state=4 * MIB))
    assert result.code == 0, result.finish


@pytest.mark.slow
async def test_state_that_cannot_fit_is_told_in_seconds():
    def prepare(device):
        device.stop_copy_size = answers(UNKNOWN_STATE)

    with trio.fail_after(15):
        result, _ = await migrate(prepare, Limits(downtime=0.05))
    assert (result.code, result.finish.reason) == (3, Reason.DEVICE_STATE_TOO_LARGE)
    assert "most of it that of dma0" in result.finish.detail


# The account, alone.


def test_more_than_was_said_is_an_end_and_a_little_more_is_not():
    data = DeviceData(1 << 40, pytest.fail)
    data.says({"d": 100}, final=False)
    data.sends("d", MORE, final=True)
    with pytest.raises(
        GuestError, match=rf"d has given {MORE + 500} bytes .* MIG_DATA_SIZE was 100"
    ) as error:
        data.sends("d", 500, final=True)
    assert error.value.reason is Reason.DEVICE_ERROR


def test_what_was_sent_while_it_ran_is_no_part_of_what_was_said():
    data = DeviceData(1 << 40, pytest.fail)
    data.says({"d": 100}, final=False)
    for _ in range(10):
        data.sends("d", MORE, final=False)
    data.sends("d", 100, final=True)


def test_device_that_sends_more_than_is_allowed_is_named_whatever_it_said():
    data = DeviceData(1000, pytest.fail)
    data.says({"d": UNKNOWN_STATE}, final=False)
    data.sends("d", 1000, final=True)
    with pytest.raises(GuestError, match="d has a state of 1001 bytes, and 1000 are allowed"):
        data.sends("d", 1, final=True)


def test_precopy_data_that_do_not_become_less_are_warned_of_once():
    warned = []
    data = DeviceData(1 << 40, warned.append)
    for second in range(20):
        assert data.left("d", 1000, dry=False, now=float(second)) == 1000
        assert bool(warned) == (second >= STUCK)
    assert warned == ["d has 1000 bytes of pre-copy data left; they do not become less"]


def test_control_precopy_data_that_become_less_are_not_warned_of():
    data = DeviceData(1 << 40, pytest.fail)
    for second in range(100):
        assert data.left("d", 1000 - second, dry=False, now=float(second)) == 1000 - second


class Sink(Channel):
    """A channel on which the same bytes come for ever."""

    def __init__(self):
        pass

    async def receive_bulk(self, views):
        await trio.lowlevel.checkpoint()


@pytest.mark.full
async def test_8_gib_of_state_go_through_a_destination_piece_by_piece():
    """Nothing of it is kept: neither by the loader nor by the account of the source."""
    got = 0

    async def write_state(data):
        nonlocal got
        got += len(data)

    async with fake_guest(running=False, npages=16) as guest:
        guest.devices["dma0"].write_state = write_state
        loader = Loader(guest, Sink(), Narrator(lambda told: None, "destination"), verify=False)
        source = DeviceData(Limits().max_device_state, pytest.fail)
        source.says({"dma0": 8 * GIB}, final=False)
        for chunk in range(8 * GIB // MIB):
            source.sends("dma0", MIB, final=True)
            header = Header(FrameType.DEVICE, 0, 16, MIB, chunk)
            await loader.take(header, pack_state(0, chunk, 0, PIECE))
        assert got == 8 * GIB


async def test_destination_has_a_limit_of_its_own():
    async def write_state(data):
        pass

    async with fake_guest(running=False, npages=16) as guest:
        guest.devices["dma0"].write_state = write_state
        narrator = Narrator(lambda told: None, "destination")
        loader = Loader(guest, Sink(), narrator, 3 * MIB, verify=False)
        for chunk in range(3):
            await loader.take(Header(FrameType.DEVICE, 0, 16, MIB, chunk), pack_state(0, chunk, 0, PIECE))
        with pytest.raises(StreamError, match="longer than 3145728 bytes") as error:
            await loader.take(Header(FrameType.DEVICE, 0, 16, MIB, 3), pack_state(0, 3, 0, PIECE))
        assert error.value.reason is Reason.DEVICE_STATE_TOO_LARGE


async def test_container_without_a_device_needs_no_tracker():
    def empty(guest):
        guest.devices["dma0"].running = False
        guest.containers[0].devices.clear()
        guest.devices.clear()

    told = []
    async with fake_guest(running=True) as guest, destination(prepare=empty) as (address, _, _):
        empty(guest)
        limits = Limits(bandwidth=64 * MIB, downtime=0.1)
        result = await Source(guest, address, limits, tell=told.append, patience=QUICK).migrate()
    assert result.code == 0, result.finish
    assert result.engine.plan.containers[0].tracker is Tracker.NONE
    assert not [event for event in told if isinstance(event, events.Warned)]
