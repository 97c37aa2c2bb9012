# SPDX-License-Identifier: MIT
"""A caller that becomes another program while its call lasts: the new program's memory is not the caller's."""

import subprocess
import sys

import pytest
import trio

from tests.io.fake import FakeFile, FakeMachine, serving
from vfioemu.core.base.effects import locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.wire import messages as m

ADDRESS = 0x7000_0000_0000
CALLER = """
import os, socket, sys
from vfioemu.wire import messages as m
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.send(m.encode(m.HELLO, 0, args=(m.MAGIC, m.VERSION | m.VERSION << 32, 0, m.INFINITE)))
sock.recv(65536)
sock.send(m.encode(m.OPEN, 1) + b"/f")
_, fds, _, _ = socket.recv_fds(sock, 65536, 1)
for fd in fds:
    os.set_inheritable(fd, True)
sock.send(m.encode(m.IOCTL, 2, 1, (int(sys.argv[2]), int(sys.argv[3]), 0, 0)))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[4], sys.argv[3]])
"""
PROGRAM = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_size_t
libc.mmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
assert libc.mmap(int(sys.argv[1]), 4096, 3, 0x32, -1, 0) == int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(ctypes.string_at(int(sys.argv[1]), 8).hex(), flush=True)
"""


async def line(process):
    got = b""
    while not got.endswith(b"\n"):
        got += await process.stdout.receive_some(1)
    return got


@pytest.mark.parametrize("number", [1, 2])
async def test_program_that_the_caller_has_become_is_not_touched(number):
    machine = FakeMachine()
    lock = Lock("test")
    file = FakeFile()
    ended = []

    def call(caller, arg):
        yield from locked(lock)
        try:
            yield from (read_user(arg, 8) if number == 1 else write_user(arg, b"touched!"))
            ended.append("well")
        except IoctlError as error:
            ended.append(error.name)
            raise
        finally:
            lock.release()
        return 0

    file.calls[number] = call
    machine.nodes["/f"] = file
    assert lock.acquire(lambda: None)
    async with serving(machine, m.MemoryMode.PROCESS_VM) as served:
        arguments = [sys.executable, "-c", CALLER, str(served.path), str(number), str(ADDRESS), PROGRAM]
        process = await trio.lowlevel.open_process(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            with trio.fail_after(20):
                assert await line(process) == b"ready\n"
                lock.release()
                while not ended:
                    await trio.lowlevel.checkpoint()
                await process.stdin.send_all(b"\n")
                assert await line(process) == b"0" * 16 + b"\n"
                await process.wait()
        finally:
            process.kill()
            await process.stdin.aclose()
            await process.stdout.aclose()
    assert ended == ["EFAULT"]
