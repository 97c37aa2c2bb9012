# SPDX-License-Identifier: MIT
"""Anything at all on a connection: the daemon lives, nothing stays behind, and a well-formed client is served afterwards.

Packets are sent without waiting for anything, so that what comes while the daemon asks for something is taken for the
answer. Half of them are noise, half are good messages of a client with a device, with bytes changed, cut off or added,
and with fds that belong there or not.
"""

import contextlib
import os
import socket
import struct

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.system.hostile.helpers import HOSTILE_GROUP, PAGE, PATIENCE, Raw, guest, registers, settles
from vfioemu import client
from vfioemu.abi.dma_engine import Register
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s
from vfioemu.wire import messages as m

TYPES = [int(kind) for kind in m.Type]
FDS = ["container", "group", "device", "null", "eventfd", "pipe", "memfd", "sealed", "connection", "folder"]
EXTREMES = [0, 1, 8, 48, PAGE, 65536, 65537, (1 << 31) - 1, 1 << 32, 1 << 47, 1 << 63, m.U64 - 4095, m.U64]
words = st.one_of(st.sampled_from(EXTREMES), st.integers(0, m.U64))
fds = st.lists(st.sampled_from(FDS), max_size=3)
noise = st.tuples(st.binary(max_size=120), fds)


@st.composite
def messages(draw):
    """A header of known values, and some data."""
    token = draw(st.sampled_from(["container", "group", "device", 0, 1, m.U64]))
    args = draw(st.tuples(words, words, words, words))
    flags = draw(st.sampled_from([0, m.F_WRITABLE, m.F_FD, 0xFFFF, *[1 << bit for bit in range(8)]]))
    data = draw(st.one_of(st.binary(max_size=64), st.sampled_from([0, 32, 65536, 65537]).map(bytes)))
    header = draw(st.sampled_from(TYPES)), flags, draw(st.integers(0, 3)), token, *args
    attached = draw(fds) if draw(st.booleans()) else []
    return header, data, attached


def ioctl(kind, cmd, payload, flags=m.F_WRITABLE, attached=(), arg=0x10000):
    return (m.IOCTL, flags, 1, kind, cmd, arg, 0, 0), payload, list(attached)


_GET = s.IommuType1DirtyBitmapGet(iova=0, size=PAGE, bitmap=s.Bitmap(pgsize=PAGE, size=8, data=0x20000))
_IRQS = s.IrqSet(argsz=24, flags=36, index=1, start=0, count=1).build() + bytes(4)
GOOD = [
    ioctl("container", c.VFIO_CHECK_EXTENSION, b"", arg=3),
    ioctl("container", c.VFIO_IOMMU_MAP_DMA, s.IommuType1DmaMap(flags=3, vaddr=PAGE, size=PAGE).build()),
    ioctl("container", c.VFIO_IOMMU_MAP_DMA, b"", flags=0),
    ioctl("container", c.VFIO_IOMMU_UNMAP_DMA, s.IommuType1DmaUnmap(size=PAGE).build()),
    ioctl("container", c.VFIO_IOMMU_DIRTY_PAGES, s.IommuType1DirtyBitmap(flags=1).build()),
    ioctl(
        "container",
        c.VFIO_IOMMU_DIRTY_PAGES,
        s.IommuType1DirtyBitmap(argsz=48, flags=4).build() + _GET.build(),
    ),
    ioctl("group", c.VFIO_GROUP_SET_CONTAINER, bytes(4)),
    ioctl("group", c.VFIO_GROUP_GET_DEVICE_FD, b"00000000-0000-4000-8000-000000000013\0"),
    ioctl("device", c.VFIO_DEVICE_SET_IRQS, _IRQS),
    ioctl("device", c.VFIO_DEVICE_FEATURE, struct.pack("<IIIi", 16, 2 << 16 | 2, 6, -1)),
    ioctl("device", c.VFIO_DEVICE_GET_INFO, s.DeviceInfo().build(), m.F_FD, ["device"]),
    ((m.PWRITE, 0, 1, "device", 0, 32, Register.ARG0, 0), registers(1, 0, 0, 3), []),
    ((m.PREAD, m.F_WRITABLE, 1, "device", 0, 64, 0, 0), b"", []),
    ((m.PREAD, 0, 1, "device", 0, 64, 0, 0), b"", []),
    ((m.MMAP, 0, 1, "device", 0, PAGE, 3, 1), b"", []),
    ((m.OPEN, 0, 1, 0, 2, 0, 0, 0), b"/dev/vfio/vfio", []),
    ((m.MEM_SHARE, m.F_FD, 1, 0, 0x7000_0000_0000, PAGE, 0, 0), b"", ["sealed"]),
    ((m.MEM_UNSHARE, 0, 1, 0, 0x7000_0000_0000, PAGE, 0, 0), b"", []),
    ((m.MEM_LEAVES, 0, 1, 0, 0x7000_0000_0000, PAGE, 0, 0), b"", []),
    ((m.MEM_LEAVES, 0, 1, 0, 0, 1 << 62, 1, 0), b"", []),
    ((m.MEM_RETURNS, 0, 1, 0, 0x7000_0000_0000, PAGE, 0x7000_0000_0000, 0), b"", []),
    ((m.MEM_HOLE, m.F_FD, 1, 0, 0, PAGE, 0, 0), b"", ["sealed"]),
    ((m.MEM_HOLE, 0, 1, 0, 0, PAGE, 0x7000_0000_0000, 0), b"", []),
    ((m.MEM_REGION, 0, 1, 0, 0x7000_0000_0000, PAGE, 0, 1), b"", []),
    ((m.LIMITS, 0, 1, 0, 0, 1 << 20, 0, 0), b"", []),
    ((m.FORGET, 0, 1, "container", 0, 0, 0, 0), b"", []),
    ((m.ANSWER, 0, 1, 0, 0, 32, 0, 0), bytes(32), []),
    ((m.ANSWER, m.F_FD, 1, 0, 0, 0, 0, 0), b"", ["container"]),
    ((m.ANSWER, m.F_FD, 1, 0, 0, 0, 0, 0), b"", ["eventfd"]),
    ((m.ANSWER, 0, 1, 0, 77, 0, 0, 0), b"", []),
    ((m.DATA, 0, 1, 0, 0, 0, 0, 0), bytes(64), []),
]
changes = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4)


