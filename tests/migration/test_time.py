# SPDX-License-Identifier: MIT
"""Time: what ends a migration while the guest runs, and that no wait is without an end."""

import socket
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import trio

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, destination, progresses
from tests.migration.test_engine import World, drive, plan
from tests.migration.test_silence import stall
from tests.migration.test_virtual import GIB, LINK, MIB, migrate
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.deadlines import HURRY, Calls
from vfioemu.migration.engine import SHORTEST_ROUND, Engine
from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.policies.policy import GoOn, StopGuest
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.timeout import default_timeout
from vfioemu.migration.transport import BEAT, Channel
from vfioemu.uapi import constants as u

SOON = 2.0
"""Seconds in which the first signal ends any phase."""
NOISE = 1.5
"""Seconds that a busy machine may take besides."""


# --timeout and rounds, in virtual time.


def test_timeout_holds_from_the_first_byte():
    """What was wrong: nothing was looked at before the first round was over."""
    finish, engine, guest = migrate(GIB, limits=Limits(bandwidth=LINK, max_seconds=2.0))
    assert (finish.outcome, finish.reason) == (Outcome.FAILED, Reason.NOT_CONVERGING)
    assert 2.0 <= guest.now < 2.2
    assert finish.source_runs
    assert finish.detail.startswith("after 1 round in 2.")
    assert "(--timeout 2s)" in finish.detail
    assert engine.completed_rounds == 1


@pytest.mark.parametrize("size", [8 * MIB, GIB])
def test_default_limit_is_time_and_grows_with_what_is_to_be_sent(size):
    npages = size // 4096
    finish, engine, guest = migrate(
        size, write_rate=4 * LINK / 4096, working_set=npages, limits=Limits(bandwidth=LINK, downtime=0.001)
    )
    assert finish.reason is Reason.NOT_CONVERGING
    allowed = default_timeout(size, LINK)
    assert allowed <= guest.now < allowed + 1.0
    assert len(engine.rounds) > 20
    assert f"(--timeout {allowed:g}s)" in finish.detail


def test_no_limit_is_no_limit():
    engine = Engine(plan(), Limits(max_seconds=0, max_outage=0))
    assert engine.timeout == engine.max_outage == float("inf")


@pytest.mark.parametrize("most", [1, 2, 5])
def test_rounds_are_counted_with_the_first_one(most):
    limits = Limits(bandwidth=LINK, downtime=0.001, max_rounds=most)
    finish, engine, _ = migrate(
        64 * MIB, write_rate=4 * LINK / 4096, working_set=64 * MIB // 4096, limits=limits
    )
    assert finish.reason is Reason.NOT_CONVERGING
    assert engine.completed_rounds == most
    assert f"after {most} round{'s' * (most > 1)} in" in finish.detail
    assert "(--max-rounds)" in finish.detail


class Never:
    """A policy that never comes to an end."""

    def __init__(self, limits):
        self.asked = []

    def decide(self, situation):
        self.asked.append(situation)
        return GoOn()


class Stop(Never):
    """A policy that stops the guest when the time is over, whatever is left."""

    def decide(self, situation):
        super().decide(situation)
        return StopGuest() if situation.over else GoOn()


@pytest.mark.parametrize(("policy", "outcome"), [(Never, Outcome.FAILED), (Stop, Outcome.COMPLETED)])
def test_policy_is_asked_when_the_time_is_over_and_cannot_go_on(policy, outcome):
    world = World(plan(npages=100_000))
    engine = Engine(world.plan, Limits(bandwidth=2_000_000, max_seconds=3.0), policy)
    finish = drive(engine, world, dirtied=lambda: 500)
    assert finish.outcome is outcome
    assert isinstance(engine._policy, Never)
    last = engine._policy.asked[-1]
    assert last.over
    assert last.seconds >= last.timeout == 3.0
    if outcome is Outcome.FAILED:
        assert finish.reason is Reason.NOT_CONVERGING
        assert finish.detail.startswith("3 s are over (--timeout), and ")


