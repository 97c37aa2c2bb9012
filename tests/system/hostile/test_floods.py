# SPDX-License-Identifier: MIT
"""Too many of something: what is too much is refused, and nothing stays behind."""

import contextlib
import errno
import os
import socket
import subprocess

import pytest

from tests.system.hostile.helpers import HOSTILE_GROUP, PAGE, Raw, settles, start_victim
from vfioemu import client
from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.usage import Usage
from vfioemu.native import bitmap
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


async def test_connections_beyond_the_limit_are_closed(daemon, empty):
    """This process has so many that no more are taken; another one is served."""
    await settles(daemon, empty)  # whoever was at work in the test before
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
    await settles(daemon, empty)


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


async def share_until_refused(raw, memory, first=0):
    """MEM_SHARE of one page at ever new addresses: how many were taken, and why the next one was not."""
    taken = 0
    while True:
        where = (1 << 40) + (first + taken) * 2 * PAGE
        reply = await raw.call(m.MEM_SHARE, 0, where, PAGE, 0, flags=m.F_FD, fds=[memory.fd])
        if reply.arg0:
            return taken, m.signed(reply.arg0)
        taken += 1


async def test_windows_of_a_process_are_bounded_over_all_its_sessions(daemon, bystander, clean):
    """64 sessions of 1024 windows each would be all that vm.max_map_count allows, and the end of the daemon."""
    async with Raw(daemon.socket_path) as first, Raw(daemon.socket_path) as second:
        with client.Memory(PAGE) as memory:
            taken, error = await share_until_refused(first, memory)
            assert (taken + 1, error) == (1024, -errno.ENOSPC)  # the bystander is in this process too
            assert await share_until_refused(second, memory) == (0, -errno.ENOSPC)
            await bystander.goes_on()
    await settles(daemon, clean)


def test_windows_of_all_processes_are_bounded():
    limits = Limits(max_windows=4, max_shared=8 * PAGE, max_all_windows=5, max_all_shared=10 * PAGE)
    everything = Usage()
    one, two = Usage(everything), Usage(everything)
    for _ in range(4):
        one.refuse(PAGE, limits)
        one.add(1, PAGE)
    with pytest.raises(IoctlError, match="the process shares 4 windows"):
        one.refuse(PAGE, limits)
    with pytest.raises(IoctlError, match="all share 4 windows"):
        two.refuse(7 * PAGE, limits)
    two.add(1, PAGE)
    with pytest.raises(IoctlError, match="all share 5 windows"):
        two.refuse(PAGE, limits)

    one.add(-1, -PAGE)

    two.refuse(PAGE, limits)


def test_large_bitmaps_are_bounded(monkeypatch):
    monkeypatch.setattr(bitmap, "MAX_LARGE", bitmap.DirtyBitmap.large + 2)
    kept = [bitmap.DirtyBitmap(1 << 20), bitmap.DirtyBitmap(1 << 20)]
    with pytest.raises(MemoryError, match="large dirty bitmaps is reached"):
        bitmap.DirtyBitmap(1 << 20)
    bitmap.DirtyBitmap(1 << 10).close()

    kept.pop().close()

    kept.append(bitmap.DirtyBitmap(1 << 20))
