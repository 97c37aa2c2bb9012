# SPDX-License-Identifier: MIT
"""Frames and pages over real sockets."""

import contextlib
import errno
import mmap
import os
import socket

import pytest
import trio
import trio.testing

from vfioemu.migration import stream
from vfioemu.migration.address import Address, AddressError, Listener
from vfioemu.migration.plan import PAGE, Reason
from vfioemu.migration.stream import FrameType, StreamError
from vfioemu.migration.sums import PageSums
from vfioemu.migration.transport import THREADED, Channel
from vfioemu.native.runs import Runs


class Block:
    def __init__(self, npages):
        self.fd = os.memfd_create("block")
        os.ftruncate(self.fd, npages * PAGE)
        self.map = mmap.mmap(self.fd, npages * PAGE)
        self.view = memoryview(self.map)


@pytest.fixture
async def pair():
    """A function that makes two connected channels, or channels of given sockets; all are closed in the end."""
    made = []

    def make(idle=30.0, socks=None):
        channels = [Channel(sock, idle) for sock in socks or socket.socketpair()]
        made.extend(channels)
        return channels

    yield make
    for channel in made:
        channel.close()


async def receive_pages(channel, block):
    header, body = await channel.receive()
    _, runs = stream.unpack_runs(body, [len(block.view) // PAGE])
    assert runs.pages() * PAGE == header.bulk
    sums = PageSums(len(block.view) // PAGE)
    await channel.receive_pages(block, runs, sums)
    right = PageSums(sums.npages)
    right.take(block.view, runs)
    assert sums.digests() == right.digests(), "each page is summed when it is whole"


@pytest.mark.parametrize("family", ["unix", "tcp"])
@pytest.mark.parametrize("step", [1, 7, 40])
async def test_pages_arrive_where_they_belong(pair, family, step):
    source, destination = Block(2000), Block(2000)
    source.view[:] = os.urandom(PAGE) * 2000
    runs = [(first, min(step, 2000 - first)) for first in range(0, 2000, step + 1)]
    if family == "unix":
        a, b = pair()
    else:
        with Address.parse("tcp:127.0.0.1:0", insecure=True).listen() as listener:
            a, b = pair(socks=[await listener.bound.connect(), (await listener.accept())[0]])
    assert sum(length for _, length in runs) * PAGE > THREADED
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_pages, b, destination)
        sent = await a.send_pages(0, source, Runs.of(runs))
    assert sent == a.sent == b.received
    sent_pages = {page for first, length in runs for page in range(first, first + length)}
    for page in range(2000):
        here = slice(page * PAGE, (page + 1) * PAGE)
        assert bytes(destination.view[here]) == (
            bytes(source.view[here]) if page in sent_pages else bytes(PAGE)
        )


async def test_frames_in_both_directions_keep_their_order(pair):
    a, b = pair()
    async with trio.open_nursery() as nursery:

        async def talk(channel, base):
            await channel.greet()
            assert await channel.greeted() == 0
            for i in range(50):
                await channel.send(FrameType.ROUND, bytes([base + i]) * i)

        async def listen(channel, base):
            for i in range(50):
                assert (await channel.receive())[1] == bytes([base + i]) * i

        nursery.start_soon(talk, a, 0)
        nursery.start_soon(talk, b, 100)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(listen, a, 100)
        nursery.start_soon(listen, b, 0)


@pytest.mark.parametrize("npages", [10, 5000])
async def test_peer_that_closes_is_lost(pair, npages):
    block = Block(npages)
    a, b = pair()
    b.close()
    with pytest.raises(StreamError) as error:
        await a.send_pages(0, block, Runs.of([(0, npages)]))
    assert error.value.reason is Reason.PEER_LOST


async def test_peer_that_reads_nothing_is_lost_after_the_idle_time(pair):
    block = Block(5000)
    a, _b = pair(idle=0.3)
    with pytest.raises(StreamError, match="nothing moved"):
        await a.send_pages(0, block, Runs.of([(0, 5000)]))


async def test_cancel_ends_a_stuck_send(pair):
    block = Block(5000)
    a, _b = pair()
    with trio.move_on_after(0.05) as scope:
        await a.send_pages(0, block, Runs.of([(0, 5000)]))
    assert scope.cancelled_caught


async def test_frame_that_was_cancelled_before_it_began_takes_no_number(pair):
    """Else the ABORT of a source that is cancelled would be stream_corrupt at the destination."""
    a, b = pair()
    sent = 0
    async with trio.open_nursery() as nursery:
        # Of the cancel and the frame that has its turn trio lets one go first, as it likes.
        for _ in range(100):
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel, scope)
                await a.send(FrameType.HELLO)
            sent += not scope.cancelled_caught
    assert 0 < sent < 100
    assert not a.torn
    await a.send(FrameType.ABORT)
    received = [(await b.receive())[0].type for _ in range(sent + 1)]
    assert received == [FrameType.HELLO] * sent + [FrameType.ABORT]


async def cancel(scope):
    scope.cancel()


async def test_silent_peer_is_lost_after_wait(pair):
    a, _b = pair()
    with pytest.raises(StreamError, match="silent"):
        await a.receive(wait=0.05)


async def test_truncated_frame_is_lost_and_corrupt_frame_is_corrupt(pair):
    left, right = socket.socketpair()
    left.sendall(stream.frame(FrameType.ROUND, 0, b"abc")[:-1])
    left.close()
    with pytest.raises(StreamError) as error:
        await pair(socks=[right])[0].receive()
    assert error.value.reason is Reason.PEER_LOST
    left, right = socket.socketpair()
    left.sendall(stream.frame(FrameType.ROUND, 0, b"abc")[:-1] + b"x")
    with pytest.raises(StreamError) as error:
        await pair(socks=[left, right])[1].receive()
    assert error.value.reason is Reason.STREAM_CORRUPT


@pytest.mark.parametrize(
    "uri",
    ["", "unix:", "tcp:", "tcp:1.2.3.4:5", "tcp:127.0.0.1", "tcp:127.0.0.1:x", "ftp:x", "unix:" + "a" * 108],
)
def test_unusable_uri_is_named(uri):
    with pytest.raises(AddressError):
        Address.parse(uri)


async def test_unix_socket_is_private_replaces_a_stale_one_and_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind("m.sock")
    address = Address.parse("unix:m.sock")
    with address.listen():
        assert (tmp_path / "m.sock").stat().st_mode & 0o777 == 0o600
        with pytest.raises(AddressError, match="somebody listens"), address.listen():
            pass
    assert not (tmp_path / "m.sock").exists()


def test_place_of_somebody_whose_queue_is_full_is_taken(tmp_path, monkeypatch):
    """To ask him by a connection that waits for room would take as long as he likes."""
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind("m.sock")
        busy.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex("m.sock") == errno.EAGAIN:
                break
        with pytest.raises(AddressError, match="somebody listens"), Address.parse("unix:m.sock").listen():
            pass
        assert (tmp_path / "m.sock").exists()


async def test_nobody_there_is_peer_absent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StreamError) as error:
        await Address.parse("unix:none").connect()
    assert error.value.reason is Reason.PEER_ABSENT


async def test_socket_of_another_user_is_not_said_to_be_nobodys(monkeypatch):
    """The hint of peer_absent, to start the destination first, would not be true."""

    async def forbidden(address):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Address, "_connect", forbidden)
    with pytest.raises(StreamError, match="cannot connect to unix:m: Permission denied") as error:
        await Address.parse("unix:m").connect()
    assert error.value.reason is Reason.PEER_UNTRUSTED


class Forbidden:
    """A listening socket of a process that may not call accept()."""

    def setblocking(self, _):
        pass

    def accept(self):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


async def test_an_accept_that_is_forbidden_is_not_tried_for_ever():
    with pytest.raises(PermissionError):
        await Listener(Forbidden(), Address(path="x")).accept()
