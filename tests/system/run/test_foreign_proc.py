# SPDX-License-Identifier: MIT
"""A program in a PID namespace that sees another one's /proc: the process of its number there is somebody else."""

import ctypes
import os
import subprocess
import sys

import pytest

from tests.system.run.helpers import PATIENCE, Runner

ADDRESS = 0x2_0000_0000
SIZE = 1 << 16
INNER = """
import ctypes, fcntl, os, struct, sys
want = int(sys.argv[1])
if want and os.getpid() != want:  # be the process of that number
    for _ in range(50):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(want - 1))
        pid = os.fork()
        if not pid:
            if os.getpid() != want:
                os._exit(1)
            break
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if pid == want:
            sys.exit(status)
    else:
        sys.exit(77)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
address, size = int(sys.argv[2]), int(sys.argv[3])
assert libc.mmap(address, size, 3, 0x100022, -1, 0) == address
ctypes.memset(address, 0x42, size)
container = os.open("/dev/vfio/vfio", os.O_RDWR)
group = os.open("/dev/vfio/" + os.environ["VFIOEMU_GROUP"], os.O_RDWR)
fcntl.ioctl(group, 0x3B68, struct.pack("i", container))
fcntl.ioctl(container, 0x3B66, 3)
device = fcntl.ioctl(group, 0x3B6A, bytearray(os.environ["VFIOEMU_UUID"].encode() + b"\\0"), True)
fcntl.ioctl(container, 0x3B71, struct.pack("IIQQQ", 32, 3, address, 0, size))
for register, value in ((0x18, 0), (0x20, size), (0x80, 4), (0x98, 3)):
    os.pwrite(device, struct.pack("<Q", value), register)
result = struct.unpack("<q", os.pread(device, 8, 0xA0))[0]
print(os.getpid(), result, ctypes.string_at(address, 8) != b"B" * 8, flush=True)
os._exit(0)
"""


@pytest.fixture
def victim():
    """Memory of this process, at the address at which the program has its own."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    assert libc.mmap(ADDRESS, SIZE, 3, 0x100022, -1, 0) == ADDRESS
    ctypes.memset(ADDRESS, 0x41, SIZE)
    yield lambda: ctypes.string_at(ADDRESS, SIZE) == b"A" * SIZE
    libc.munmap(ADDRESS, SIZE)


@pytest.mark.parametrize("unshare", ["-Urpf", "-Urpf --mount-proc"])
@pytest.mark.parametrize("same", [True, False], ids=["same-number", "any-number"])
@pytest.mark.parametrize("memory", ["auto", "ask"])
def test_dma_reaches_the_program_and_nobody_else(victim, unshare, same, memory):
    line = Runner("--device=dma-engine,bus=mdev", f"--memory={memory}").line(
        sys.executable, "-c", INNER, os.getpid() if same else 0, ADDRESS, SIZE
    )
    done = subprocess.run(
        ["unshare", *unshare.split(), *line],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if ("unshare" in done.stderr and "failed" in done.stderr) or done.returncode == 77:
        pytest.skip(f"no such namespace can be made here: {done.stderr.strip()}")
    assert victim()
    pid, result, written = done.stdout.split()
    assert (result, written) == ("4", "True"), done.stderr
    assert (int(pid) == os.getpid()) is same
    assert "asked instead" not in done.stderr  # it is found in the other /proc, too
