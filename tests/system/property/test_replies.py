# SPDX-License-Identifier: MIT
"""Each call gets exactly one reply, whatever it is; replies that are sent twice are found."""

import os
import random

import trio

from tests.daemon.blocking import Blocking
from tests.daemon.helpers import MACHINE
from tests.system.property import planted
from vfioemu import daemon
from vfioemu.uapi import constants as c
from vfioemu.wire import messages as m

CALLS = 200


class Strict(Blocking):
    """Knows which reply it waits for; `wrong` are the others."""

    def __init__(self, path):
        self.wrong = []
        self.answered = set()
        super().__init__(path)

    def _receive(self):
        while True:
            packet, fd = super()._receive()
            message = m.decode(packet)
            if message.type != m.REPLY or (message.seq == self.seq and message.seq not in self.answered):
                if message.type == m.REPLY:
                    self.answered.add(message.seq)
                return packet, fd
            self.wrong.append(message)
            if fd >= 0:
                os.close(fd)


def exchange(path, seed):
    """Make calls, good ones and bad ones; returns what came besides their replies."""
    rng = random.Random(seed)
    connection = Strict(path)
    try:
        fd, token = connection.open("/dev/vfio/vfio")
        for _ in range(CALLS):
            one_call(connection, rng, token)
        os.close(fd)
    finally:
        connection.close()
    return connection.wrong


def one_call(connection, rng, token):
    numbers = [c.VFIO_GET_API_VERSION, c.VFIO_IOMMU_GET_INFO, c.VFIO_SET_IOMMU, 0x3B99, c.VFIO_IOMMU_MAP_DMA]
    kind = rng.choice([m.IOCTL, m.IOCTL, m.READ, m.WRITE, m.OPEN])
    token = rng.choice([token, token, token, 12345])
    if kind == m.IOCTL:
        connection.ioctl(token, rng.choice(numbers), rng.randbytes(rng.choice([4, 16, 32])))
    elif kind == m.OPEN:
        connection.call(m.OPEN, 0, data=rng.choice([b"/dev/vfio/99", b"/dev/null", b""]))
    else:
        connection.call(kind, token, 0x1000, 0, data=b"")


async def test_every_call_has_one_reply():
    async with daemon.running(MACHINE) as running:
        for seed in range(3):
            assert await trio.to_thread.run_sync(exchange, running.socket_path, seed) == []


async def test_second_replies_are_found(monkeypatch):
    planted.replies_are_sent_twice(monkeypatch)

    async with daemon.running(MACHINE) as running:
        assert await trio.to_thread.run_sync(exchange, running.socket_path, 0)
