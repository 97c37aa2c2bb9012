# SPDX-License-Identifier: MIT
"""Anything at all as an argument, through the daemon: the answer, and every byte of memory, are those of the core alone.

The same calls are made by an in-memory process (vfioemu.testing) and by this process through the daemon, with the same
memory at the same addresses: two writable pages, a read-only one, and one that is not accessible. What the kernel
answers is held elsewhere, by the golden traces; here it is about what lies between: copies that fault half way, fds
that are none, 2^64-1 everywhere, however the client offers its bytes.
"""

import contextlib
import os
import re
import struct

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.system.hostile.helpers import MACHINE, ORACLE_GROUP, PAGE, PATIENCE
from vfioemu import client
from vfioemu.conformance import realmemory
from vfioemu.core.machine import Machine
from vfioemu.daemon.config import parse_machine
from vfioemu.devices.registry import load_models
from vfioemu.syscalls import procmem
from vfioemu.testing.daemon import device_name
from vfioemu.testing.memory import GUARD
from vfioemu.testing.process import Process, Result, errno_name
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s
from vfioemu.uapi.registry import IOCTLS
from vfioemu.wire import messages as m

PAGES = 4
PROTECTIONS = ("rw", "rw", "r", "none")
ARENA = realmemory.allocate(PAGES * PAGE, "rw", 0, PAGE)
READABLE = 3 * PAGE
WRITABLE = 2 * PAGE
IOVA = 0x10000
U64 = m.U64
FILES = ("container", "group", "device")
SPEC = parse_machine(MACHINE)

SIZES = [0, 1, 4, 7, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 4095, PAGE, 2 * PAGE]
EXTREMES = [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 47, (1 << 63) - 1, 1 << 63, U64 - 4095, U64]
PLACES = [IOVA, IOVA + PAGE, IOVA - PAGE, ARENA, ARENA + 64, ARENA + WRITABLE - 8, ARENA + READABLE - 8]
words = st.one_of(st.sampled_from([*SIZES, *EXTREMES, *PLACES]), st.integers(0, 63).map(lambda bit: 1 << bit))
fds = st.sampled_from([*FILES, "closed", "null"])
addresses = st.one_of(
    st.integers(0, 63).map(lambda at: ARENA + 8 * at),
    st.integers(0, 72).map(lambda left: ARENA + READABLE - left),
    st.integers(0, 72).map(lambda left: ARENA + WRITABLE - left),
    st.sampled_from([0, 1, PAGE - 1, ARENA + READABLE, (1 << 47) - PAGE, 1 << 47, *EXTREMES]),
)
offers = st.sampled_from(["nothing", "readable", "writable"])


@st.composite
def payloads(draw, row):
    """Words where the struct has its fields, and more behind it; words of 4 bytes may be fds."""
    leaves = re.findall(r"\d*[A-Za-z]", row.payload.CODEC.format[1:]) if row.payload else ["i"]
    fields = []
    for place, leaf in enumerate(leaves):
        if place == 0 and row.payload is not None and draw(st.booleans()):
            fields.append((leaf, draw(st.sampled_from([row.payload.SIZE, row.payload.SIZE + 24, row.minsz]))))
        elif leaf == "i" or (leaf == "I" and draw(st.integers(0, 9)) == 0):
            fields.append((leaf, draw(fds)))
        elif place == 1 and row.flags is not None and draw(st.booleans()):
            fields.append((leaf, draw(st.integers(0, 15))))
        else:
            fields.append((leaf, draw(words)))
    return [*fields, *[("Q", draw(words)) for _ in range(draw(st.integers(0, 4)))]]


@st.composite
def ioctls(draw):
    """An ioctl that some file has, on any of them."""
    row = draw(st.sampled_from(IOCTLS))
    target = (
        row.kind.value
        if row.kind.value in FILES and draw(st.integers(0, 9))
        else draw(st.sampled_from(FILES))
    )
    payload = draw(payloads(row)) if row.argument == "pointer" else []
    arg = draw(words) if row.argument == "value" and draw(st.booleans()) else draw(addresses)
    return "ioctl", target, row.number, arg, payload, draw(offers)


@st.composite
def transfers(draw):
    """A read or write of a device, or of what has none."""
    call = draw(st.sampled_from(["read", "write", "pread", "pwrite"]))
    size = draw(st.sampled_from([*SIZES, *EXTREMES]))
    offset = draw(st.sampled_from([0, 1, 8, 60, 4096, 7 << 40, (7 << 40) + 4, 9 << 40, *EXTREMES]))
    return call, draw(st.sampled_from(FILES)), draw(addresses), size, offset, draw(offers)