def test_no_round_is_shorter_than_a_millisecond():
    """A guest that is nearly idle, on a fast link, and a downtime that cannot be kept."""
    limits = Limits(downtime=1e-7, max_rounds=50)
    finish, engine, _ = migrate(MIB, bandwidth=GIB * 8, write_rate=5000, working_set=256, limits=limits)
    assert finish.reason is Reason.NOT_CONVERGING
    starts = [one.began for one in engine.rounds]
    assert len(starts) == 51
    assert min(b - a for a, b in pairwise(starts)) >= SHORTEST_ROUND * 0.999


async def test_link_that_takes_nothing_does_not_outlast_the_timeout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Address.parse("unix:m").listen() as listener:
        async with fake_guest(running=True, npages=4096) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(stall, listener, FrameType.RAM, False)
            began = time.monotonic()
            source = Source(guest, listener.bound, Limits(max_seconds=0.7), patience=QUICK)
            result = await source.migrate()
            assert 0.7 <= time.monotonic() - began < 0.7 + SOON + NOISE
            assert (result.code, result.finish.reason) == (3, Reason.NOT_CONVERGING)
            assert result.finish.detail == "0.7 s are over (--timeout), and this was not: the pages"
            await progresses(guest)
            nursery.cancel_scope.cancel()


# A daemon that does not answer, and a user who asks for the end.


def hang(guest, method, when=lambda *arguments: True):
    """From a call on, the device's daemon answers nothing: a fake of what vfio_device.py makes of it."""
    device = guest.devices["dma0"]
    hung = trio.Event()

    def wrap(name):
        real = getattr(device, name)

        async def call(*arguments):
            if name == method and when(*arguments):
                hung.set()

            async def work():
                if hung.is_set():
                    await trio.sleep_forever()
                return await real(*arguments)

            return await guest.calls.make(device, name, work())

        setattr(device, name, call)

    for name in ("get_state", "set_state", "reset", "read_state", "pending", "report", "start_logging"):
        wrap(name)
    wrap("stop_logging")
    return hung


HANGS = {
    "the start of logging": ("start_logging", lambda *_: True),
    "a sync": ("report", lambda *_: True),
    "pre-copy data": ("read_state", lambda *_: True),
    "the stop": ("set_state", lambda state: state == u.VFIO_DEVICE_STATE_PRE_COPY_P2P),
    "STOP_COPY": ("set_state", lambda state: state == u.VFIO_DEVICE_STATE_STOP_COPY),
}


@pytest.mark.parametrize("where", HANGS)
async def test_first_signal_ends_what_a_silent_daemon_holds_up(where):
    """What was wrong: a call was shielded without a deadline, and neither it nor a signal had an end."""
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        guest.calls.limit = 1000.0
        hung = hang(guest, *HANGS[where])
        source = Source(guest, address, Limits(downtime=0.3, max_outage=1000.0), patience=QUICK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.migrate)
            await hung.wait()
            began = time.monotonic()
            assert source.cancel()
        assert HURRY <= time.monotonic() - began < SOON + NOISE
    finish = source.result.finish
    assert (source.result.code, finish.outcome, finish.source_runs) == (1, Outcome.CANCELLED, False)
    assert finish.lost_devices == ("dma0",)
    assert "the daemon has not answered get_state" in finish.why_lost
    assert "(the migration was to be ended)" in finish.why_lost


@pytest.mark.parametrize("where", ["a sync", "STOP_COPY"])
async def test_silent_daemon_ends_the_migration_in_twice_the_call_timeout(where):
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        guest.calls.limit = 0.4
        hang(guest, *HANGS[where])
        began = time.monotonic()
        source = Source(guest, address, Limits(downtime=0.3), patience=QUICK)
        result = await source.migrate()
        assert 0.8 <= time.monotonic() - began < 0.8 + SOON + NOISE
    assert (result.code, result.finish.reason) == (1, Reason.DAEMON_SILENT)
    assert "for 0.4 s (--call-timeout 0.4s)" in result.finish.detail
    assert not result.finish.source_runs


