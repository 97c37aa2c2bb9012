# SPDX-License-Identifier: MIT
"""Packets that are none end the connection they come on, nothing else; the log says whose, and why."""

import errno

import pytest

from tests.system.hostile.helpers import HOSTILE_GROUP, Raw, said, serial_of, settles
from vfioemu.uapi import constants as c
from vfioemu.wire import messages as m


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"x", "a greeting of 1 bytes"),
        (bytes(47), "a greeting of 47 bytes"),
        (bytes(48), "where HELLO is due"),
        (m.encode(m.IOCTL, 1), "where HELLO is due"),
        (m.encode(m.HELLO, 1, args=(m.MAGIC, 9 | 9 << 32, 0, 0)), "speaks versions 9 to 9"),
        (m.encode(m.HELLO, 1, args=(m.MAGIC, 1 | 1 << 32, 77, 0)), "not a session of this process"),
        (m.encode(m.HELLO, 1, args=(m.MAGIC, 1 | 1 << 32, 0, 0)) + b"x", "a greeting of 49 bytes"),
        (bytes(m.MAX_MESSAGE + 1), "bytes"),
    ],
    ids=["1", "47", "zeroes", "call", "version", "session", "49", "long"],
)
async def test_wrong_greeting_ends_the_connection(daemon, bystander, clean, packet, why):
    async with Raw(daemon.socket_path, greet=False) as raw:
        raw.send_bytes(packet)

        assert await raw.is_ended()

    await settles(daemon, clean)
    assert said(daemon, why)


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"", None),
        (b"x", "a packet of 1 bytes, a header has 48"),
        (bytes(47), "a packet of 47 bytes, a header has 48"),
        (bytes(48), "message type 0 where a call is due"),
        (bytes(m.MAX_MESSAGE + 1), "a packet of more than"),
        (m.encode(m.HELLO, 1, args=(m.MAGIC, 1 | 1 << 32, 0, 0)), "message type 1 where a call is due"),
        (m.encode(m.ANSWER, 1), "message type 96 where a call is due"),
        (m.encode(m.REPLY, 1), "message type 32 where a call is due"),
        (m.encode(0xFFFF, 1, m.U64, (-1, -1, -1, -1), 0xFFFF), "message type 65535"),
    ],
    ids=["0", "1", "47", "zeroes", "long", "hello", "answer", "reply", "ones"],
)
async def test_wrong_packet_ends_the_connection(daemon, bystander, clean, packet, why):
    async with Raw(daemon.socket_path) as raw:
        raw.send_bytes(packet)

        assert await raw.is_ended()

    await settles(daemon, clean)
    assert why is None or said(daemon, why)


@pytest.mark.parametrize(
    ("cmd", "argument", "error", "why"),
    [
        (
            c.VFIO_IOMMU_MAP_DMA,
            bytes(32),
            errno.EINVAL,
            "VFIO_IOMMU_MAP_DMA on container#{}: EINVAL: argsz 0",
        ),
        (
            c.VFIO_IOMMU_MAP_DMA,
            b"",
            errno.EFAULT,
            "VFIO_IOMMU_MAP_DMA on container#{}: EFAULT: 32 bytes at 0x1000",
        ),
    ],
    ids=["size", "memory"],
)
async def test_refused_call_is_logged_with_who_and_why(daemon, bystander, cmd, argument, error, why):
    async with Raw(daemon.socket_path) as raw:
        container, _ = await raw.set_up(HOSTILE_GROUP)
        raw.send(m.IOCTL, serial_of(container), cmd, 0x1000, data=argument)
        while (reply := await raw.receive()).type != m.REPLY:
            raw.send(m.ANSWER, 0, -errno.EFAULT, seq=reply.seq)
        assert m.signed(reply.arg0) == -error
        assert said(daemon, why.format(serial_of(container)))


async def test_probe_is_not_logged_as_if_it_were_wrong(daemon, bystander):
    """ENOTTY says that there is no such ioctl: whoever asked wanted to know that."""
    async with Raw(daemon.socket_path) as raw:
        container, _ = await raw.set_up(HOSTILE_GROUP)
        for cmd in (0x3BFF, c.VFIO_IOMMU_MAP_DMA):  # the second one is logged, and so the first has been seen
            raw.send(m.IOCTL, serial_of(container), cmd, 0x1000)
            while (reply := await raw.receive()).type != m.REPLY:
                raw.send(m.ANSWER, 0, -errno.EFAULT, seq=reply.seq)
        name = f"container#{serial_of(container)}: "
        assert said(daemon, f"VFIO_IOMMU_MAP_DMA on {name}EFAULT")
        assert not said(daemon, f"other on {name}ENOTTY")


@pytest.mark.parametrize("call", [m.MEM_SHARE, m.MEM_HOLE, m.IOCTL])
async def test_an_fd_that_the_daemon_has_no_room_for_is_emfile(daemon, bystander, clean, call):
    """The kernel takes it off the packet, whose flag is all that is left of it: that is no fd that is not open."""
    async with Raw(daemon.socket_path) as raw:
        reply = await raw.call(call, 1 << 40, 0, 0, flags=m.F_FD)

        assert m.signed(reply.arg0) == -errno.EMFILE
        assert not reply.flags
        fd = await raw.open("/dev/vfio/vfio")
        assert (await raw.call(m.IOCTL, serial_of(fd), c.VFIO_GET_API_VERSION)).arg0 == 0

    await settles(daemon, clean)


async def test_an_fd_of_the_caller_that_the_daemon_has_no_room_for_is_enomem(daemon, bystander, clean):
    async with Raw(daemon.socket_path) as raw:
        group = await raw.open(f"/dev/vfio/{HOSTILE_GROUP}")
        raw.send(m.IOCTL, serial_of(group), c.VFIO_GROUP_SET_CONTAINER, 4096, data=bytes(4))
        ask = await raw.receive()
        assert ask.type == m.TAKE_FD
        raw.send(m.ANSWER, flags=m.F_FD, seq=ask.seq)

        assert m.signed((await raw.receive()).arg0) == -errno.ENOMEM

    await settles(daemon, clean)
