# SPDX-License-Identifier: MIT
"""Clients that stop in the midst of something: they lose their session after a while, and nobody else waits for them."""

import contextlib
import errno
import mmap
import os

import pytest
import trio

from tests.system.hostile.helpers import (
    HOSTILE_GROUP,
    MACHINE,
    PAGE,
    PATIENCE,
    Raw,
    guest,
    registers,
    said,
    serial_of,
    set_register,
    settles,
)
from vfioemu import client
from vfioemu import daemon as daemons
from vfioemu.abi.dma_engine import Register
from vfioemu.daemon.config import parse_machine
from vfioemu.syscalls import procmem
from vfioemu.testing.daemon import device_name
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s
from vfioemu.wire import messages as m


@pytest.fixture(scope="module")
def patience():
    """Clients that owe an answer lose their session soon."""
    return "0.3"


async def call_until_hung_up(raw):
    """Call without ever reading a reply."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                raw.send(m.OPEN, data=b"/dev/vfio/nothing")
            except BlockingIOError:
                await trio.lowlevel.wait_writable(raw.sock)
            except ConnectionError:
                return


async def test_client_that_never_reads_blocks_nobody(daemon, bystander, clean):
    """Calls until there is no room for their replies, nor for more calls."""
    async with Raw(daemon.socket_path) as raw:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bystander.goes_on, 20)
            await call_until_hung_up(raw)  # after --ask-timeout
    await settles(daemon, clean)
    assert said(daemon, "does not read for 0.3 s")


async def parked_call(raw):
    """A MAP_DMA of which the daemon asks for the argument, which it does not get."""
    container, _ = await raw.set_up(HOSTILE_GROUP)
    raw.send(m.IOCTL, serial_of(container), c.VFIO_IOMMU_MAP_DMA, 0x5000)
    ask = await raw.receive()
    assert (ask.type, ask.arg0, ask.arg1) == (m.READ_USER, 0x5000, s.IommuType1DmaMap.SIZE)
    return ask


async def test_client_that_parks_its_memory_blocks_nobody(daemon, bystander, clean):
    async with Raw(daemon.socket_path) as raw:
        await parked_call(raw)
        await bystander.goes_on(20)
        assert await raw.is_ended()
    await settles(daemon, clean)
    assert said(daemon, "does not answer for 0.3 s")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"seq": 12345}, "seq 12345 where"),
        ({"type": m.REPLY}, "message type 32"),
        ({"type": m.IOCTL}, "message type 3"),
        ({"data": b""}, "0 bytes of memory where 32 are due"),
        ({"data": bytes(33)}, "33 bytes of memory where 32 are due"),
        ({"data": bytes(65536)}, "65536 bytes of memory"),
    ],
)
async def test_wrong_answer_ends_the_connection(daemon, bystander, clean, answer, why):
    async with Raw(daemon.socket_path) as raw:
        ask = await parked_call(raw)
        raw.send(**{"type": m.ANSWER, "seq": ask.seq, "data": bytes(32), **answer})
        assert await raw.is_ended()
    await settles(daemon, clean)
    assert said(daemon, why)


async def test_second_call_during_an_ask_ends_the_connection(daemon, bystander, clean):
    async with Raw(daemon.socket_path) as raw:
        ask = await parked_call(raw)
        raw.send(m.OPEN, data=b"/dev/vfio/vfio", seq=ask.seq)
        assert await raw.is_ended()
    await settles(daemon, clean)


async def test_hanging_up_during_an_ask_is_quiet(daemon, bystander, clean):
    async with Raw(daemon.socket_path) as raw:
        await parked_call(raw)
    await settles(daemon, clean)
    assert said(daemon, "EFAULT: the client is gone")


@contextlib.asynccontextmanager
async def parked_device(path):
    """The service connection of a guest whose device waits for the answer to a write; there will be none."""
    with mmap.mmap(-1, PAGE) as memory:
        view = memoryview(memory)
        address = procmem.address_of(view)[0]
        async with client.connect(path, serve_memory=False) as session:
            raw = Raw(path, session=session._secret, flags=m.F_SERVICE)
            async with raw, guest(session, HOSTILE_GROUP) as (container, _, device):
                await container.map_dma(address, 0, PAGE)
                await device.pwrite(registers(0, PAGE), Register.BASE)
                await set_register(device, Register.CONTROL, 1)
                ask = await raw.receive()
                assert (ask.type, ask.arg0) == (m.WRITE_USER, address)
                yield raw
        view.release()


async def test_parked_dma_memory_blocks_only_its_own_device(daemon, bystander, clean):
    async with parked_device(daemon.socket_path) as raw:
        await bystander.goes_on(20)
        assert await raw.is_ended()
    await settles(daemon, clean)
    assert said(daemon, "does not answer for 0.3 s")


async def test_hanging_up_while_dma_memory_is_asked_for(daemon, bystander, clean):
    for _ in range(20):
        async with parked_device(daemon.socket_path):
            pass
    await settles(daemon, clean)


async def test_service_is_closed_while_it_is_waited_for():
    """The hang-up is seen by a call before it is by the device that waits; the next connection gets that fd's number."""
    async with daemons.running(parse_machine(MACHINE)) as running:
        async with parked_device(running.socket_path) as raw:
            raw.close()
            running.dispatcher.poller.reap()
            async with Raw(running.socket_path):
                pass
        assert running.dispatcher.counters.bugs == 0


@pytest.mark.parametrize("number", [-1, 1 << 31, 1 << 63, m.U64])
async def test_fd_number_that_is_none_is_emfile(daemon, bystander, clean, number):
    """The client says where it has put the new fd; the device is given back."""
    async with Raw(daemon.socket_path) as raw:
        _, group = await raw.set_up(HOSTILE_GROUP)
        name = device_name(HOSTILE_GROUP).encode().ljust(PAGE, b"\0")
        raw.send(m.IOCTL, serial_of(group), c.VFIO_GROUP_GET_DEVICE_FD, 4096, data=name)
        ask = await raw.receive()
        assert ask.type == m.GIVE_FD
        os.close(raw.fds[0])
        raw.send(m.ANSWER, 0, number, seq=ask.seq)
        assert m.signed((await raw.receive()).arg0) == -errno.EMFILE
    await settles(daemon, clean)