async def test_outage_ends_while_a_device_does_not_stop():
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        device = guest.devices["dma0"]
        real = device.set_state

        async def set_state(state):
            if state == u.VFIO_DEVICE_STATE_STOP_COPY:
                await trio.sleep_forever()
            await real(state)

        device.set_state = set_state
        source = Source(guest, address, Limits(downtime=0.3, max_outage=0.4), patience=QUICK)
        result = await source.migrate()
        assert (result.code, result.finish.reason) == (3, Reason.OUTAGE_TOO_LONG)
        assert result.finish.detail == (
            "the guest has stood still for 0.4 s (--max-outage), and this was not over: dma0 to STOP_COPY"
        )
        assert result.finish.source_runs
        await progresses(guest)


async def test_signal_after_commit_makes_the_wait_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Address.parse("unix:m").listen() as listener:
        async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(stall, listener, FrameType.COMMIT, False)
            patience = replace(QUICK, commit=1000.0, resolve=1000.0)
            committed = trio.Event()

            class Telling(Source):
                async def _say_commit(self):
                    committed.set()
                    return await super()._say_commit()

            source = Telling(guest, listener.bound, Limits(downtime=0.3), patience=patience)
            async with trio.open_nursery() as inner:
                inner.start_soon(source.migrate)
                await committed.wait()
                began = time.monotonic()
                assert not source.cancel()
            assert time.monotonic() - began < SOON + NOISE
            assert (source.result.code, source.result.finish.outcome) == (6, Outcome.IN_DOUBT)
            assert "since the user wants the end" in source.result.finish.detail
            assert not guest.cpus.running
            nursery.cancel_scope.cancel()


async def test_guest_that_stays_is_as_patient_with_its_daemon_as_before():
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        source = Source(guest, address, Limits(bandwidth=8 << 20, downtime=0.1), patience=QUICK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.migrate)
            await trio.sleep(0.2)
            source.cancel()
        assert source.result.code == 4
        assert not source.cancel(), "it is over"
        assert guest.calls._hurried_until == float("inf")


# Who is idle is not silent.


def pair(idle=10.0):
    left, right = socket.socketpair()
    return Channel(left, idle), Channel(right, idle)


async def test_idle_side_sends_signs_of_life_and_nothing_else(autojump_clock):
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.beat, BEAT)
        with trio.move_on_after(20 * BEAT + 0.1):
            await theirs.receive(wait=2 * BEAT)  # not one of them is late
        nursery.cancel_scope.cancel()
    assert theirs.received == 20 * 24
    ours.close()
    theirs.close()


async def test_silent_side_is_noticed(autojump_clock):
    ours, theirs = pair()
    began = trio.current_time()
    with pytest.raises(StreamError, match=r"silent for 10 s \(--peer-timeout\)") as error:
        await theirs.receive(wait=10.0)
    assert error.value.reason is Reason.PEER_SILENT
    assert trio.current_time() - began == pytest.approx(10.0)
    ours.close()
    theirs.close()


async def test_side_that_sends_frames_needs_no_signs_of_life(autojump_clock):
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.beat, BEAT)
        for _ in range(10):
            await ours.send(FrameType.HELLO, b"{}")
            header, _ = await theirs.receive_any(wait=1.0)
            assert header.type is FrameType.HELLO
            await trio.sleep(BEAT / 2)
        nursery.cancel_scope.cancel()
    ours.close()
    theirs.close()


async def test_frames_of_two_tasks_are_not_mixed():
    ours, theirs = pair()
    count = 40
    async with trio.open_nursery() as nursery:

        async def send(mark):
            for _ in range(count):
                await ours.send(FrameType.DEVICE, mark * 16, [memoryview(mark * 300_000)])

        nursery.start_soon(send, b"a")
        nursery.start_soon(send, b"b")
        for _ in range(2 * count):
            header, body = await theirs.receive()
            data = bytearray(header.bulk)
            await theirs.receive_bulk([memoryview(data)])
            assert bytes(data) == body[:1] * 300_000
    ours.close()
    theirs.close()


async def test_calls_of_a_guest_have_deadlines_by_default():
    async with fake_guest(running=False) as guest:
        assert isinstance(guest.calls, Calls)
        assert 1 < guest.calls.limit < 60
