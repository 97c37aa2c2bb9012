# SPDX-License-Identifier: MIT
"""Source and destination against each other over real sockets, with devices that are a few lines of Python."""

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.migration.fake import EIO, fake_guest
from vfioemu.migration import events, loader
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.destination import Destination
from vfioemu.migration.engine import Engine
from vfioemu.migration.journal import Standing
from vfioemu.migration.messages import DevicePart, DeviceVerdict, Likeness
from vfioemu.migration.peer import query
from vfioemu.migration.plan import PAGE, Limits, OnMismatch, Reason
from vfioemu.migration.policies.policy import GiveUp, GoOn
from vfioemu.migration.result import Patience
from vfioemu.migration.source import Source
from vfioemu.migration.virtual import replay
from vfioemu.uapi import constants as u

QUICK = Patience(connect=1.0, answer=4.0, commit=1.0, resolve=1.0)
SLOW = Limits(bandwidth=8 << 20, downtime=0.1)
"""Some seconds for the 8 MiB of a fake guest: time to interfere."""


@asynccontextmanager
async def destination(uri="tcp:127.0.0.1:0", attempts=None, prepare=None, **shell):
    """A destination that waits in the background; yields (address, it, list of its arrivals)."""
    arrivals = []

    @asynccontextmanager
    async def make():
        async with fake_guest(running=False, **shell) as guest:
            if prepare is not None:
                prepare(guest)
            yield guest

    with Address.parse(uri, insecure=True).listen() as listener:
        receiver = Destination(make, listener, linger=0.5)

        async def receive():
            async with receiver.arrival(attempts) as arrival:
                arrivals.append(arrival)
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            yield listener.bound, receiver, arrivals
            nursery.cancel_scope.cancel()


async def progresses(guest):
    """The guest runs: its CPUs and its device write."""
    cpus, dma = guest.cpus.writes, await guest.devices["dma0"].writes()
    with trio.fail_after(10):
        while guest.cpus.writes == cpus or await guest.devices["dma0"].writes() == dma:  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_migration_moves_all_and_proves_it(scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    async with (
        fake_guest(running=True) as guest,
        destination("unix:b" if scheme == "unix" else "tcp:127.0.0.1:0") as (address, _, arrivals),
    ):
        result = await Source(guest, address, Limits(downtime=0.3), tell=told.append).migrate()
        assert (result.code, result.finish.outcome) == (0, Outcome.COMPLETED), result.finish
        assert result.checked.pages == 2048
        assert result.checked.devices == 1
        moved = arrivals[0].guest
        assert not guest.cpus.running
        await progresses(moved)
        assert [cpu.seq for cpu in moved.cpus.cpus] > [cpu.seq for cpu in guest.cpus.cpus]
        calls = [call[0] for call in guest.devices["dma0"].calls]
        assert calls.count("start_logging") == 1
        assert "stop_logging" not in calls  # it ends with the fds, as in QEMU
    assert [type(event) for event in told][-1] is events.End
    assert [event.owner for event in told if isinstance(event, events.Owner)] == ["source", "destination"]
    assert [event.seq for event in told] == list(range(len(told)))
    again = replay(
        Engine(result.engine.plan, result.engine.limits), result.engine.timeline.began, result.history
    )
    assert again[-1] == result.finish


class Slowing:
    """A policy that slows the CPUs down, and then gives up."""

    def __init__(self, limits):
        self.asked = 0

    def decide(self, situation):
        self.asked += 1
        return GoOn(0.5) if self.asked == 1 else GiveUp(Reason.NOT_CONVERGING, "asked twice")


async def test_cpus_are_slowed_down_as_the_policy_says_and_run_freely_afterwards():
    told = []
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        source = Source(guest, address, Limits(downtime=0.3), policy=Slowing, tell=told.append)
        result = await source.migrate()
        assert (result.finish.detail, result.finish.source_runs) == ("asked twice", True)
        assert [event.share for event in told if isinstance(event, events.Throttled)] == [0.5, 0.0]
        assert guest.cpus.throttle == 0.0
        await progresses(guest)


@pytest.mark.parametrize("throttle", [0.0, 0.75])
async def test_cpus_write_in_their_share_of_the_time(throttle, autojump_clock):
    async with fake_guest(running=False, cpus=1, cpu_rate=1000.0) as guest:
        guest.cpus.resume()
        guest.cpus.throttle = throttle
        await trio.sleep(10)
        assert guest.cpus.writes == pytest.approx(10_000 * (1 - throttle), rel=0.01)


@pytest.mark.parametrize("parts", [["state"], ["state", "face"], ["face", "registers"]])
async def test_destination_that_did_not_compare_a_part_of_a_device_is_caught(parts, monkeypatch):
    """The source knows what was to be compared."""
    same = [DevicePart(what=what, result=Likeness.SAME) for what in parts]
    monkeypatch.setattr(loader, "compare", lambda theirs, ours: DeviceVerdict(name="dma0", parts=same))
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        result = await Source(guest, address, Limits(downtime=0.3)).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.STREAM_CORRUPT), result.finish
        await progresses(guest)


async def test_write_that_left_no_mark_is_found_and_named():
    """The negative control: a verifier that passes everything is worth nothing."""
    told = []
    async with (
        fake_guest(running=True, area=64, hide_page=5, cpu_rate=100.0) as guest,
        destination() as (address, _, arrivals),
    ):
        limits = Limits(bandwidth=8 << 20, downtime=0.1, on_mismatch=OnMismatch.MOVE)
        result = await Source(guest, address, limits, tell=told.append).migrate()
        assert (result.code, result.finish.outcome) == (5, Outcome.COMPLETED), result.finish
        assert (result.finish.reason, result.finish.mismatches) == (Reason.MISMATCH, 1)
        assert arrivals[0].mismatches == 1, [str(lost) for lost in result.lost]
        [lost] = result.lost
        assert (lost.origin, lost.page) == ("dma0", 5)
    [event] = [event for event in told if isinstance(event, events.LostWrite)]
    assert event.write == lost.seq
    assert event.held.startswith("dma0 seq ")
    assert (told[-1].runs, told[-1].reason) == ("destination", "mismatch")


