# SPDX-License-Identifier: MIT
"""What a client says of holes in its files: what it may say so of, what is kept, and that nothing stays behind."""

import contextlib
import errno
import os
from pathlib import Path

import pytest
import trio

from tests.io.fake import Raw, serving
from vfioemu.core.base.locks import Lock
from vfioemu.wire import messages as m

PAGE = 4096
VADDR = 0x7000_0000_0000


class Holder:
    def __init__(self):
        self.lock = Lock("container")

    def moved(self):
        pass

    def written(self, offset, size):
        pass


@pytest.fixture
async def served():
    async with serving() as state:
        yield state
        assert state.dispatcher.counters.bugs == 0


@pytest.fixture
async def client(served):
    async with Raw(served.path) as client:
        yield client


@pytest.fixture
def ram():
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.truncate(fd, 4 * PAGE)
    os.pwrite(fd, b"data", PAGE)
    yield fd
    os.close(fd)


async def pinned(served, client, ram):
    """Hardware holds the file, which the client has shared."""
    reply, _ = await client.call(m.MEM_SHARE, 0, VADDR, 4 * PAGE, 0, fd=ram)
    assert reply.arg0 == 0
    (session,) = served.server.sessions.values()
    return session.space.pages(VADDR, 4 * PAGE, Holder())


async def hole(client, fd, offset=PAGE, size=PAGE):
    reply, _ = await client.call(m.MEM_HOLE, 0, offset, size, 0, 0, fd=fd)
    return m.signed(reply.arg0)


@pytest.mark.parametrize("mode", [os.O_WRONLY, os.O_RDWR])
async def test_a_hole_is_kept_whether_or_not_its_file_can_be_read_by_this_fd(served, client, ram, mode):
    pages = await pinned(served, client, ram)
    fd = os.open(f"/proc/self/fd/{ram}", mode)
    try:
        assert await hole(client, fd) == PAGE
    finally:
        os.close(fd)
    (piece,) = pages.parts(PAGE, 4)
    assert piece.window.read(piece.at, 4) == b"data"
    assert piece.window.file is None  # the file's no more


async def test_an_fd_that_cannot_make_holes_is_refused(served, client, ram):
    await pinned(served, client, ram)
    fd = os.open(f"/proc/self/fd/{ram}", os.O_RDONLY)
    try:
        assert await hole(client, fd) == -errno.EBADF
    finally:
        os.close(fd)


async def test_a_file_that_might_make_us_wait_is_not_asked_what_it_is(served, client, ram, monkeypatch):
    """As one on FUSE: its fstat() takes as long as its owner likes. Nobody can have shared it."""
    await pinned(served, client, ram)
    theirs, ours = os.pipe()
    looked = []
    fstat = os.fstat

    def watched(fd):
        looked.append(os.readlink(f"/proc/self/fd/{fd}"))
        return fstat(fd)

    monkeypatch.setattr(os, "fstat", watched)
    try:
        assert await hole(client, ours) == 0
    finally:
        os.close(theirs)
        os.close(ours)
    assert not [link for link in looked if link.startswith("pipe:")]


@pytest.mark.parametrize("where", [(0, 0), (PAGE, 1 << 63)])
async def test_a_hole_nowhere_leaves_no_fd_behind(served, client, ram, where):
    await pinned(served, client, ram)
    mine = os.fstat(ram)  # other tests' files have the same name, and windows of them may still go

    def here():
        found = 0
        for fd in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found += os.path.samestat(fd.stat(), mine)
        return found

    async def all_are_closed():
        while served.server.accounts.of(os.getpid(), os.getuid()).closing:
            await trio.lowlevel.checkpoint()

    await all_are_closed()  # those that came with the memory
    before = here()
    assert await hole(client, ram, *where) == -errno.EINVAL
    await all_are_closed()
    assert here() == before
