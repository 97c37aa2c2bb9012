# SPDX-License-Identifier: MIT
"""What is kept of memory that a client takes away from its devices: how much, for how long, and what comes back."""

import errno
import gc
import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.effects import Breathe, Locked, PagesRead, PagesWrite
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.core.base.quota import UNBOUNDED, Quota, Quotas
from vfioemu.core.base.slices import SLICE
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.usage import Usage
from vfioemu.io.memory import keeping, reach
from vfioemu.io.memory.pages import Piece, Pinned
from vfioemu.io.memory.space import ClientSpace

PAGE = 4096
VADDR = 0x7000_0000_0000


class Holder:
    def __init__(self, lock=None):
        self.lock = lock or Lock("container")
        self.dirty = []

    def moved(self):
        assert self.lock.held

    def written(self, offset, size):
        assert self.lock.held
        self.dirty.append((offset, size))


class Client:
    """A client that is asked for its memory, and answers."""

    def __init__(self, pinned=None):
        self.space = ClientSpace(None, None, pinned)
        self.memory = bytearray(b"".join(bytes([n + 1]) * PAGE for n in range(8)))
        self.usage = Usage(Usage())
        self.limits = Limits()

    def pin(self, first, npages, holder=None):
        return self.space.pages(VADDR + first * PAGE, npages * PAGE, holder or Holder())

    def read(self, pages, offset, size):
        found = b""
        for piece in reach.pieces(pages, offset, size):
            if piece.window is not None:
                found += piece.window.read(piece.at, piece.end - piece.start)
            else:
                at = piece.vaddr - VADDR
                found += self.memory[at : at + piece.end - piece.start]
        return found

    def write(self, pages, offset, data):
        for piece in reach.pieces(pages, offset, len(data)):
            part, data = data[: piece.end - piece.start], data[piece.end - piece.start :]
            if piece.window is not None:
                piece.window.write(piece.at, part)
            else:
                at = piece.vaddr - VADDR
                self.memory[at : at + len(part)] = part

    def run(self, steps):
        """Drive a handler; returns its result."""
        result = None
        try:
            while True:
                effect = steps.send(result)
                result = None
                if isinstance(effect, Locked):
                    assert effect.lock.acquire(lambda: None)
                elif isinstance(effect, PagesRead):
                    result = self.read(effect.pages, effect.offset, effect.size)
                elif isinstance(effect, PagesWrite):
                    self.write(effect.pages, effect.offset, bytes(effect.data))
                else:
                    assert isinstance(effect, Breathe)
        except StopIteration as stop:
            return stop.value

    def leaves(self, first, npages):
        return self.run(
            keeping.leaves(self.space, VADDR + first * PAGE, npages * PAGE, self.usage, self.limits)
        )

    def returns(self, first, npages, to):
        where = VADDR + first * PAGE, npages * PAGE, VADDR + to * PAGE
        return self.run(keeping.returns(self.space, *where))


@pytest.fixture
def client():
    return Client()


def test_what_leaves_is_kept_as_it_was_and_nothing_else(client):
    pages = client.pin(1, 4)

    assert client.leaves(2, 2) == 2 * PAGE
    client.memory[:] = bytes(len(client.memory))

    assert client.read(pages, 0, 4 * PAGE) == bytes(PAGE) + b"\3" * PAGE + b"\4" * PAGE + bytes(PAGE)
    assert not pages.holder.lock.held
    assert client.usage.kept == client.usage.total.kept == 2 * PAGE


def test_what_nobody_has_pinned_is_not_kept(client):
    pages = client.pin(1, 2)

    assert client.leaves(3, 5) == 0
    pages.release()
    assert client.leaves(0, 8) == 0
    assert client.usage.kept == 0


def test_two_pins_of_a_page_stay_one_page(client):
    first, second = client.pin(0, 4), client.pin(2, 4, Holder(Lock("another container")))

    assert client.leaves(0, 8) == 6 * PAGE
    client.write(first, 2 * PAGE, b"by the first")

    assert client.read(second, 0, 12) == b"by the first"