@st.composite
def mutants(draw):
    """A good message, or nearly."""
    header, data, attached = draw(st.sampled_from(GOOD))
    change = draw(changes) if draw(st.booleans()) else []
    cut = draw(st.integers(0, 120)) if draw(st.integers(0, 7)) == 0 else None
    if draw(st.integers(0, 7)) == 0:
        attached = draw(fds)
    return header, data, attached, change, cut


packets = st.one_of(noise, messages(), mutants(), mutants())


class Ground:
    """What symbols stand for: the serials of a guest's files, and fds of all kinds."""

    def __init__(self, stack, files, raw):
        self.serials = {str(file.kind): file.serial for file in files}
        self.fds = {str(file.kind): file.fileno() for file in files}
        self.fds["connection"] = raw.sock.fileno()
        self.fds["eventfd"] = os.eventfd(0, os.EFD_NONBLOCK)
        self.fds["null"] = os.open("/dev/null", os.O_RDWR)
        self.fds["folder"] = os.open("/", os.O_RDONLY)
        self.fds["pipe"], other = os.pipe()
        self.fds["memfd"] = os.memfd_create("x")
        stack.callback(os.close, other)
        for name in ("eventfd", "null", "folder", "pipe", "memfd"):
            stack.callback(os.close, self.fds[name])
        memory = stack.enter_context(client.Memory(PAGE))
        self.fds["sealed"] = memory.fd

    def render(self, packet):
        """The bytes and fds of a drawn packet."""
        if isinstance(packet[0], bytes):
            return packet[0], [self.fds[name] for name in packet[1]]
        (kind, flags, seq, token, *args), data, attached, *mutation = packet
        out = bytearray(m.HEADER.pack(kind, flags, seq, self.serials.get(token, token), *args) + data)
        for change, cut in [mutation] if mutation else []:
            for at, value in change:
                out[at : at + 1] = bytes([value])
            if cut is not None:
                del out[cut:]
        return bytes(out), [self.fds[name] for name in attached]


async def converse(path, drawn, *, greet):
    """Send everything, then read until the daemon hangs up."""
    async with client.connect(path) as session, guest(session, HOSTILE_GROUP) as files:
        joined = {"session": session._secret} if greet else {"greet": False}
        with contextlib.ExitStack() as stack:
            async with Raw(path, **joined) as raw:
                ground = Ground(stack, files, raw)
                for packet in drawn:
                    try:
                        raw.send_bytes(*ground.render(packet))
                    except (BlockingIOError, ConnectionError):
                        break
                with contextlib.suppress(OSError):
                    raw.sock.shutdown(socket.SHUT_WR)
                while await raw.receive() is not None:
                    for fd in raw.fds:
                        os.close(fd)


async def work(path):
    """What a well-formed client does."""
    async with client.connect(path) as session, guest(session, HOSTILE_GROUP) as (container, _, device):
        with client.Memory(PAGE) as memory:
            await session.share_memory(memory)
            await container.map_dma(memory.address, PAGE, PAGE)
            await container.dirty_start()
            await device.pwrite(registers(PAGE, PAGE), Register.BASE)
            await device.pwrite(registers(1, 0, 0, 3), Register.ARG0)
            assert bytes(memory.view[:8]) == b"VFE-DMA\0"
            assert await container.dirty_ranges(PAGE, PAGE) == [(PAGE, PAGE)]
            await container.unmap_dma(PAGE, PAGE)


async def survives(daemon, empty, drawn, *, greet):
    with trio.fail_after(PATIENCE):
        await converse(daemon.socket_path, drawn, greet=greet)
        await work(daemon.socket_path)
        await settles(daemon, empty)
    assert daemon.ask("stats")["internal_errors"] == 0, daemon.log()


@given(drawn=st.lists(packets, min_size=1, max_size=10))
def test_anything_on_a_connection(daemon, empty, drawn):
    trio.run(lambda: survives(daemon, empty, drawn, greet=True))


@given(drawn=st.lists(packets, min_size=1, max_size=3))
def test_anything_instead_of_a_greeting(daemon, empty, drawn):
    trio.run(lambda: survives(daemon, empty, drawn, greet=False))
