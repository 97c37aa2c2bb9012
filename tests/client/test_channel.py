# SPDX-License-Identifier: MIT
"""A connection whose daemon breaks the protocol: the client hangs up, and holds nothing that it brought."""

import array
import os
import socket

import pytest
import trio

from vfioemu import client
from vfioemu.client.channel import Channel
from vfioemu.syscalls import procmem
from vfioemu.wire import messages as m


class Rogue:
    """The daemon's end, and a pipe whose write end it gives away: end of file says that nobody holds it any more."""

    def __init__(self):
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.channel = Channel(ours)
        self.read_end, self.fd = os.pipe()

    def send(self, type, *args, data=b"", flags=0, fd=True, seq=1):
        header = m.encode(type, seq, args=(*args, 0, 0, 0, 0)[:4], flags=flags | (m.F_FD if fd else 0))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.fd]))] if fd else []
        self.sock.sendmsg([header, data], rights)

    def is_held(self):
        os.close(self.fd)
        self.fd = -1
        os.set_blocking(self.read_end, False)
        try:
            return os.read(self.read_end, 1) != b""
        except BlockingIOError:
            return True

    def close(self):
        self.channel.close()
        self.sock.close()
        os.close(self.read_end)
        if self.fd >= 0:
            os.close(self.fd)


@pytest.fixture
async def rogue():
    rogue = Rogue()
    yield rogue
    rogue.close()


REPLIES = {
    "ioctl": (m.IOCTL, 0, 0),
    "read": (m.READ, 5, 0),
    "hello": (m.HELLO, 0, 0),
    "open that failed": (m.OPEN, -2, 0),
    "open that gave more than 0": (m.OPEN, 1, 0),
    "mmap that failed": (m.MMAP, -22, 0),
    "mmap that asks for a proof": (m.MMAP, -9, m.F_UNPROVED),
    "mmap that asks for a proof, and says 0": (m.MMAP, 0, m.F_UNPROVED),
}


@pytest.mark.parametrize("what", REPLIES)
async def test_reply_with_an_fd_that_does_not_belong_ends_the_connection(rogue, what):
    call, result, flags = REPLIES[what]
    rogue.send(m.REPLY, result & m.U64, flags=flags)
    with trio.fail_after(5), pytest.raises(client.DaemonGone, match="an unexpected fd"):
        await rogue.channel.call(call, 0)
    assert not rogue.channel.open
    assert not rogue.is_held()


ASKS = {
    "READ_USER": (m.READ_USER, b""),
    "WRITE_USER": (m.WRITE_USER, bytes(8)),
    "PIN": (m.PIN, b""),
    "TAKE_FD": (m.TAKE_FD, b""),
    "REVOKE_FD": (m.REVOKE_FD, b""),
    "DATA": (m.DATA, bytes(8)),
}


@pytest.mark.parametrize("what", ASKS)
@pytest.mark.parametrize("service", [False, True])
async def test_ask_with_an_fd_ends_the_connection(rogue, what, service):
    """It is not answered, and no memory is touched."""
    ask, data = ASKS[what]
    memory = bytearray(b"untouched" * 8)
    address, keep = procmem.address_of(memory)
    rogue.send(ask, address, 8, data=data)
    rogue.send(m.REPLY, fd=False)
    with trio.fail_after(5):
        if service:
            await rogue.channel.serve()
        else:
            with pytest.raises(client.DaemonGone, match="an unexpected fd"):
                await rogue.channel.call(m.IOCTL, 1)
    assert not rogue.channel.open
    assert not rogue.is_held()
    del keep
    assert memory == b"untouched" * 8


@pytest.mark.parametrize("type", [m.GIVE_FD, m.TAKE_FD, m.REVOKE_FD, m.REPLY])
async def test_service_is_for_memory_alone(rogue, type):
    """Outside a call there is nobody to whom an fd could be given, or of whom one could be taken."""
    rogue.send(type, fd=type == m.GIVE_FD)
    with trio.fail_after(5):
        await rogue.channel.serve()
    assert not rogue.channel.open
    assert not rogue.is_held()
    assert rogue.sock.recv(1) == b""


async def test_fragment_with_an_fd_ends_the_connection(rogue):
    memory = bytearray(m.MAX_DATA + 8)
    address, keep = procmem.address_of(memory)
    rogue.send(m.WRITE_USER, address, len(memory), data=bytes(m.MAX_DATA), fd=False)
    rogue.send(m.DATA, data=bytes(8))
    rogue.send(m.REPLY, fd=False)
    with trio.fail_after(5), pytest.raises(client.DaemonGone, match="an unexpected fd"):
        await rogue.channel.call(m.IOCTL, 1)
    del keep
    assert not rogue.channel.open
    assert not rogue.is_held()


@pytest.mark.parametrize("type", [m.REPLY, m.READ_USER])
async def test_what_belongs_to_another_call_ends_the_connection(rogue, type):
    memory = bytearray(8)
    address, keep = procmem.address_of(memory)
    rogue.send(type, address, 8, fd=False, seq=2)
    rogue.send(m.REPLY, fd=False)
    with trio.fail_after(5), pytest.raises(client.DaemonGone, match="call 2, expected 1"):
        await rogue.channel.call(m.IOCTL, 1)
    del keep
    assert not rogue.channel.open


@pytest.mark.parametrize(("type", "seq"), [(m.DATA, 2), (m.READ_USER, 1)])
async def test_what_is_no_fragment_ends_the_connection(rogue, type, seq):
    memory = bytearray(m.MAX_DATA + 8)
    address, keep = procmem.address_of(memory)
    rogue.send(m.WRITE_USER, address, len(memory), data=bytes(m.MAX_DATA), fd=False)
    rogue.send(type, data=bytes(8), fd=False, seq=seq)
    rogue.send(m.REPLY, fd=False)
    with trio.fail_after(5), pytest.raises(client.DaemonGone, match="instead of a fragment"):
        await rogue.channel.call(m.IOCTL, 1)
    del keep
    assert not rogue.channel.open


@pytest.mark.parametrize("type", [m.OPEN, m.MMAP])
async def test_fd_that_belongs_to_a_reply_is_the_callers(rogue, type):
    rogue.send(m.REPLY)
    with trio.fail_after(5):
        reply = await rogue.channel.call(type, 0)
    assert rogue.channel.open
    os.write(reply.fd, b"x")
    assert os.read(rogue.read_end, 1) == b"x"
    os.close(reply.fd)
    assert not rogue.is_held()


async def test_fd_that_was_given_and_revoked_is_closed(rogue):
    rogue.send(m.GIVE_FD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rogue.channel.call, m.IOCTL, 1)
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(rogue.sock)
            rogue.sock.recv(m.MAX_MESSAGE)  # the call
            await trio.lowlevel.wait_readable(rogue.sock)
            answer = m.decode(rogue.sock.recv(m.MAX_MESSAGE))
            rogue.send(m.REVOKE_FD, answer.arg0, fd=False)
            rogue.send(m.REPLY, fd=False)
    assert rogue.channel.open
    assert not rogue.is_held()