def test_what_has_not_gone_is_given_back_with_what_was_written_in_between(client):
    pages = client.pin(0, 4)
    client.leaves(0, 4)
    client.write(pages, PAGE + 5, b"device")
    client.memory[:PAGE] = b"p" * PAGE  # by the program, meanwhile: it is not overwritten

    assert client.returns(0, 4, 0) == len(b"device")

    assert pages.holder.dirty == [(PAGE + 5, len(b"device"))]
    assert client.memory[PAGE + 5 : PAGE + 11] == b"device"
    assert client.memory[:PAGE] == b"p" * PAGE
    client.write(pages, 0, b"as before")
    assert client.memory[:9] == b"as before"
    gc.collect()
    assert client.usage.kept == 0


def test_what_has_moved_is_where_it_moved_to(client):
    pages = client.pin(0, 1)
    client.leaves(0, 1)
    client.memory[5 * PAGE : 6 * PAGE] = client.memory[:PAGE]
    client.write(pages, 0, b"late")

    client.returns(0, 1, 5)

    assert client.memory[5 * PAGE : 5 * PAGE + 4] == b"late"
    client.write(pages, 8, b"on")
    assert client.memory[5 * PAGE + 8 : 5 * PAGE + 10] == b"on"


def test_no_more_is_kept_than_a_process_and_all_may_have(client):
    client.limits = Limits(max_kept=3 * PAGE, max_all_kept=5 * PAGE)
    pages = client.pin(0, 8)

    assert client.leaves(0, 3) == 3 * PAGE
    with pytest.raises(IoctlError, match="kept for the process already"):
        client.leaves(4, 1)
    assert not pages.holder.lock.held
    assert client.read(pages, 4 * PAGE, 1) == b"\5"

    other = Client()
    other.limits, other.usage = client.limits, Usage(client.usage.total)
    theirs = other.pin(0, 8)
    assert other.leaves(0, 2) == 2 * PAGE
    with pytest.raises(IoctlError, match="kept for all processes already"):
        other.leaves(4, 1)
    theirs.release()
    pages.release()
    client.space.left.clear()
    other.space.left.clear()
    gc.collect()
    assert client.usage.total.kept == 0


def test_a_hole_is_kept_for_all_who_have_the_file_and_filled_if_it_was_not_made():
    pinned = Pinned()
    one, two = Client(pinned), Client(pinned)
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.truncate(fd, 8 * PAGE)
    os.pwrite(fd, bytes(one.memory), 0)
    try:
        status = os.fstat(fd)
        file = status.st_dev, status.st_ino
        one.space.share(VADDR, 8 * PAGE, fd, 0, one.limits, one.usage)
        two.space.share(VADDR, 4 * PAGE, fd, 4 * PAGE, two.limits, two.usage)
        first, second = one.pin(0, 8), two.pin(0, 4)
        assert first.host() is not None

        kept = one.run(keeping.hole(one.space, file, 5 * PAGE, 2 * PAGE, one.usage, one.limits))
        with mmap.mmap(fd, 8 * PAGE) as view:
            assert kept == 2 * PAGE
            assert first.host() is None  # not for C any more, as a whole
            one.write(first, 5 * PAGE, b"device")
            assert two.read(second, PAGE, 6) == b"device"
            assert view[5 * PAGE : 5 * PAGE + 6] == b"\6" * 6

            assert one.run(keeping.filled(one.space, file, 5 * PAGE, 2 * PAGE)) == len(b"device")
            assert view[5 * PAGE : 5 * PAGE + 6] == b"device"
            two.write(second, PAGE, b"again!")
            assert view[5 * PAGE : 5 * PAGE + 6] == b"again!"
    finally:
        os.close(fd)