def build(fields, numbers):
    """The bytes of a payload, with the fds as they are numbered on one of the two sides."""
    parts = []
    for leaf, value in fields:
        number = numbers[value] if isinstance(value, str) else value
        if leaf[:-1]:
            parts.append(number.to_bytes(8, "little").ljust(int(leaf[:-1]), b"\0")[: int(leaf[:-1])])
        else:
            width = struct.calcsize(leaf)
            parts.append((number & ((1 << 8 * width) - 1)).to_bytes(width, "little"))
    return b"".join(parts)


class InMemory:
    """The core, and nothing else."""

    def __init__(self):
        self.process = Process(Machine(SPEC, load_models()))
        self.process.memory._next = ARENA - GUARD
        assert self.process.memory.allocate(PAGES * PAGE) == ARENA
        self.numbers = {}

    async def begin(self):
        process = self.process
        self.numbers["container"] = process.open("/dev/vfio/vfio").ret
        self.numbers["group"] = process.open(f"/dev/vfio/{ORACLE_GROUP}").ret
        self.numbers["null"] = process.null()
        self.numbers["closed"] = 999

    def poke(self, address, data):
        self.process.memory.poke(address, data)

    def peek(self):
        return self.process.memory.peek(ARENA, READABLE)

    def protect(self):
        for page, protection in enumerate(PROTECTIONS):
            self.process.memory.protect(ARENA + page * PAGE, PAGE, protection)

    async def ioctl(self, target, cmd, arg, offer="nothing"):
        return self.process.ioctl(self.numbers[target], cmd, arg)

    async def transfer(self, call, target, address, size, offset, offer):
        at = (offset,) if call.startswith("p") else ()
        return getattr(self.process, call)(self.numbers[target], address, size, *at)

    def close(self, number):
        self.process.close(number)

    def end(self):
        self.process.exit()


class ThroughDaemon:
    """The same behind a socket."""

    def __init__(self, session):
        self.session = session
        self.numbers = {}
        self.serials = {}

    async def begin(self):
        for name, path in (("container", "/dev/vfio/vfio"), ("group", f"/dev/vfio/{ORACLE_GROUP}")):
            self.adopt(name, await self.session.open(path))
        self.numbers["null"] = os.open("/dev/null", os.O_RDWR)
        self.numbers["closed"] = 999

    def adopt(self, name, fd):
        self.numbers[name] = fd
        self.serials[name] = client.File(self.session, os.dup(fd))

    def poke(self, address, data):
        realmemory.protect(ARENA, PAGES * PAGE, "rw")
        realmemory.poke(address, data)

    def peek(self):
        return realmemory.peek(ARENA, READABLE)

    def protect(self):
        for page, protection in enumerate(PROTECTIONS):
            realmemory.protect(ARENA + page * PAGE, PAGE, protection)

    async def ioctl(self, target, cmd, arg, offer="nothing"):
        flags, data = 0, None
        if ARENA <= arg < ARENA + READABLE:
            end = ARENA + (WRITABLE if offer == "writable" else READABLE)
            if offer != "nothing" and arg < end:
                data = bytearray(min(end - arg, 512))
                assert procmem.read_into(os.getpid(), arg, data) == len(data)
                flags = m.F_WRITABLE if offer == "writable" else 0
        return await self._call(target, m.IOCTL, cmd, arg, address=arg, flags=flags, data=data)

    async def transfer(self, call, target, address, size, offset, offer):
        types = {"read": m.READ, "write": m.WRITE, "pread": m.PREAD, "pwrite": m.PWRITE}
        flags, data = 0, None
        inside = ARENA <= address and address + size <= ARENA + WRITABLE
        if inside and offer == "writable" and "read" in call:
            flags = m.F_WRITABLE
        elif inside and offer != "nothing" and "write" in call:
            data = realmemory.peek(address, size)
        return await self._call(
            target, types[call], address, size, offset, address=address, flags=flags, data=data
        )

    async def _call(self, target, type, *args, address, flags, data):
        file = self.serials[target]
        reply = await self.session.token_call(
            type, file.fileno(), file.serial, *(arg & U64 for arg in args), flags=flags, data=data
        )
        if reply.data:
            realmemory.poke(address + reply.start, bytes(reply.data))
        return Result(reply.result) if reply.result >= 0 else Result(-1, errno_name(-reply.result))

    def close(self, number):
        os.close(number)

    def end(self):
        for file in self.serials.values():
            file.close()
        for name in ("container", "group", "device", "null"):
            if name in self.numbers:
                os.close(self.numbers[name])


