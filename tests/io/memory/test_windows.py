# SPDX-License-Identifier: MIT
"""Windows of shared memory: found, taken back, and alive for as long as somebody holds them."""

import ctypes
import fcntl
import os
import threading

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.io.base import unmapping
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.usage import Usage
from vfioemu.io.memory.space import ClientSpace
from vfioemu.syscalls.unmap import unmap

PAGE = 4096
PAGES = 16


def memfd(npages):
    fd = os.memfd_create("windows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, npages * PAGE)
    fcntl.fcntl(fd, 1033, 2)  # F_ADD_SEALS, F_SEAL_SHRINK
    return fd


@pytest.fixture
def space():
    return ClientSpace(None, None)


def share(space, first, npages, usage):
    fd = memfd(npages)
    try:
        os.pwrite(fd, bytes([first]) * 8, 0)
        space.share((16 + first) * PAGE, npages * PAGE, fd, 0, Limits(), usage)
    finally:
        os.close(fd)


def test_what_is_taken_back_is_not_found_and_what_is_held_stays(space):
    usage = Usage()
    share(space, 0, 2, usage)
    share(space, 4, 2, usage)
    held = space.hold(20 * PAGE, PAGE)
    local = space.window(20 * PAGE, PAGE)

    space.unshare(20 * PAGE + 1, 1)

    assert space.window(20 * PAGE, PAGE) is None
    assert space.window(16 * PAGE, 2 * PAGE) is not None
    assert ctypes.string_at(local, 8) == bytes([4]) * 8  # still mapped: a device may be writing to it
    assert (usage.windows, usage.size, space.shared) == (2, 4 * PAGE, 2 * PAGE)
    del held
    assert (usage.windows, usage.size) == (1, 2 * PAGE)


@given(
    windows=st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(1, 4)), max_size=8),
    start=st.integers(0, (32 + PAGES) * PAGE),
    size=st.integers(0, PAGES * PAGE),
)
def test_exactly_those_that_overlap_are_taken_back(windows, start, size):
    space = ClientSpace(None, None)
    usage = Usage()
    taken = {}
    for first, npages in windows:
        if all(first + npages <= other or other + count <= first for other, count in taken.items()):
            share(space, first, npages, usage)
            taken[first] = npages

    space.unshare(start, size)

    for first, npages in taken.items():
        low, high = (16 + first) * PAGE, (16 + first + npages) * PAGE
        gone = size > 0 and low < start + size and high > start
        assert (space.window(low, npages * PAGE) is None) == gone
    assert space.shared == usage.size


def test_the_place_can_be_shared_again(space):
    usage = Usage()
    share(space, 0, 4, usage)
    space.unshare(17 * PAGE, PAGE)
    share(space, 1, 2, usage)

    assert space.window(16 * PAGE, PAGE) is None
    assert ctypes.string_at(space.window(17 * PAGE, PAGE), 8) == bytes([1]) * 8


async def test_a_window_goes_where_nobody_waits_for_it_and_counts_until_then(space, monkeypatch):
    """It may be the last reference to GiBs of memory, which the kernel frees then and there."""
    may_go = threading.Event()
    where = []

    def slow(address, size):
        where.append((threading.get_ident(), size))
        may_go.wait()
        unmap(address, size)

    monkeypatch.setattr(unmapping, "unmap", slow)
    usage = Usage(Usage())
    share(space, 0, 2, usage)
    share(space, 4, 1, usage)

    space.unshare(0, 32 * PAGE)  # does not wait
    assert (usage.windows, usage.total.size) == (2, 3 * PAGE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(usage.settled)
        may_go.set()
    assert (usage.windows, usage.total.size) == (0, 0)
    assert [size for _, size in where] == [2 * PAGE, PAGE]
    assert all(thread != threading.get_ident() for thread, _ in where)


async def test_the_fd_of_a_window_goes_after_it_in_the_same_thread(space, monkeypatch):
    class Account(Usage):
        fds = 0

        def add_fds(self, number):
            self.fds += number

    closed = []

    def close(fd):
        closed.append(threading.get_ident())
        os.close(fd)

    usage = Account()
    fd = os.memfd_create("windows", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, PAGE)
        # It can be truncated, so it is guarded, which takes an fd.
        space.share(16 * PAGE, PAGE, fd, 0, Limits(), usage)
    finally:
        os.close(fd)
    assert usage.fds == 1
    monkeypatch.setattr(unmapping, "close", close)

    space.unshare(16 * PAGE, PAGE)
    await usage.settled()
    assert (usage.fds, usage.windows) == (0, 0)
    assert len(closed) == 1
    assert closed[0] != threading.get_ident()
