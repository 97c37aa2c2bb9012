# SPDX-License-Identifier: MIT
"""Connections that break at each frame of the hand-over, and peers that send what no peer would."""

from contextlib import ExitStack

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.migration.fake import EIO, fake_guest
from tests.migration.proxies import Proxy, copy_greeting, read_frame
from tests.migration.test_drivers import QUICK, destination, progresses
from vfioemu.migration import stream
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.greeting import opening
from vfioemu.migration.plan import PAGE, Limits, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType
from vfioemu.migration.transport import Channel


class Wire(Proxy):
    """A proxy that reads along, and cuts the connection at the first frame of a type.

    Args:
        target: where it connects to.
        cut: (type, deliver): cut at this frame, after it was passed on or instead.
        reconnect: whether later connections are served.
    """

    def __init__(self, target, cut, *, reconnect):
        self.target = target
        self.cut = cut
        self.reconnect = reconnect
        self.was_cut = False

    async def serve(self, left):
        if self.was_cut and not self.reconnect:
            await left.aclose()
            return
        right = await trio.open_tcp_stream(self.target.host, self.target.port)
        async with left, right, trio.open_nursery() as nursery:
            nursery.start_soon(self.copy, left, right, nursery.cancel_scope)
            nursery.start_soon(self.copy, right, left, nursery.cancel_scope)

    async def copy(self, here, there, scope):
        try:
            await self.copy_frames(here, there)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass
        scope.cancel()

    async def copy_frames(self, here, there):
        await copy_greeting(here, there)
        while True:
            frame = await read_frame(here)
            kind, deliver = self.cut
            if frame.kind == kind and not self.was_cut:
                self.was_cut = True
                if deliver:
                    await there.send_all(frame.data)
                    await trio.sleep(0.1)  # let it be understood before the end is seen
                return
            await there.send_all(frame.data)


DEST, SOURCE, NOBODY = "destination", "source", "nobody"
CUTS = [
    # frame, is it delivered, can the source reconnect: who runs the guest, exit code
    (FrameType.SETUP, False, True, SOURCE, 3),
    (FrameType.RAM, True, True, SOURCE, 3),
    (FrameType.DEVICE, False, True, SOURCE, 3),
    (FrameType.SUMS, True, True, SOURCE, 3),
    (FrameType.CHECKED, False, True, SOURCE, 3),
    (FrameType.PREPARE, True, True, SOURCE, 3),
    (FrameType.READY, False, True, SOURCE, 3),
    (FrameType.COMMIT, False, True, SOURCE, 3),
    (FrameType.COMMIT, True, True, DEST, 0),
    (FrameType.STARTED, False, True, DEST, 0),
    (FrameType.COMMIT, False, False, NOBODY, 6),
    (FrameType.STARTED, False, False, DEST, 6),
    (FrameType.RELEASED, False, True, DEST, 0),
]


@pytest.mark.parametrize(("kind", "deliver", "reconnect", "owner", "code"), CUTS)
async def test_cut_at_each_frame_leaves_at_most_one_owner(kind, deliver, reconnect, owner, code):
    async with fake_guest(running=True) as guest, destination() as (address, _, arrivals):
        async with Wire(address, (kind, deliver), reconnect=reconnect).up() as wire:
            result = await Source(guest, wire, Limits(), patience=QUICK).migrate()
        assert result.code == code, result.finish
        assert guest.cpus.running == (owner == SOURCE)
        assert [arrival.guest.cpus.running for arrival in arrivals] == [True] * (owner == DEST)
        if owner == SOURCE:
            await progresses(guest)
            again = await Source(guest, address, Limits()).migrate()
            assert again.code == 0, again.finish
        elif owner == DEST:
            await progresses(arrivals[0].guest)
        else:
            assert result.finish.outcome is Outcome.IN_DOUBT
            assert not result.finish.source_runs


async def test_device_that_does_not_start_is_refused_and_the_source_runs():
    """RUNNING_P2P at the destination fails after COMMIT: nothing ran there, so it may refuse."""

    def fail_on_start(receiver):
        device = receiver.devices["dma0"]
        set_state = device.set_state

        async def failing(state):
            if state in (2, 5):
                raise OSError(EIO, "injected")
            await set_state(state)

        device.set_state = failing

    async with (
        fake_guest(running=True) as guest,
        destination(prepare=fail_on_start) as (address, _, arrivals),
    ):
        result = await Source(guest, address, Limits()).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.PEER_REFUSED), result.finish
        assert "dma0" in result.finish.detail
        assert not arrivals
        await progresses(guest)


async def exchange(address, data):
    """Send bytes as a peer would, and read until the destination has enough."""
    try:
        peer = await trio.open_tcp_stream(address.host, address.port)
        async with peer:
            await peer.send_all(data)
            await peer.send_eof()
            while await peer.receive_some():
                pass
    except (trio.BrokenResourceError, OSError):
        pass