async def make(side, target, cmd, payload, at=ARENA):
    """A call that must succeed, as part of setting up."""
    side.poke(at, payload)
    result = await side.ioctl(target, cmd, at)
    assert result.err is None, result
    return result.ret


async def set_up(side):
    """Container, group, device, a mapping of the writable pages, tracking."""
    await side.begin()
    side.poke(ARENA, bytes(PAGES * PAGE))
    await make(side, "group", c.VFIO_GROUP_SET_CONTAINER, side.numbers["container"].to_bytes(4, "little"))
    assert (await side.ioctl("container", c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)).ret == 0
    name = device_name(ORACLE_GROUP).encode() + b"\0"
    device = await make(side, "group", c.VFIO_GROUP_GET_DEVICE_FD, name)
    if isinstance(side, ThroughDaemon):
        side.adopt("device", device)
    else:
        side.numbers["device"] = device
    side.poke(ARENA, bytes(64))  # a command that is none: the result of the last one outlives its client
    assert (await side.transfer("pwrite", "device", ARENA, 64, 0, "nothing")).ret == 64
    request = s.IommuType1DmaMap(flags=3, vaddr=ARENA, iova=IOVA, size=2 * PAGE)
    await make(side, "container", c.VFIO_IOMMU_MAP_DMA, request.build())
    start = s.IommuType1DirtyBitmap(flags=c.VFIO_IOMMU_DIRTY_PAGES_FLAG_START)
    await make(side, "container", c.VFIO_IOMMU_DIRTY_PAGES, start.build())


async def perform(side, call):
    """One call: its result, and the readable memory after it; new fds are closed and blotted out."""
    side.poke(ARENA, bytes(range(1, 129)) * (PAGES * PAGE // 128))
    if call[0] == "ioctl":
        _, target, cmd, arg, payload, offer = call
        if ARENA <= arg < ARENA + READABLE:
            side.poke(arg, build(payload, side.numbers)[: ARENA + PAGES * PAGE - arg])
        before = side.peek()
        side.protect()
        result = await side.ioctl(target, cmd, arg, offer)
        after = side.peek()
        if cmd == c.VFIO_GROUP_GET_DEVICE_FD and target == "group" and result.err is None:
            side.close(result.ret)
            result = Result(0)
        return result, differences(before, after, cmd, target, arg, side)
    before = side.peek()
    side.protect()
    result = await side.transfer(*call)
    return result, differences(before, side.peek())


def differences(before, after, cmd=0, target="", arg=0, side=None):
    """What a call has changed; a data fd that it made is closed."""
    changed = {at: after[at] for at in range(len(after)) if before[at] != after[at]}
    at = arg - ARENA + s.DeviceFeature.SIZE + 4
    if cmd == c.VFIO_DEVICE_FEATURE and target == "device" and changed.keys() & set(range(at, at + 4)):
        number = int.from_bytes(after[at : at + 4], "little", signed=True)
        if number >= 0 and struct.unpack_from("<I", after, arg - ARENA + 4)[0] & 0xFFFF == 2:
            side.close(number)
            return {place: byte for place, byte in changed.items() if not at <= place < at + 4}
    return changed


async def hold_equal(path, calls):
    with trio.fail_after(PATIENCE):
        async with client.connect(path) as session:
            sides: list[InMemory | ThroughDaemon] = [InMemory(), ThroughDaemon(session)]
            with contextlib.ExitStack() as stack:
                for side in sides:
                    stack.callback(side.end)
                    await set_up(side)
                for call in calls:
                    expected, got = [await perform(side, call) for side in sides]
                    assert got == expected, call


@pytest.fixture(scope="module", params=["ask", "process_vm"])
def memory(request):
    """Both ways to reach what is not offered."""
    return request.param


@settings(print_blob=True)
@given(calls=st.lists(st.one_of(ioctls(), ioctls(), transfers()), min_size=1, max_size=12))
def test_any_argument_gets_the_answer_of_the_core(daemon, calls):
    trio.run(hold_equal, daemon.socket_path, calls)
