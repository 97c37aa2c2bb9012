# SPDX-License-Identifier: MIT
"""Too many of something: what is too much is refused, and nothing stays behind."""

import contextlib
import errno
import os
import socket
import subprocess

import pytest

from tests.hostile.helpers import HOSTILE_GROUP, Raw, settles, start_victim
from vfioemu.uapi import constants as c
from vfioemu.wire import messages as m


async def test_greeting_and_gone(daemon, clean):
    """The reply to HELLO finds nobody."""
    for flags in (0, m.F_SERVICE):
        for _ in range(50):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(os.fspath(daemon.socket_path))
                words = m.MAGIC, m.VERSION | m.VERSION << 32, 0, m.INFINITE
                sock.send(m.encode(m.HELLO, 1, args=words, flags=flags))
    await settles(daemon, clean)


async def test_half_a_greeting_disturbs_nobody(daemon, bystander, clean):
    """Connected, and silent."""
    silent = [Raw(daemon.socket_path, greet=False) for _ in range(20)]

    await bystander.goes_on()

    for raw in silent:
        raw.close()
    await settles(daemon, clean)


async def test_connections_beyond_the_limit_are_closed(daemon):
    """This process has so many that no more are taken; another one is served."""
    before = daemon.held()
    with contextlib.ExitStack() as many:
        taken = 0
        while await greeted(raw := Raw(daemon.socket_path, greet=False)):
            many.callback(raw.close)
            taken += 1
        raw.close()
        assert taken == 256

        victim = await start_victim(daemon, 0, stdout=subprocess.DEVNULL)
        assert await victim.wait() == 0
        await victim.stderr.aclose()
    await settles(daemon, before)


async def greeted(raw):
    """Whether the daemon takes this connection."""
    with contextlib.suppress(ConnectionError):
        raw.send(m.HELLO, 0, m.MAGIC, m.VERSION | m.VERSION << 32, 0, m.INFINITE)
        return await raw.receive() is not None
    return False


async def test_flood_of_fds_ends_the_connection(daemon, bystander, clean):
    """SCM_RIGHTS takes 253 at a time; none of them stays in the daemon."""
    null = os.open("/dev/null", os.O_RDONLY)
    for count in (2, 253):
        for _ in range(10):
            async with Raw(daemon.socket_path) as raw:
                raw.send(m.IOCTL, 1, 0, 0, flags=m.F_FD, fds=[null] * count)
                reply = await raw.receive()
                assert reply is None or reply.arg0 == -errno.EBADF & m.U64
    os.close(null)
    await settles(daemon, clean)


async def test_fds_that_are_no_tokens_are_closed(daemon, bystander, clean):
    """Every call brings another one."""
    ours, theirs = socket.socketpair()
    kinds = [ours.fileno(), os.eventfd(0), os.memfd_create("x"), os.open("/dev/zero", os.O_RDONLY)]
    async with Raw(daemon.socket_path) as raw:
        for _ in range(25):
            for fd in kinds:
                reply = await raw.call(m.IOCTL, 1, c.VFIO_CHECK_EXTENSION, 1, flags=m.F_FD, fds=[fd])
                assert m.signed(reply.arg0) == -errno.EBADF
    for fd in kinds[1:]:
        os.close(fd)
    ours.close()
    theirs.close()
    await settles(daemon, clean)


@pytest.mark.parametrize("type", [m.LIMITS, m.FORGET, m.OPEN, m.IOCTL, 99])
@pytest.mark.parametrize("flags", [0, m.F_FD])
async def test_fd_where_none_belongs_ends_the_connection(daemon, bystander, clean, type, flags):
    """With its flag or without; with a call on a file it would be a proof."""
    null = os.open("/dev/null", os.O_RDONLY)
    async with Raw(daemon.socket_path) as raw:
        raw.send(type, 0, flags=flags, fds=[null])
        if type == m.IOCTL and flags:
            assert m.signed((await raw.receive()).arg0) == -errno.EBADF
        else:
            assert await raw.is_ended()
    os.close(null)
    await settles(daemon, clean)


async def test_token_that_carries_itself_is_released(daemon, bystander, clean):
    """An fd that lies unread in its own token's other end would keep the token alive for ever."""
    async with Raw(daemon.socket_path) as raw:
        token = await raw.open(f"/dev/vfio/{HOSTILE_GROUP}")
        with socket.socket(fileno=os.dup(token)) as sock, contextlib.suppress(BrokenPipeError):
            socket.send_fds(sock, [b"x"], [token])
    await settles(daemon, clean)
