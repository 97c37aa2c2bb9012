# SPDX-License-Identifier: MIT
"""Destinations that fall silent at each step: the guest stands still no longer than the user allows."""

from dataclasses import replace
from itertools import pairwise

import pytest
import trio

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, progresses
from tests.sample import sampled
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.outage import default_max_outage
from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.transport import Channel

LIMIT = 0.7
STALLED = Limits(downtime=0.3, max_outage=LIMIT)
CHECKED = (
    b'{"pages":2048,"mismatched_pages":0,"mismatches":[],"seconds":0,"verdicts":[{"name":"dma0","parts":['
    b'{"what":"state","result":"same"},{"what":"face","result":"same"},{"what":"registers","result":"same"}]}]}'
)
TOKEN = b'{"token":"%s"}' % (b"0" * 32)


async def stall(listener, at, trickle):
    """Do what a destination does, up to a frame of the source; then nothing, or next to nothing."""
    channel = Channel((await listener.accept())[0])
    try:
        await _stall(channel, at, trickle)
    except StreamError:
        pass  # the source has left
    finally:
        channel.close()


async def _stall(channel, at, trickle):
    await channel.greet()
    await channel.greeted()
    kind = None
    while kind is not at:
        header, _ = await channel.receive()
        kind = header.type
        if kind is at:
            break
        if header.bulk:
            await channel.receive_bulk([memoryview(bytearray(header.bulk))])
        if kind is FrameType.HELLO:
            await channel.send(FrameType.WELCOME, b'{"version":"1"}')
        elif kind is FrameType.SETUP:
            await channel.send(FrameType.ACCEPTED, TOKEN)
        elif kind is FrameType.LEDGER:
            await channel.send(FrameType.CHECKED, CHECKED)
        elif kind is FrameType.PREPARE:
            await channel.send(FrameType.READY, TOKEN)
    while True:
        await trio.sleep(0.1)
        if trickle:
            await channel.receive_bulk([memoryview(bytearray(1))])


@pytest.mark.parametrize("trickle", sampled([True, False]))
@pytest.mark.parametrize(
    "at", [FrameType.CPUS, FrameType.SUMS, FrameType.LEDGER, FrameType.PREPARE], ids=lambda kind: kind.name
)
async def test_silence_while_the_guest_stands_still_ends_the_migration_in_time(
    at, trickle, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    told = []
    with Address.parse("unix:m").listen() as listener:
        async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(stall, listener, at, trickle)
            source = Source(guest, listener.bound, STALLED, tell=told.append, patience=QUICK)
            result = await source.migrate()
            assert (result.code, result.finish.outcome) == (3, Outcome.FAILED), result.finish
            assert result.finish.reason is Reason.OUTAGE_TOO_LONG
            assert "the guest has stood still for 0.7 s (--max-outage)" in result.finish.detail
            line = result.engine.timeline
            assert LIMIT <= line.resumed - line.paused < LIMIT + 2
            await progresses(guest)
            nursery.cancel_scope.cancel()
    assert isinstance(told[-1], events.End)
    assert told[-1].source_runs


@pytest.mark.parametrize("trickle", [False, True])
async def test_destination_that_stops_reading_while_pages_are_sent_is_left_in_time(
    trickle, tmp_path, monkeypatch
):
    """More RAM than sockets hold, and all of it dirty: the stopped phase blocks in the middle of a frame."""
    monkeypatch.chdir(tmp_path)
    with Address.parse("unix:m").listen() as listener:
        async with fake_guest(running=True, npages=4096) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(stall, listener, FrameType.RAM, trickle)
            limits = Limits(downtime=60.0, max_outage=LIMIT)
            source = Source(guest, listener.bound, limits, patience=QUICK)
            task = trio.Event()

            async def migrate():
                result = await source.migrate()
                assert (result.code, result.finish.reason) == (3, Reason.OUTAGE_TOO_LONG), result.finish
                task.set()

            monkeypatch.setattr("vfioemu.migration.engine.Engine._precopy", no_precopy)
            nursery.start_soon(migrate)
            with trio.fail_after(20):
                await task.wait()
            await progresses(guest)
            nursery.cancel_scope.cancel()


def no_precopy(engine):
    """All pages are left for the stopped phase."""
    yield from engine._sync(final=False)


async def test_cancel_ends_a_blocked_stopped_phase(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Address.parse("unix:m").listen() as listener:
        async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(stall, listener, FrameType.LEDGER, False)
            limits = Limits(downtime=0.3, max_outage=100.0)
            source = Source(guest, listener.bound, limits, patience=QUICK)

            async def cancel_when_stopped():
                while guest.cpus.running:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                await trio.sleep(0.2)
                assert source.cancel()

            nursery.start_soon(cancel_when_stopped)
            with trio.fail_after(10):
                result = await source.migrate()
            assert (result.code, result.finish.outcome) == (4, Outcome.CANCELLED)
            await progresses(guest)
            nursery.cancel_scope.cancel()


def test_default_is_some_seconds_and_more_where_more_is_to_be_done():
    small = default_max_outage(0.3, 8 << 20, verify=True)
    assert 5 < small < 10
    assert default_max_outage(3.0, 8 << 20, verify=True) > small + 10 * 2.0
    grows = [default_max_outage(0.3, size << 30, verify=True) for size in (1, 4, 16, 64)]
    assert all(a < b for a, b in pairwise(grows))
    assert default_max_outage(0.3, 64 << 30, verify=False) < 10


async def test_silence_after_commit_keeps_its_own_rule(tmp_path, monkeypatch):
    """Whoever has sent COMMIT may not run on because it took long: somebody else may run the guest."""
    monkeypatch.chdir(tmp_path)
    with Address.parse("unix:m").listen() as listener:
        async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(stall, listener, FrameType.COMMIT, False)
            patience = replace(QUICK, commit=1.5)
            result = await Source(guest, listener.bound, STALLED, patience=patience).migrate()
            assert (result.code, result.finish.outcome) == (6, Outcome.IN_DOUBT), result.finish
            assert not guest.cpus.running
            nursery.cancel_scope.cancel()