HELLO = b'{"token":"%s","guest":"x","verify":true,"page_size":4096}'
kinds = st.sampled_from([int(kind) for kind in FrameType] + [0, 99])
bodies = st.one_of(
    st.binary(max_size=64),
    st.builds(
        lambda block, runs: stream.pack_runs(block, runs),
        st.integers(0, 3),
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000)), max_size=4),
    ),
    st.builds(stream.pack_state, st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)),
    st.builds(lambda sums: stream.pack_sums(0, 0, sums), st.binary(min_size=8, max_size=64)),
    st.just(b'{"cpus":[]}'),
    st.sampled_from(
        [
            b'{"devices":[],"last":true}',
            b'{"devices":[{"name":"dma0"}],"last":false}',
            b'{"devices":[{"name":"dma0","state":"aa","size":9,"views":[{"what":"x"}]}]}',
        ]
    ),
    st.just(b'{"token":"%s"}' % (b"0" * 32)),
)
frames = st.lists(st.tuples(kinds, bodies, st.integers(0, 3 * PAGE)), max_size=6)


def hostile_stream(token, greeting, frames, setup):
    """A preamble and HELLO as they should be, if `greeting`, SETUP if `setup`, and then anything."""
    data = opening() if greeting else b""
    seq = 0
    if greeting:
        data += stream.frame(FrameType.HELLO, seq, HELLO % token.encode())
        seq += 1
    if setup is not None:
        data += stream.frame(FrameType.SETUP, seq, stream.encode(setup))
        seq += 1
    for kind, body, bulk in frames:
        head = stream.HEADER.pack(kind, 0, len(body), bulk, seq)
        data += head + stream.CRC.pack(stream.zlib.crc32(body, stream.zlib.crc32(head))) + body + bytes(bulk)
        seq += 1
    return data


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(st.binary(max_size=200), st.tuples(st.booleans(), frames, st.booleans())), max_size=3)
)
def test_hostile_peers_never_hurt_a_destination(attacks):
    async def attack():
        async with fake_guest(running=True, npages=16, cpus=0) as guest:
            async with destination(npages=16, cpus=0) as (address, _, arrivals):
                for number, what in enumerate(attacks):
                    data = what
                    if not isinstance(what, bytes):
                        greeting, sent, with_setup = what
                        setup = guest.setup() if with_setup and greeting else None
                        data = hostile_stream(f"{number:032x}", greeting, sent, setup)
                    with trio.fail_after(20):
                        await exchange(address, data)
                assert not arrivals, "a guest was started by nobody"
                result = await Source(guest, address, Limits()).migrate()
                assert result.code == 0, result.finish

    trio.run(attack)


async def test_silent_peer_does_not_keep_others_from_migrating():
    async with fake_guest(running=True) as guest, destination() as (address, _, _):
        async with await trio.open_tcp_stream(address.host, address.port):
            result = await Source(guest, address, Limits()).migrate()
            assert result.code == 0, result.finish


async def test_second_source_is_told_that_the_destination_is_busy():
    async with (
        fake_guest(running=True) as one,
        fake_guest(running=True) as two,
        destination() as (address, _, _),
    ):
        first = Source(one, address, Limits(bandwidth=4 << 20, downtime=0.01))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.migrate)
            await trio.sleep(0.3)
            result = await Source(two, address, Limits()).migrate()
            assert (result.code, result.finish.reason) == (3, Reason.PEER_BUSY)
            assert "busy" in result.finish.detail
            await progresses(two)
            first.cancel()
        assert first.result.code == 4


async def test_destination_that_invents_mismatches_of_unknown_pages_is_corrupt():
    """The source does not trust the destination either."""
    stack = ExitStack()

    async def lie(task_status):
        with Address.parse("tcp:127.0.0.1:0", insecure=True).listen() as listener:
            task_status.started(listener.bound)
            channel = Channel((await listener.accept())[0])
            stack.callback(channel.close)
            await channel.greet()
            await channel.greeted()
            await channel.receive()
            await channel.send(FrameType.WELCOME, b'{"version":"1"}')
            await channel.receive()
            await channel.send(FrameType.ACCEPTED, b'{"token":"%s"}' % (b"0" * 32))
            while True:
                header, _ = await channel.receive()
                if header.bulk:
                    await channel.receive_bulk([memoryview(bytearray(header.bulk))])
                if header.type is FrameType.LEDGER:
                    break
            body = (
                b'{"pages":32,"mismatched_pages":1,"mismatches":[{"block":7,"page":1,"content":""}],'
                b'"verdicts":[{"name":"dma0","parts":[{"what":"state","result":"same"},'
                b'{"what":"face","result":"same"},{"what":"registers","result":"same"}]}],"seconds":0}'
            )
            await channel.send(FrameType.CHECKED, body)
            await trio.sleep_forever()

    async with fake_guest(running=True, npages=16, cpus=0) as guest, trio.open_nursery() as nursery:
        address = await nursery.start(lie)
        result = await Source(guest, address, Limits()).migrate()
        assert (result.code, result.finish.reason) == (3, Reason.STREAM_CORRUPT), result.finish
        stack.close()
        nursery.cancel_scope.cancel()
