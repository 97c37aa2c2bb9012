# SPDX-License-Identifier: MIT
"""Sources that hang up at each frame boundary, and within each frame: the destination takes the next guest.

The source is a real one; what it sends passes a proxy, which cuts the connection after so many bytes of the first
frame of a type. After each cut the guest runs on one side at most, and in the end one honest migration must work.
"""

import gc
from contextlib import asynccontextmanager

import pytest
import trio

from tests.migration.fake import fake_guest
from tests.migration.proxies import Proxy, copy_greeting, read_frame
from tests.migration.test_drivers import QUICK, progresses
from tests.sample import sampled
from vfioemu.client import Memory
from vfioemu.migration import stream, transport
from vfioemu.migration.address import Address
from vfioemu.migration.destination import Destination
from vfioemu.migration.loader import Loader
from vfioemu.migration.peers import Peers
from vfioemu.migration.plan import Limits
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType

PAGES = 512
"""2 MiB in a block: enough for a worker thread of the destination to move it."""
SENT = [
    *(FrameType.HELLO, FrameType.SETUP, FrameType.ROUND, FrameType.RAM, FrameType.ZERO, FrameType.DEVICE),
    *(
        FrameType.CPUS,
        FrameType.SUMS,
        FrameType.LEDGER,
        FrameType.PREPARE,
        FrameType.COMMIT,
        FrameType.RELEASED,
    ),
]
PLACES = (
    "before",
    "in the header",
    "in the body",
    "before the bulk",
    "in the bulk",
    "at the last byte",
    "after",
)


def cut_at(place, body, bulk):
    """How many bytes of a frame come through."""
    head = stream.HEADER_SIZE
    return {
        "before": 0,
        "in the header": head // 2,
        "in the body": head + body // 2,
        "before the bulk": head + body,
        "in the bulk": head + body + bulk // 2,
        "at the last byte": head + body + bulk - 1,
        "after": head + body + bulk,
    }[place]


class Scissors(Proxy):
    """A proxy that cuts a connection within the first frame of a type; it does not serve another one."""

    def __init__(self, target, kind, place):
        self.target = target
        self.kind = kind
        self.place = place
        self.cut = False

    async def serve(self, left):
        async with left:
            if self.cut:
                return
            right = await trio.open_unix_socket(self.target.path)
            async with right, trio.open_nursery() as nursery:
                nursery.start_soon(self.back, right, left)
                try:
                    await self.forth(left, right)
                except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
                    pass
                nursery.cancel_scope.cancel()

    async def back(self, here, there):
        try:
            while data := await here.receive_some():
                await there.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def forth(self, here, there):
        await copy_greeting(here, there)
        while True:
            frame = await read_frame(here)
            if frame.kind == self.kind:
                self.cut = True
                await there.send_all(frame.data[: cut_at(self.place, frame.body, frame.bulk)])
                return
            await there.send_all(frame.data)


@asynccontextmanager
async def waiting(path):
    """A destination that waits, and is ended with the block if nothing else has ended it."""
    arrived = []
    peers = Peers(None)  # the proxy knows no token
    with Address.parse(f"unix:{path}", peers=peers).listen() as listener:
        receiver = Destination(lambda: fake_guest(running=False, npages=PAGES), listener, linger=0.2)

        async def receive():
            async with receiver.arrival() as arrival:
                arrived.append(arrival)
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            yield listener.bound, arrived
            nursery.cancel_scope.cancel()


async def cut_and_migrate(path, kind, places):
    """Cut at those places of a frame, and migrate."""
    async with fake_guest(running=True, npages=PAGES) as guest:
        for place in places:
            async with waiting(path) as (address, arrived):
                for _ in range(1 if kind is not FrameType.RAM else 3):
                    scissors = Scissors(address, kind, place)
                    async with scissors.up() as proxy:
                        result = await Source(guest, proxy, Limits(), patience=QUICK).migrate()
                    assert scissors.cut, "this frame was never sent"
                    if arrived or result.code == 0:
                        break
                    if result.code == 6:  # COMMIT is out, and nobody answers any more: nobody may run it
                        assert kind is FrameType.COMMIT
                        await resume(guest)
                        continue
                    assert result.code == 3, result.finish
                    await progresses(guest)
                if arrived or result.code == 0:
                    assert kind in (FrameType.COMMIT, FrameType.RELEASED)
                    assert result.code in (0, 6)
                    assert not guest.cpus.running
                    await progresses(arrived[0].guest)
                    await resume(guest)
                else:
                    result = await Source(guest, address, Limits(), patience=QUICK).migrate()
                    assert result.code == 0, result.finish
                    await resume(guest)


async def resume(guest):
    """What a user may do who knows that it does not run elsewhere: here, the destination is about to be ended."""
    device = guest.devices["dma0"]
    await device.set_state(2)
    device.tracking = False
    guest.cpus.resume()


@pytest.mark.parametrize("kind", sampled(reversed(SENT), 3), ids=lambda kind: kind.name.lower())
async def test_source_that_hangs_up_leaves_a_destination_that_takes_the_next_guest(
    kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bulky = kind in (FrameType.RAM, FrameType.DEVICE)
    places = [place for place in PLACES if bulky or "bulk" not in place]
    with trio.fail_after(120):
        await cut_and_migrate("m", kind, places)


async def test_control_a_destination_that_keeps_views_of_its_memory_is_noticed(tmp_path, monkeypatch):
    """What was wrong: a view of guest memory outlived the connection, and unmapping it was an error."""
    monkeypatch.chdir(tmp_path)
    kept = []
    ram = Loader._ram

    async def keeping(self, channel, header, body):
        kept.append(self._guest.ram[0].view[:10])
        await ram(self, channel, header, body)

    monkeypatch.setattr(Loader, "_ram", keeping)
    monkeypatch.setattr("tests.migration.fake.close_memory", Memory.close)
    with pytest.raises(BaseExceptionGroup) as error:
        await cut_and_migrate("m", FrameType.RAM, ["in the bulk"])
    assert error.group_contains(BufferError)
    kept.clear()
    gc.collect()


async def test_what_could_not_be_received_keeps_no_memory(monkeypatch):
    """Not in the list of the caller, not in the worker thread, not in a traceback."""
    monkeypatch.setattr(transport, "THREADED", 1)
    left, right = transport.socket.socketpair()
    channel = transport.Channel(left)
    memory = Memory(1 << 20)
    right.sendall(bytes(5000))
    right.close()
    views = [memory.view[:4096], memory.view[8192:]]
    with pytest.raises(stream.StreamError) as error:
        await channel.receive_bulk(views)
    memory.close()
    assert error.value.detail
    channel.close()


def test_memory_that_is_viewed_is_unmapped_with_its_last_view():
    memory = Memory(1 << 20, name="last-view")
    view = memory.view[4096:]
    view[0] = 7
    with pytest.raises(BufferError):
        memory.close()
    memory.abandon()
    memory.abandon()
    memory.close()
    assert (memory.fd, view[0]) == (-1, 7)
    with open("/proc/self/maps", encoding="ascii") as maps:
        assert "memfd:last-view" in maps.read()
    del view
    with open("/proc/self/maps", encoding="ascii") as maps:
        assert "memfd:last-view" not in maps.read()
