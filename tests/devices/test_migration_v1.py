# SPDX-License-Identifier: MIT
"""Every model that migrates does so by v1 as well, with the same bytes: saved by one protocol, loaded by the other."""

import struct

import pytest

from vfioemu.abi.dma_engine import Register
from vfioemu.core.model.streams import RESUMING, RUNNING, STOP, STOP_COPY
from vfioemu.devices.registry import load_models
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

BASE = 9 << 40
SET = c.VFIO_DEVICE_FEATURE_SET | c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
OPTIONS: dict[str, dict[str, object]] = {
    "mtty": {"ports": 2, "info-known": True},
    "dma-engine": {"id": 7},
    "oracle": {"variant": "migspc"},
}
HISTORY: dict[str, list[tuple[int, bytes]]] = {
    "mtty": [(0x2, b"\x01"), (0x1, b"\x07"), (0x0, b"h"), (0x0, b"i"), (1 << 40 | 7, b"\x5a")],
    "dma-engine": [(Register.BASE, struct.pack("<Q", 0x4000)), (Register.SEED, struct.pack("<Q", 77))],
    "oracle": [],
}


class Moves:
    """A device that moves by one of the protocols."""

    def __init__(self, name, protocol):
        self.bench = Bench(load_models()[name](OPTIONS[name]), migration=protocol)
        self.protocol = protocol

    def _state(self, state):
        if self.protocol == "v1":
            low = {STOP: 0, RUNNING: 1, STOP_COPY: 2, RESUMING: 4}[state]
            assert self.bench.pwrite(struct.pack("<I", low), BASE).err is None
            return -1
        result, payload = self.bench.feature(SET, struct.pack("<Ii", state, -1))
        assert result.err is None
        return struct.unpack("<Ii", payload)[1]

    def _field(self, offset):
        return struct.unpack("<Q", self.bench.pread(8, BASE + offset))[0]

    def save(self):
        fd = self._state(STOP_COPY)
        stream = b""
        if self.protocol == "v1":
            while self._field(8):
                offset, size = self._field(16), self._field(24)
                stream += self.bench.pread(size, BASE + offset)
        else:
            while size := self.bench.process.read(fd, self.bench.arg, 4096).ret:
                stream += self.bench.answer(size)
        self._state(STOP)
        return stream

    def load(self, stream):
        fd = self._state(RESUMING)
        if self.protocol == "v1":
            assert self.bench.pwrite(stream, BASE + self._field(16)).err is None
            assert self.bench.pwrite(struct.pack("<Q", len(stream)), BASE + 24).err is None
        else:
            self.bench.process.memory.write(self.bench.arg, stream)
            assert self.bench.process.write(fd, self.bench.arg, len(stream)).ret == len(stream)
        self._state(RUNNING)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("source", "destination"), [("v1", "v1"), ("v1", "v2"), ("v2", "v1"), ("v2", "v2")])
def test_what_one_protocol_saves_the_other_loads(name, source, destination):
    one, other, twin = Moves(name, source), Moves(name, destination), Moves(name, "v2")
    for offset, data in HISTORY[name]:
        for device in (one, twin):
            assert device.bench.pwrite(data, offset).err is None
    stream = one.save()
    assert stream == twin.save()

    other.load(stream)

    assert other.save() == stream
