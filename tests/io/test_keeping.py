# SPDX-License-Identifier: MIT
"""What is kept of memory that a client takes away from its devices: how much, for how long, and what comes back."""

import gc
import mmap
import os

import pytest

from vfioemu.core.effects import Breathe, Locked, PagesRead, PagesWrite
from vfioemu.core.errors import IoctlError
from vfioemu.core.locks import Lock
from vfioemu.io import keeping, reach
from vfioemu.io.limits import Limits
from vfioemu.io.memory import ClientSpace, Ledger
from vfioemu.io.pages import Pinned

PAGE = 4096
VADDR = 0x7000_0000_0000


class Holder:
    def __init__(self, lock=None):
        self.lock = lock or Lock("container")
        self.times = 0

    def moved(self):
        assert self.lock.held
        self.times += 1


class Client:
    """A client that is asked for its memory, and answers."""

    def __init__(self, pinned=None):
        self.space = ClientSpace(None, None, pinned)
        self.memory = bytearray(b"".join(bytes([n + 1]) * PAGE for n in range(8)))
        self.ledger = Ledger(Ledger())
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
            keeping.leaves(self.space, VADDR + first * PAGE, npages * PAGE, self.ledger, self.limits)
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
    assert client.ledger.kept == client.ledger.total.kept == 2 * PAGE


def test_what_nobody_has_pinned_is_not_kept(client):
    pages = client.pin(1, 2)

    assert client.leaves(3, 5) == 0
    pages.release()
    assert client.leaves(0, 8) == 0
    assert client.ledger.kept == 0


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

    assert client.memory[PAGE + 5 : PAGE + 11] == b"device"
    assert client.memory[:PAGE] == b"p" * PAGE
    client.write(pages, 0, b"as before")
    assert client.memory[:9] == b"as before"
    gc.collect()
    assert client.ledger.kept == 0


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
    other.limits, other.ledger = client.limits, Ledger(client.ledger.total)
    theirs = other.pin(0, 8)
    assert other.leaves(0, 2) == 2 * PAGE
    with pytest.raises(IoctlError, match="kept for all processes already"):
        other.leaves(4, 1)
    theirs.release()
    pages.release()
    client.space.left.clear()
    other.space.left.clear()
    gc.collect()
    assert client.ledger.total.kept == 0


def test_a_hole_is_kept_for_all_who_have_the_file_and_filled_if_it_was_not_made():
    pinned = Pinned()
    one, two = Client(pinned), Client(pinned)
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.truncate(fd, 8 * PAGE)
    os.pwrite(fd, bytes(one.memory), 0)
    try:
        status = os.fstat(fd)
        file = status.st_dev, status.st_ino
        one.space.share(VADDR, 8 * PAGE, fd, 0, one.limits, one.ledger)
        two.space.share(VADDR, 4 * PAGE, fd, 4 * PAGE, two.limits, two.ledger)
        first, second = one.pin(0, 8), two.pin(0, 4)
        assert first.host() is not None

        kept = one.run(keeping.hole(one.space, file, 5 * PAGE, 2 * PAGE, fd, one.ledger, one.limits))
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
