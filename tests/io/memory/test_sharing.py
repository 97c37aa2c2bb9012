# SPDX-License-Identifier: MIT
"""Files that are mapped here although somebody can truncate them: an access beyond the end is an EFAULT, and no more."""

import contextlib
import ctypes
import errno
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.core.base.errors import IoctlError
from vfioemu.io.base.limits import Limits
from vfioemu.io.base.usage import Usage
from vfioemu.io.memory import space as memory
from vfioemu.io.memory.pages import Pinned
from vfioemu.io.memory.sharing import needs_guard
from vfioemu.io.memory.space import ClientSpace

PAGE = 4096
PAGES = 8
VADDR = 0x7000_0000_0000
HUGETLB = os.MFD_HUGETLB
MEMFD_SECRET = 447


@contextlib.contextmanager
def memfd(npages=PAGES, flags=0):
    fd = os.memfd_create("sharing", os.MFD_CLOEXEC | flags)
    try:
        os.ftruncate(fd, npages * PAGE)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def disk_file(npages=PAGES):
    with tempfile.TemporaryFile() as file:
        file.truncate(npages * PAGE)
        yield file.fileno()


def shared(fd, *, trusted=True):
    """An address space with the whole file in it."""
    bound: Any = (
        object() if trusted else None
    )  # a private daemon's: not reached, all accesses are within the window
    space = ClientSpace(None, bound)
    space.share(VADDR, os.fstat(fd).st_size, fd, 0, Limits(), Usage())
    return space


def refusal(call, *args, **more):
    with pytest.raises(IoctlError) as refused:
        call(*args, **more)
    return refused.value.errno


@pytest.mark.parametrize("kind", [memfd, disk_file])
def test_what_is_written_is_in_the_file(kind):
    with kind() as fd:
        space = shared(fd)
        space.write_now(VADDR + 100, b"hello")
        assert os.pread(fd, 5, 100) == b"hello"
        os.pwrite(fd, b"world", 2 * PAGE)
        assert space.read_now(VADDR + 2 * PAGE, 5) == b"world"


@pytest.mark.parametrize("kind", [memfd, disk_file])
@given(
    keep=st.integers(0, PAGES * PAGE),
    start=st.integers(0, PAGES * PAGE - 1),
    size=st.integers(1, PAGES * PAGE),
)
def test_a_truncated_file_is_accessed_as_far_as_it_goes(kind, keep, start, size):
    size = min(size, PAGES * PAGE - start)
    last = (keep + PAGE - 1) // PAGE * PAGE  # there is the rest of its last page, too
    with kind() as fd:
        space = shared(fd)
        os.ftruncate(fd, keep)
        assert space.pin_now(VADDR + start // PAGE * PAGE, 1, write=True) == int(start // PAGE * PAGE < last)
        if start + size <= last:
            assert space.read_now(VADDR + start, size) == bytes(size)
            space.write_now(VADDR + start, b"\1" * size)
        else:
            assert refusal(space.read_now, VADDR + start, size) == errno.EFAULT
            assert refusal(space.write_now, VADDR + start, b"\1" * size) == errno.EFAULT
        written = max(min(keep, start + size) - start, 0)
        assert os.pread(fd, PAGES * PAGE, start)[:written] == b"\1" * written
        os.ftruncate(fd, PAGES * PAGE)
        space.write_now(VADDR + start, b"\2" * size)
        assert space.read_now(VADDR + start, size) == b"\2" * size


def test_pages_are_counted_as_the_file_is_now():
    with memfd() as fd:
        space = shared(fd)
        assert space.pin_now(VADDR, PAGES, write=True) == PAGES
        os.ftruncate(fd, 3 * PAGE - 1)
        assert space.pin_now(VADDR, PAGES, write=True) == 3
        assert space.pin_now(VADDR + 2 * PAGE, 2, write=False) == 1
        assert space.pin_now(VADDR + 4 * PAGE, 2, write=False) == 0


@pytest.mark.parametrize("on_disk", [True, False])
def test_it_is_said_once_that_linux_would_not_let_a_device_write_to_a_file_on_a_disk(monkeypatch, on_disk):
    said = []
    if on_disk:
        monkeypatch.setattr(memory, "is_shmem", lambda fd: False)
    with memfd() as fd:
        space = ClientSpace(None, None, Pinned(lambda space, about, text: said.append((about, text))))
        space.share(VADDR, PAGES * PAGE, fd, 0, Limits(), Usage())

        assert space.pin_now(VADDR, 1, write=False) == 1
        assert said == []
        assert space.pin_now(VADDR + PAGE, 2, write=True) == 2
        assert [about for about, _ in said] == ["file"] * on_disk
        assert all(
            "EFAULT from Linux" in text and "0x2000 bytes at 0x700000001000" in text for _, text in said
        )


def test_secret_memory_is_nobodys_else():
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(MEMFD_SECRET, 0)
    if fd < 0:
        pytest.skip(f"no memfd_secret(): {os.strerror(ctypes.get_errno())}")
    try:
        os.ftruncate(fd, PAGE)
        assert refusal(needs_guard, fd, trusted=True) == errno.EPERM
        assert refusal(needs_guard, fd, trusted=False) == errno.EPERM
    finally:
        os.close(fd)


def test_a_pool_without_huge_pages_is_an_efault():
    if int(Path("/proc/sys/vm/nr_hugepages").read_text(encoding="ascii")):
        pytest.skip("there are huge pages")
    if Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages").read_text().strip() != "0":
        pytest.skip("there may be huge pages")
    with memfd(512, HUGETLB) as fd:
        try:
            space = shared(fd)
        except IoctlError as error:
            if error.errno != errno.ENOMEM:  # refused at mmap() already: none can be reserved
                raise
            return
        assert refusal(space.read_now, VADDR, 8) == errno.EFAULT


def test_what_is_no_file_for_that_is_refused(tmp_path):
    read_end, write_end = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "file").write_bytes(bytes(PAGE))
    reader = os.open(tmp_path / "file", os.O_RDONLY)
    for fd in (read_end, write_end, folder, reader):
        assert refusal(needs_guard, fd, trusted=True) == errno.EPERM
        os.close(fd)


def test_only_a_private_daemon_maps_files_that_may_make_it_wait():
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR)  # procfs stands for all that are not listed
    try:
        assert needs_guard(fd, trusted=True)
        assert refusal(needs_guard, fd, trusted=False) == errno.EPERM
    finally:
        os.close(fd)
    with memfd() as fd:
        assert needs_guard(fd, trusted=False)


def test_faults_of_others_are_reported_as_ever():
    """faulthandler is there before us, as in every test run; a SIGBUS that nothing guards is still its business."""
    code = (
        "import ctypes, faulthandler, mmap, os\n"
        "faulthandler.enable()\n"
        "from vfioemu.native import guard\n"
        "guard.install()\n"
        "fd = os.memfd_create('x')\n"
        "os.ftruncate(fd, 4096)\n"
        "memory = mmap.mmap(fd, 4096)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "os.ftruncate(fd, 0)\n"
        "assert guard.read(address, 8) is None\n"
        "ctypes.string_at(address, 8)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr
    assert faulthandler.is_enabled()