async def test_guest_that_is_not_the_same_there_stays_unless_it_was_told_to_move():
    """The destination has refused it before the source says anything: a source with a bug could not start it either."""
    told = []
    async with (
        fake_guest(running=True, area=64, hide_page=5, cpu_rate=100.0) as guest,
        destination() as (address, _, arrivals),
    ):
        source = Source(guest, address, Limits(bandwidth=8 << 20, downtime=0.1), tell=told.append)
        result = await source.migrate()
        assert (result.code, result.finish.outcome) == (5, Outcome.MISMATCH), result.finish
        assert (result.finish.reason, result.finish.source_runs) == (Reason.MISMATCH, True)
        assert "1 of 2048 pages differ" in result.finish.detail
        assert (told[-1].code, told[-1].runs, told[-1].source_runs) == (5, "source", True)
        assert not arrivals
        await progresses(guest)
        assert (await query(address, source.token, 1.0))[0] is Standing.REFUSED
        guest.devices["dma0"].hide_page = None
        assert (await Source(guest, address, Limits()).migrate()).code == 0


async def test_page_that_becomes_zero_while_it_moves_is_zero_at_the_destination():
    made = []
    async with (
        fake_guest(running=True, cpu_rate=100.0) as guest,
        destination(prepare=made.append) as (address, _, arrivals),
    ):
        low = guest.ram[0]
        await trio.testing.wait_all_tasks_blocked()
        page = next(page for page in range(low.npages) if any(low.page(page)))
        source = Source(guest, address, Limits(bandwidth=16 << 20, downtime=0.1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.migrate)
            while not any(made[0].ram[0].page(page)):
                await trio.sleep(0.01)
                assert source.result is None, "the page was never sent"
            low.write(page * PAGE, bytes(PAGE))
        assert source.result.code == 0, source.result.finish
        assert not any(arrivals[0].guest.ram[0].page(page))


async def test_cancel_leaves_the_source_running_and_a_second_migration_works():
    async with fake_guest(running=True) as guest, destination() as (address, receiver, arrivals):
        source = Source(guest, address, SLOW)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.migrate)
            await trio.sleep(0.3)
            assert source.cancel()
        assert (source.result.code, source.result.finish.outcome) == (4, Outcome.CANCELLED)
        assert guest.devices["dma0"].state == u.VFIO_DEVICE_STATE_RUNNING
        assert not guest.devices["dma0"].tracking
        await progresses(guest)
        result = await Source(guest, address, Limits()).migrate()
        assert result.code == 0, result.finish
        assert receiver.failures == 1
        assert len(arrivals) == 1


async def test_outer_cancellation_rolls_back_before_it_goes_on():
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        source = Source(guest, address, SLOW)
        with trio.move_on_after(0.3) as scope:
            await source.migrate()
        assert scope.cancelled_caught
        assert source.result.code == 4
        await progresses(guest)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("start_logging", Reason.TRACKING_START_FAILED),
        ("report", Reason.TRACKING_SYNC_FAILED),
        ("read_state", Reason.DEVICE_ERROR),
    ],
)
async def test_failing_call_ends_with_its_errno_and_the_source_running(method, reason):
    async with fake_guest(running=True, fail={method: EIO}) as guest, destination() as (address, _, _):
        result = await Source(guest, address, Limits()).migrate()
        assert (result.code, result.finish.reason, result.finish.errno) == (3, reason, EIO)
        await progresses(guest)


@pytest.mark.parametrize("method", ["write_state", "set_state"])
async def test_device_that_refuses_at_the_destination_leaves_the_source_running(method):
    async with fake_guest(running=True) as guest, destination(fail={method: EIO}) as (address, _, _):
        result = await Source(guest, address, Limits()).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.DEVICE_ERROR)
        assert "dma0" in result.finish.detail
        await progresses(guest)


async def test_guest_of_another_shape_is_refused():
    async with fake_guest(running=True) as guest, destination(npages=512) as (address, _, _):
        result = await Source(guest, address, Limits()).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.GUEST_DIFFERS)
        assert "512" in result.finish.detail


async def test_all_dirty_guest_does_not_converge():
    limits = Limits(bandwidth=16 << 20, downtime=0.05, max_rounds=2)
    async with fake_guest(running=True, logging=False) as guest, destination() as (address, _, _):
        result = await Source(guest, address, limits).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.NOT_CONVERGING)
        await progresses(guest)


async def test_container_tracker_is_used_when_devices_do_not_log():
    async with (
        fake_guest(running=True, logging=False, dirty_pages=True) as guest,
        destination() as (address, _, _),
    ):
        result = await Source(guest, address, Limits()).migrate()
        assert result.code == 0, result.finish


async def test_nobody_at_the_destination_is_a_failure_with_the_source_running(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with fake_guest(running=True) as guest:
        result = await Source(guest, Address.parse("unix:nobody"), Limits(), patience=QUICK).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.PEER_ABSENT)
        await progresses(guest)


async def test_device_without_migration_blocks_before_any_byte():
    async with fake_guest(running=True, migration=0) as guest, destination() as (address, receiver, _):
        result = await Source(guest, address, Limits()).migrate()
        assert (result.code, result.finish.reason) == (9, Reason.NO_MIGRATION_SUPPORT)
        assert not receiver.failures
        await progresses(guest)
