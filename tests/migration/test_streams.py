# SPDX-License-Identifier: MIT
"""Pages on several connections: all arrive, and what is old never comes over what is new."""

import socket

import pytest
import trio
import trio.testing

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, SLOW, destination, progresses
from vfioemu.migration import stream
from vfioemu.migration.lanes import Lanes
from vfioemu.migration.messages import Join, Mark, Problem
from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.transport import Channel


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
@pytest.mark.parametrize("streams", [2, 4, 16])
async def test_guest_moves_on_several_streams(streams, scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = "unix:b" if scheme == "unix" else "tcp:127.0.0.1:0"
    async with fake_guest(running=True) as guest, destination(uri) as (address, _, arrivals):
        source = Source(guest, address, Limits(downtime=0.3), patience=QUICK, streams=streams)
        result = await source.migrate()
        assert (result.code, result.checked.pages) == (0, 2048), result.finish
        lanes = [lane.channel.sent for lane in source._peer.lanes.lanes]
        assert len(lanes) == streams - 1
        assert sum(lanes) > 4096 * 100, "pages went on them"
        await progresses(arrivals[0].guest)


async def test_stream_that_breaks_ends_the_migration_and_the_source_runs():
    async with fake_guest(running=True) as guest, destination() as (address, _, arrivals):
        source = Source(guest, address, SLOW, patience=QUICK, streams=3)

        async def cut():
            while len(source._peer.lanes.lanes) < 2 or not source.guest.ram[0].logging:  # noqa: ASYNC110
                await trio.sleep(0.005)
            source._peer.lanes.lanes[1].channel.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            result = await source.migrate()
        assert (result.code, result.finish.reason) == (3, Reason.PEER_LOST), result.finish
        assert not arrivals
        await progresses(guest)
        assert (await Source(guest, address, Limits(), streams=2).migrate()).code == 0


async def ask(address, join):
    """What a destination says to a connection that wants to be a stream of a migration."""
    channel = Channel(await address.connect())
    await channel.greet()
    await channel.greeted()
    await channel.send(FrameType.JOIN, join)
    with trio.fail_after(5):
        header, body = await channel.receive()
    channel.close()
    return header.type, body


async def test_stranger_cannot_bring_pages():
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        kind, body = await ask(address, Join(token="0" * 32, index=1))
        assert kind is FrameType.PROBLEM
        assert "no migration of that token" in stream.decode(body, Problem).detail
        source = Source(guest, address, SLOW, patience=QUICK, streams=2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.migrate)
            while not source._peer.lanes.lanes or not source.guest.ram[0].logging:  # noqa: ASYNC110
                await trio.sleep(0.005)
            for index in (1, 2):  # one that is there, and one that was not announced
                kind, body = await ask(address, Join(token=source.token, index=index))
                assert kind is FrameType.PROBLEM
                assert f"stream {index} of 1" in stream.decode(body, Problem).detail
            source.cancel()
        assert source.result.code == 4


class Order:
    """A page in memory, a lane that brings it, and the first connection."""

    def __init__(self, kind):
        self.lanes = kind(1, 30.0)
        self.page = None
        self.may_take = trio.Event()
        ours, theirs = socket.socketpair()
        self.lane, self.there = Channel(ours), Channel(theirs)

    async def take(self, channel, header, body):
        await self.may_take.wait()
        self.page = body

    def failed(self, error):
        raise AssertionError(error)

    async def first(self, before, after):
        """The first connection: a page, a barrier, and the page again."""
        if before is not None:
            await self.may_take.wait()
            self.page = before
        await self.lanes.barrier()
        if after is not None:
            self.page = after

    async def run(self, frames, before, after):
        self.lanes.join(1, self.there)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.lanes.run, self.take, self.failed)
            for kind, body in frames:
                await self.lane.send(kind, body)
            if after is None:  # the lane is faster
                self.may_take.set()
                nursery.start_soon(self.slowly, before, nursery)
            else:  # the first connection is faster
                nursery.start_soon(self.first, before, after)
                await trio.testing.wait_all_tasks_blocked(0.02)
                self.may_take.set()
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.cancel_scope.cancel()
        self.lanes.close()
        self.lane.close()
        return self.page

    async def slowly(self, before, nursery):
        await trio.testing.wait_all_tasks_blocked(0.01)
        await self.first(before, None)


class NoBarrier(Lanes):
    """The mistake: the first connection does not wait for the lanes."""

    async def barrier(self):
        pass


class NoStop(Lanes):
    """The mistake: a lane goes on before the others are there."""

    async def _arrive(self, index, number):
        async with self._news:
            self._at[index] += 1
            self._news.notify_all()


BARRIER = (FrameType.BARRIER, Mark(number=0))
OLD_ON_LANE = [(FrameType.ZERO, b"old"), BARRIER]
NEW_ON_LANE = [BARRIER, (FrameType.ZERO, b"new")]


@pytest.mark.parametrize(("kind", "page"), [(Lanes, b"new"), (NoBarrier, b"old")])
async def test_page_of_a_slow_lane_does_not_come_over_a_newer_one(kind, page):
    assert await Order(kind).run(OLD_ON_LANE, None, b"new") == page


@pytest.mark.parametrize(("kind", "page"), [(Lanes, b"new"), (NoStop, b"old")])
async def test_page_of_a_fast_lane_does_not_come_before_an_older_one(kind, page):
    assert await Order(kind).run(NEW_ON_LANE, b"old", None) == page


async def test_streams_that_were_announced_and_do_not_come_are_an_error():
    with pytest.raises(StreamError, match="0 of 3 more streams"):
        await Lanes(3, 30.0).barrier()
