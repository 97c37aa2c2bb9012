# SPDX-License-Identifier: MIT
"""Cards and consoles for tests of PCI functions."""

import dataclasses
import struct

from tests.devices.pci.irq_model import (
    BAD,
    BOOL,
    CLOSED,
    EVENTFD,
    OK,
)
from vfioemu.devices.pci import (
    Bar,
    Express,
    Function,
    Msi,
    MsiX,
    PciHardware,
    PowerManagement,
    VfioPci,
)
from vfioemu.testing.bench import Bench
from vfioemu.uapi import constants as c

ADDRESS = "0000:00:12.0"
CONFIG = c.VFIO_PCI_CONFIG_REGION_INDEX << 40
NAMES = ("a", "b", "c")
MASTER = 6
"""COMMAND: memory, bus master."""
SET = c.VFIO_DEVICE_FEATURE_SET


class SubjectCard(PciHardware):
    """Has interrupts of every kind."""

    def __init__(self, *more):
        super().__init__(
            Function(
                vendor=1,
                device=2,
                class_code=0,
                interrupt_pin=1,
                bars={0: Bar(0x1000), 1: Bar(0x1000)},
                capabilities=(Msi(4), MsiX(8, table_bar=1, pba_bar=1, pba_offset=0x800), Express(), *more),
            ),
        )


def Subject(options=None, *more):
    return VfioPci(options or {}, SubjectCard(*more))


class Console:
    """A bench with named eventfds."""

    def __init__(self, *more):
        self.bench = Bench(Subject({}, *more), name=ADDRESS)
        process = self.bench.process
        self.fds: dict[str | None, int] = {name: process.eventfd() for name in (*NAMES, "watched")}
        self.fds |= {BAD: process.null(), CLOSED: 999, None: -1}

    def command(self, value):
        assert self.bench.pwrite(struct.pack("<H", value), CONFIG + 4).ret == 2

    def set_irqs(self, index, flags, start, count, data=b"", argsz=None):
        argsz = 20 + len(data) if argsz is None else argsz
        result = self.bench.ioctl(
            c.VFIO_DEVICE_SET_IRQS, struct.pack("<5I", argsz, flags, index, start, count) + data
        )
        return result.err or OK

    def call(self, index, flags, start, count, data):
        if flags & 7 == EVENTFD:
            packed = struct.pack(f"<{len(data)}i", *(self.fds[name] for name in data))
        else:
            packed = bytes(data) if flags & 7 == BOOL else b""
        return self.set_irqs(index, flags, start, count, packed)

    def rung(self):
        return {name: self.bench.process.fds[self.fds[name]].what.count for name in NAMES}

    def write_eventfd(self, name):
        process = self.bench.process
        process.memory.write(self.bench.arg, (1).to_bytes(8, "little"))
        assert process.write(self.fds[name], self.bench.arg, 8).ret == 8


class RecorderCard(PciHardware):
    """Remembers every access."""

    def __init__(self, **changes):
        function = Function(
            vendor=1,
            device=2,
            class_code=0,
            interrupt_pin=1,
            bars={
                0: Bar(0x4000, areas=((0x1000, 0x2000),)),
                1: Bar(0x20, kind="io"),
                2: Bar(0x800),
                3: Bar(0x2000, registers=0x10, beyond=0xEE),
                4: Bar(0x2000),
            },
            capabilities=(
                MsiX(4, table_bar=4, table_offset=0x1000, pba_bar=4, pba_offset=0x1800),
                PowerManagement(),
            ),
        )
        super().__init__(dataclasses.replace(function, **changes))
        self.seen = []

    def read_bar(self, bar, offset, size):
        self.seen.append(("r", bar, offset, size))
        return bytes(range(offset & 0xFF, (offset & 0xFF) + size))

    def write_bar(self, bar, offset, data):
        self.seen.append(("w", bar, offset, data))


def Recorder(options=None, **changes):
    return VfioPci(options or {}, RecorderCard(**changes))


def at(bar, offset=0):
    return (bar << 40) + offset


def feature(bench, flags, payload=b""):
    return bench.feature(flags, payload)[0].err