def test_two_threads_that_say_that_the_same_has_come_back_get_it_once(client):
    """The second one's call is answered while the first one's waits for a container."""
    pages = client.pin(0, 1)
    client.pin(0, 1, Holder(Lock("another container")))
    client.leaves(0, 1)
    client.write(pages, 0, b"device")
    first = keeping.returns(client.space, VADDR, PAGE, VADDR)
    waits = next(first)
    assert isinstance(waits, Locked)

    assert client.returns(0, 1, 0) == 0
    assert waits.lock.acquire(lambda: None)
    assert client.run(first) == len(b"device")

    assert client.memory[:6] == b"device"


def test_pieces_count_as_mappings_for_as_long_as_there_are_any(client):
    """A page that goes cuts every mapping of it in three: without an end, of as many mappings as there are."""
    quota = Quota("mappings", 10)
    client.space.quotas = Quotas(mappings=quota, pins=UNBOUNDED, bitmaps=UNBOUNDED)
    several = [client.pin(0, 8) for _ in range(3)]

    client.leaves(1, 1)
    assert quota.used == 6
    with pytest.raises(IoctlError) as refused:
        client.leaves(3, 1)
    assert refused.value.errno == errno.ENOMEM
    assert not any(pages.holder.lock.held for pages in several)
    for pages in several:
        pages.release()
    assert quota.used == 0


def test_a_mapping_of_many_windows_counts_as_many(client):
    quota = Quota("mappings", 3)
    client.space.quotas = Quotas(mappings=quota, pins=UNBOUNDED, bitmaps=UNBOUNDED)
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.truncate(fd, PAGE)
    try:
        for page in (1, 3):
            client.space.share(VADDR + page * PAGE, PAGE, fd, 0, client.limits, client.usage)
    finally:
        os.close(fd)

    client.pin(0, 4).release()  # three pieces more than one
    with pytest.raises(IoctlError) as refused:
        client.pin(0, 5)
    assert refused.value.errno == errno.ENOMEM
    assert quota.used == 0


PLACES = st.lists(st.integers(0, 63), min_size=0, max_size=16, unique=True).filter(lambda n: len(n) % 2 == 0)


@given(rounds=st.lists(PLACES, max_size=6))
def test_pieces_that_are_replaced_are_where_they_were_put_and_the_others_as_before(rounds):
    space = ClientSpace(None, None)
    pages = space.pages(0, 64, Holder())
    expected = list(range(64))
    for number, bounds in enumerate(rounds, 1):
        bounds.sort()
        spans = list(zip(bounds[::2], bounds[1::2], strict=True))
        pages.replace(*(Piece(a, b, space, number * 1000 + a, None, 0) for a, b in spans))
        for a, b in spans:
            expected[a:b] = range(number * 1000 + a, number * 1000 + b)

    found = [at - p.start + p.vaddr for p in pages.pieces for at in range(p.start, p.end)]
    assert found == expected
    assert next(pages.parts(7, 50)).vaddr == expected[7]
    assert space.quotas.mappings.used == len(pages.pieces) - 1


def test_many_pieces_are_replaced_in_slices(client):
    """The last of the work, when all has been copied: a thousand windows, a mapping upon the other."""
    client.memory = bytearray(600 * PAGE)
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.truncate(fd, PAGE)
    try:
        for page in range(1, 600, 2):
            client.space.share(VADDR + page * PAGE, PAGE, fd, 0, client.limits, client.usage)
    finally:
        os.close(fd)
    several = [client.pin(0, 600) for _ in range(10)]
    breaths = []

    def watched(steps):
        try:
            result = None
            while True:
                effect = steps.send(result)
                breaths.append(isinstance(effect, Breathe))
                result = yield effect
        except StopIteration as stop:
            return stop.value

    steps = keeping.leaves(client.space, VADDR, 600 * PAGE, client.usage, client.limits)
    client.run(watched(steps))

    replaced = sum(len(pages.pieces) for pages in several)
    assert replaced == 10 * 600
    last_read = len(breaths) - 1 - breaths[::-1].index(False)
    assert sum(breaths[last_read:]) >= replaced // SLICE
