# SPDX-License-Identifier: MIT
"""A dma-engine, or anything that has such registers, by what a guest's driver does with it."""

import struct

from vfioemu.abi.dma_engine import Command, Register
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

PAGE = 4096


class Driver:
    """What a guest's driver does with a dma-engine: registers, commands, migration states.

    Args:
        process: the client.
        device: the device, for its `work`.
        fd: its fd in the client.
        iommu: the bench's, on a bench.
    """

    def __init__(self, process, device, fd, iommu=None):
        self.process = process
        self.device = device
        self.fd = fd
        self.iommu = iommu
        self.arg = process.memory.allocate(64 << 10)
        self.now = 0.0

    def set(self, **registers):
        for name, value in registers.items():
            answer = self.write(Register[name.upper()], struct.pack("<Q", value))
            assert answer.err is None, (name, value, answer)

    def get(self, name):
        assert self.process.pread(self.fd, self.arg, 8, Register[name.upper()]).ret == 8
        return struct.unpack("<Q", self.process.memory.read(self.arg, 8))[0]

    def write(self, offset, data):
        self.process.memory.write(self.arg, data)
        return self.process.pwrite(self.fd, self.arg, len(data), offset)

    def command(self, command, arg0=0, arg1=0, arg2=0):
        self.set(arg0=arg0, arg1=arg1, arg2=arg2, command=Command[command.upper()])
        result = self.get("result")
        return result - (1 << 64) if result >> 63 else result

    def ioctl(self, cmd, payload=b""):
        self.process.memory.write(self.arg, payload)
        return self.process.ioctl(self.fd, cmd, self.arg)

    def feature(self, flags, payload=b""):
        result = self.ioctl(c.VFIO_DEVICE_FEATURE, struct.pack("<II", 8 + len(payload), flags) + payload)
        return result.err or 0, self.process.memory.read(self.arg + 8, len(payload))

    def state(self, state):
        """Go to a migration state; the data fd that comes, or the errno's name."""
        error, payload = self.feature(c.VFIO_DEVICE_FEATURE_SET | 2, struct.pack("<Ii", state, -1))
        return error or struct.unpack("<Ii", payload)[1]

    def current(self):
        return struct.unpack("<Ii", self.feature(c.VFIO_DEVICE_FEATURE_GET | 2, bytes(8))[1])[0]

    def log(self, *ranges, page_size=PAGE):
        at = self.arg + 0x8000
        self.process.memory.write(at, b"".join(struct.pack("<QQ", *range_) for range_ in ranges))
        payload = struct.pack("<QIIQ", page_size, len(ranges), 0, at)
        return self.feature(c.VFIO_DEVICE_FEATURE_SET | 6, payload)

    def report(self, iova, length, page_size=PAGE):
        """The dirty pages (of page_size) that a REPORT tells, as numbers from `iova` on."""
        at = self.process.memory.allocate(length // page_size // 8 + 2 * PAGE)
        payload = struct.pack("<QQQQ", iova, length, page_size, at)
        error, _ = self.feature(c.VFIO_DEVICE_FEATURE_GET | 8, payload)
        assert not error, error
        bits = int.from_bytes(self.process.memory.read(at, length // page_size // 8 + PAGE), "little")
        self.process.memory.unmap(at, length // page_size // 8 + 2 * PAGE)
        return {i for i in range(bits.bit_length()) if bits >> i & 1}

    def work(self, until):
        """Let the device work in virtual time."""
        while self.now <= until:
            due = self.process.scheduler.call(self.device.work(self.now), self.process)
            if due is None:
                break
            self.now = max(due, self.now + 1e-6)
        self.now = max(self.now, until)

    def read_all(self, data_fd, size=100):
        data = b""
        while (result := self.process.read(data_fd, self.arg, size)).ret > 0:
            data += self.process.memory.read(self.arg, result.ret)
        return data, result.err

    def write_all(self, data_fd, data, size=77):
        for at in range(0, len(data), size):
            self.process.memory.write(self.arg, data[at : at + size])
            assert self.process.write(data_fd, self.arg, len(data[at : at + size])).err is None


def on_bench(model):
    bench = Bench(model)
    return Driver(bench.process, bench.device, bench.fd, bench.iommu)
