# SPDX-License-Identifier: MIT
"""A dma-engine as a PCI function on a bench."""

import struct

from vfioemu.abi.dma_engine import (
    RING_OFFSET,
    Pattern,
    Register,
)
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

PAGE = 4096
CONFIG = 7 << 40
COMMAND = CONFIG + 4
ADDRESS = "0000:00:05.0"
INTX, MSI, MSIX = 0, 1, 2
STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(1, 8)


class Rig:
    """A dma-engine on a bench, by what a guest's driver and its VMM do."""

    def __init__(self, name=None, migration=None, **options):
        options = {key.replace("_", "-"): value for key, value in options.items()}
        arguments = {"name": name} if name else {}
        self.bench = Bench(DmaEngine(options), migration=migration, **arguments)
        self.model = self.bench.model
        self.memory = self.bench.iommu.memory

    def set(self, **registers):
        for name, value in registers.items():
            assert self.bench.pwrite(struct.pack("<Q", value), Register[name.upper()]).err is None, name

    def get(self, name):
        return struct.unpack("<Q", self.bench.pread(8, Register[name.upper()]))[0]

    def command(self, command, *arguments):
        names = ("arg0", "arg1", "arg2")
        self.set(**dict(zip(names, arguments, strict=False)))
        self.set(command=command)
        return struct.unpack("<q", self.bench.pread(8, Register.RESULT))[0]

    def master(self, on=True):
        assert self.bench.pwrite(struct.pack("<H", 6 if on else 2), COMMAND).ret == 2

    def ring(self, *pages):
        assert self.bench.pwrite(struct.pack(f"<{len(pages)}Q", *pages), RING_OFFSET).err is None
        self.set(pattern=Pattern.RING, size=len(pages) * PAGE)

    def irqs(self, index, count):
        """Eventfds for the first vectors of an index."""
        fds = [self.bench.process.eventfd() for _ in range(count)]
        payload = struct.pack(f"<5I{count}i", 20 + 4 * count, 0x24, index, 0, count, *fds)
        assert self.bench.ioctl(c.VFIO_DEVICE_SET_IRQS, payload).ret == 0
        return fds

    def heard(self, fds):
        """How often each was signalled since the last time."""
        counts = []
        for fd in fds:
            result = self.bench.process.read(fd, self.bench.arg, 8)
            counts.append(struct.unpack("<Q", self.bench.answer(8))[0] if result.ret == 8 else 0)
        return counts

    def state(self, state):
        payload = struct.pack("<Ii", state, -1)
        result, answer = self.bench.feature(c.VFIO_DEVICE_FEATURE_SET | 2, payload)
        return result.err or struct.unpack("<Ii", answer)[1]

    def save(self, *states):
        fd = -1
        for state in (*states, STOP_COPY):
            fd = max(fd, self.state(state))
        data = b""
        while (result := self.bench.process.read(fd, self.bench.arg, 50_000)).ret > 0:
            data += self.bench.answer(result.ret)
        assert result.err is None
        return data

    def load(self, data):
        """Load; the errno of the arc that takes it over, or 0."""
        fd = self.state(RESUMING)
        for at in range(0, len(data), 40_000):
            piece = data[at : at + 40_000]
            self.bench.process.memory.write(self.bench.arg, piece)
            assert self.bench.process.write(fd, self.bench.arg, len(piece)).err is None
        answer = self.state(RUNNING)
        return 0 if answer == -1 else answer
