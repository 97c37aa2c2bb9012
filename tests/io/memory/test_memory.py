# SPDX-License-Identifier: MIT
"""Reaching memory: by address with the kernel's checks, bound to an address space, and through windows."""

import errno
import mmap
import os
import select
import subprocess
import sys

import pytest

from tests.daemon.helpers import protect
from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base import eventfd
from vfioemu.io.memory.mm import BoundMemory
from vfioemu.syscalls import procmem

PAGE = 4096


@pytest.fixture
def pages():
    """Eight private pages with an inaccessible one on each side."""
    with mmap.mmap(-1, 10 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        view = memoryview(memory)
        address, keep = procmem.address_of(view)
        for guard in (address, address + 9 * PAGE):
            protect(guard, PAGE, 0)
        usable = view[PAGE : 9 * PAGE]
        yield usable, address + PAGE
        usable.release()
        for guard in (address, address + 9 * PAGE):
            protect(guard, PAGE, 3)
        del keep
        view.release()


def own(query):
    bound = BoundMemory(os.getpid())
    bound._query = query
    return bound


@pytest.mark.parametrize("query", [True, False], ids=["query", "text"])
class TestBound:
    def test_reads_and_writes(self, pages, query):
        view, address = pages
        bound = own(query)
        bound.write(address + 10, b"hello")
        assert bytes(view[10:15]) == b"hello"
        assert bound.read(address + 10, 5) == b"hello"
        assert bound.read(address, 8 * PAGE) == bytes(view)

    @pytest.mark.parametrize("where", [-1, -PAGE, 8 * PAGE])
    def test_what_is_not_mapped_is_efault(self, pages, query, where):
        _, address = pages
        for access in (lambda b: b.read(address + where, 8), lambda b: b.write(address + where, bytes(8))):
            with pytest.raises(IoctlError) as refused:
                access(own(query))
            assert refused.value.errno == errno.EFAULT

    @pytest.mark.parametrize("address", [0, PAGE, 1 << 47, 1 << 62, (1 << 64) - 8])
    def test_impossible_addresses_are_efault(self, query, address):
        bound = own(query)
        with pytest.raises(IoctlError) as refused:
            bound.read(address, 8)
        assert refused.value.errno == errno.EFAULT
        assert bound.present(address, 1, write=False) == 0

    def test_protection_is_honoured_although_proc_mem_does_not(self, pages, query):
        view, address = pages
        protect(address + 2 * PAGE, PAGE, mmap.PROT_READ)
        bound = own(query)
        assert bound.read(address + 2 * PAGE, 4) == bytes(4)
        with pytest.raises(IoctlError) as refused:
            bound.write(address + 2 * PAGE - 4, b"x" * 8)
        assert refused.value.errno == errno.EFAULT
        assert bytes(view[2 * PAGE - 4 : 2 * PAGE + 4]) == b"xxxx\0\0\0\0"
        protect(address + 2 * PAGE, PAGE, 0)
        with pytest.raises(IoctlError):
            bound.read(address + 2 * PAGE, 1)
        protect(address + 2 * PAGE, PAGE, 3)

    def test_presence(self, pages, query):
        _, address = pages
        bound = own(query)
        assert bound.present(address, 8, write=True) == 8
        assert bound.present(address + 7, 9, write=True) == 8
        protect(address + 5 * PAGE, PAGE, mmap.PROT_READ)
        assert bound.present(address, 8, write=True) == 5
        assert bound.present(address, 8, write=False) == 8
        protect(address + 5 * PAGE, PAGE, 3)

    def test_pages_beyond_the_end_of_a_file_are_not_present(self, query):
        fd = os.memfd_create("short")
        os.ftruncate(fd, 4 * PAGE)
        with mmap.mmap(fd, 4 * PAGE) as memory:
            address, keep = procmem.address_of(memory)
            os.ftruncate(fd, 2 * PAGE)
            assert own(query).present(address, 4, write=True) == 2
            with pytest.raises(IoctlError):
                own(query).read(address, 4 * PAGE)
            del keep
        os.close(fd)

    @pytest.mark.parametrize("end", ["exec", "exit"])
    def test_after_exec_or_exit_there_is_nothing(self, query, end):
        """The same pid runs another program: no byte of it is read or written."""
        code = (
            "import mmap, os, sys, ctypes\n"
            "m = mmap.mmap(-1, 4096)\n"
            "print(ctypes.addressof(ctypes.c_char.from_buffer(m)), flush=True)\n"
            "os.read(0, 1)\n"
            "os.execl('/bin/cat', 'cat') if sys.argv[1] == 'exec' else os._exit(0)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, end], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            address = int(child.stdout.readline())
            bound = BoundMemory(child.pid)
            bound._query = query
            assert bound.read(address, 8) == bytes(8)
            assert bound.alive()
            os.write(child.stdin.fileno(), b"x")
            if end == "exec":
                os.write(child.stdin.fileno(), b"echo\n")
                assert child.stdout.readline() == b"echo\n"  # cat runs
            else:
                child.wait(10)
            for access in (lambda: bound.read(address, 8), lambda: bound.write(address, b"12345678")):
                with pytest.raises(IoctlError) as refused:
                    access()
                assert refused.value.errno in (errno.EPERM, errno.EFAULT)
            assert bound.present(address, 1, write=True) == 0
            assert not bound.alive()


# --- by address ---


def test_transfer_stops_at_the_first_bad_page(pages):
    view, address = pages
    protect(address + 3 * PAGE, PAGE, 0)
    view[:3] = b"abc"
    out = bytearray(5 * PAGE)
    assert procmem.read_into(os.getpid(), address, out) == 3 * PAGE
    assert procmem.write(os.getpid(), address + PAGE - 1, b"z" * 5 * PAGE) == 2 * PAGE + 1
    assert procmem.read_into(os.getpid(), address + 3 * PAGE, out) == 0
    protect(address + 3 * PAGE, PAGE, 3)


@pytest.mark.parametrize("address", [0, 1, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_bad_addresses_are_short_counts(address):
    assert procmem.read_into(os.getpid(), address, bytearray(4)) == 0
    assert procmem.write(os.getpid(), address, b"1234") == 0
    assert procmem.populate(address, 4, writable=True) == 0


def test_process_that_is_not_there():
    with pytest.raises(ProcessLookupError):
        procmem.read_into((1 << 22) + 1, PAGE, bytearray(4))


def test_read_only_buffers_can_be_written_from(pages):
    view, address = pages
    for data in (b"bytes", memoryview(b"bytes"), bytearray(b"bytes")):
        assert procmem.write(os.getpid(), address, data) == 5
        assert bytes(view[:5]) == b"bytes"
    assert procmem.write(os.getpid(), address, b"") == 0
    assert procmem.read_into(os.getpid(), address, bytearray()) == 0


def test_populate_finds_where_it_ends(pages):
    view, address = pages
    assert procmem.populate(address, 8, writable=True) == 8
    assert procmem.populate(address, 20, writable=True) == 8
    assert procmem.populate(address + 100, 3, writable=False) == 3
    for bad in range(8):
        protect(address + bad * PAGE, PAGE, mmap.PROT_READ)
        assert procmem.populate(address, 8, writable=True) == bad
        protect(address + bad * PAGE, PAGE, 3)
    assert bytes(view) == bytes(8 * PAGE)


# --- eventfds ---


@pytest.mark.parametrize("aio", [True, False])
def test_signal_never_blocks(monkeypatch, aio):
    if not aio:
        monkeypatch.setattr(eventfd, "_SYSCALLS", {})
        monkeypatch.setattr(eventfd, "_signal", eventfd._Signaller())
    fd = os.eventfd(0)  # blocking
    ours = eventfd.ClientEventFd(os.dup(fd))
    for _ in range(200):
        ours.signal()
    assert os.eventfd_read(fd) == 200
    os.eventfd_write(fd, (1 << 64) - 2)
    for _ in range(3):
        ours.signal()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(0)
    ours.close()
    ours.signal()
    ours.close()
    os.close(fd)
