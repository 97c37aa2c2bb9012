# SPDX-License-Identifier: MIT
"""Clients that misbehave, one that does not, and what a daemon holds for them."""

import array
import contextlib
import os
import socket
import struct
import subprocess
from pathlib import Path

import trio

from bench.build import program
from vfioemu import client
from vfioemu.abi.dma_engine import Register
from vfioemu.syscalls import procmem
from vfioemu.testing.daemon import device_name, machine_of
from vfioemu.uapi import constants as c
from vfioemu.wire import messages as m
from vfioemu.wire import names

VICTIM_GROUP = 12
HOSTILE_GROUP = 13
BYSTANDER_GROUP = 14
STORM_GROUP = 15
ORACLE_GROUP = 16
IOMMU_GROUP = 2
MACHINE = machine_of([VICTIM_GROUP, HOSTILE_GROUP, BYSTANDER_GROUP, STORM_GROUP], "dma-engine", "") + "\n"
MACHINE += machine_of([ORACLE_GROUP], "oracle", 'variant = "migspc"')
MACHINE += f"""
[[group]]
number = {IOMMU_GROUP}
[group.iommu]
address-bits = 48
[[group.device]]
symbol = "d{IOMMU_GROUP}"
name = "{device_name(IOMMU_GROUP)}"
model = "dma-engine"
[group.device.options]
type = 2
"""
PATIENCE = 30
PAGE = 4096


def registers(*values):
    """Registers that follow each other, from the first one on, as bytes."""
    return struct.pack(f"<{len(values)}Q", *values)


@contextlib.asynccontextmanager
async def guest(session, number):
    """Container, group and device of a group number, ready to map; closed at the end."""
    with contextlib.ExitStack() as files:
        container = files.enter_context(await session.open_container())
        group = files.enter_context(await session.open_group(number))
        await group.set_container(container)
        await container.set_iommu(3)
        device = files.enter_context(await group.get_device(device_name(number)))
        yield container, group, device


async def set_register(device, register, value):
    await device.pwrite(value.to_bytes(8, "little"), register)


async def get_register(device, register):
    return int.from_bytes(await device.pread(8, register), "little")


class Bystander:
    """A client that minds its own business: a device writes where it is told to, and the client finds it there."""

    def __init__(self, path):
        self._path = path
        self._moved = trio.Event()
        self.rounds = 0

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        """Work until cancelled; what goes wrong is raised."""
        async with client.connect(self._path) as session:
            async with guest(session, BYSTANDER_GROUP) as (container, _, device):
                memory = client.Memory(PAGE)
                await session.share_memory(memory)
                await container.map_dma(memory.address, PAGE, PAGE)
                await device.pwrite(registers(PAGE, PAGE), Register.BASE)
                task_status.started()
                while True:
                    memory.view[:PAGE] = bytes(PAGE)
                    await device.pwrite(registers(1, 0, 0, 3), Register.ARG0)
                    assert await get_register(device, Register.RESULT) == 1
                    assert bytes(memory.view[:8]) == b"VFE-DMA\0"
                    self.rounds += 1
                    self._moved.set()
                    self._moved = trio.Event()

    async def goes_on(self, rounds=3):
        """Wait for whole rounds that began after this was called."""
        goal = self.rounds + 1 + rounds
        with trio.fail_after(PATIENCE):
            while self.rounds < goal:
                await self._moved.wait()


async def settles(daemon, expected):
    """Wait until the daemon holds what it is expected to: it learns of a death as soon as it looks."""
    deadline = trio.current_time() + PATIENCE
    while (held := daemon.held()) != expected:
        assert trio.current_time() < deadline, held
        await trio.lowlevel.checkpoint()


def said(daemon, text):
    """Whether the log has a line about this process with that text."""
    whose = f"pid={os.getpid()} uid={os.getuid()}"
    return any(whose in line and text in line for line in daemon.log().splitlines())


async def kill_and_wait(process):
    process.kill()
    await process.wait()


async def start_victim(daemon, die_at, **options):
    """Run victim.c."""
    command = [program("victim", Path(__file__).parent), daemon.socket_path, str(VICTIM_GROUP)]
    return await trio.lowlevel.open_process(
        [*command, device_name(VICTIM_GROUP), str(die_at)], stderr=subprocess.PIPE, **options
    )


class Raw:
    """A connection on which anything can be sent.

    Attributes:
        sock: it, not blocking.
        session: the number of its session.
    """

    def __init__(self, path, *, greet=True, session=0, flags=0):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(os.fspath(path))
        self.sock.setblocking(False)
        self.seq = 0
        self.session = 0
        self.files = []
        self._hello = (session, flags) if greet else None

    async def __aenter__(self):
        if self._hello is not None:
            session, flags = self._hello
            reply = await self.call(
                m.HELLO, 0, m.MAGIC, m.VERSION | m.VERSION << 32, session, m.INFINITE, flags=flags
            )
            assert reply.arg0 == 0
            self.session = reply.arg2
        return self

    async def __aexit__(self, *_):
        self.close()

    def close(self):
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()
        while self.files:
            os.close(self.files.pop())

    def send_bytes(self, packet, fds=()):
        """Send a packet as it is."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)

    def send(self, type, token=0, *args, flags=0, data=b"", fds=(), seq=None):
        """Send a message."""
        if seq is None:
            seq = self.seq = self.seq + 1
        words = [value & m.U64 for value in (*args, 0, 0, 0, 0)[:4]]
        self.send_bytes(m.HEADER.pack(type, flags, seq, token, *words) + bytes(data), fds)

    async def receive(self):
        """The next message with its data and fds; None at the end of the connection."""
        with trio.fail_after(PATIENCE):
            while True:
                await trio.lowlevel.wait_readable(self.sock)
                try:
                    packet, ancillary, _, _ = self.sock.recvmsg(m.MAX_MESSAGE, 1024, socket.MSG_CMSG_CLOEXEC)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    return None
                break
        self.fds = [fd for _, _, rights in ancillary for fd in array.array("i", rights)]
        if not packet:
            return None
        self.data = packet[m.HEADER_SIZE :]
        return m.decode(packet)

    async def is_ended(self):
        """Wait until the daemon hangs up; whatever comes before is ignored."""
        while await self.receive() is not None:
            pass
        return True

    async def call(self, type, token=0, *args, **options):
        """Send a call; its reply, if the daemon asks for nothing."""
        self.send(type, token, *args, **options)
        message = await self.receive()
        assert message is not None
        assert message.type == m.REPLY
        return message

    async def open(self, path):
        """OPEN: the fd, which is a token; closed with the connection."""
        reply = await self.call(m.OPEN, 0, os.O_RDWR, data=path.encode())
        assert reply.arg0 == 0
        (fd,) = self.fds
        self.files.append(fd)
        return fd

    async def set_up(self, number):
        """Container and group of a group number, ready to map: their fds."""
        container = await self.open("/dev/vfio/vfio")
        group = await self.open(f"/dev/vfio/{number}")
        self.send(m.IOCTL, serial_of(group), c.VFIO_GROUP_SET_CONTAINER, PAGE, data=bytes(4))
        ask = await self.receive()
        assert ask.type == m.TAKE_FD
        self.send(m.ANSWER, flags=m.F_FD, fds=[container], seq=ask.seq)
        assert (await self.receive()).arg0 == 0
        assert (await self.call(m.IOCTL, serial_of(container), c.VFIO_SET_IOMMU, 3)).arg0 == 0
        return container, group


def serial_of(fd):
    """The serial of a token."""
    return names.of_fd(fd).serial


def address_of(data):
    """Where a buffer is."""
    return procmem.address_of(data)[0]
