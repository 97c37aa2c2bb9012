# SPDX-License-Identifier: MIT
"""A process on the recording machine, and its calls in a few letters."""

import dataclasses
import struct

from vfioemu.conformance.machine import machine_file
from vfioemu.core.machine import Machine
from vfioemu.daemon.config import load_machine
from vfioemu.devices.registry import load_models
from vfioemu.testing.process import Process

PAGE = 4096
INFO, MAP, UNMAP, DIRTY = 0x3B70, 0x3B71, 0x3B72, 0x3B75
COMMAND = {"pin": 1, "unpin": 2, "rw": 3, "notify": 4}


class Client:
    """A process with a container; `devices` are in it, with the IOMMU of that type (0: none yet)."""

    def __init__(self, *devices, type=3, profile="linux-6.12"):
        spec = load_machine(machine_file("map"))
        self.machine = Machine(dataclasses.replace(spec, profile=profile), load_models())
        self.process = Process(self.machine)
        for _ in range(3):
            self.process.null()
        memory = self.memory = self.process.memory
        self.argument = memory.allocate(8 * PAGE)
        self.guard = self.argument + 8 * PAGE
        self.data = memory.allocate(64 * PAGE)
        self.readonly = memory.allocate(PAGE, "r")
        self.bitmap = memory.allocate(PAGE)
        self.container = self.process.open("/dev/vfio/vfio").ret
        self.specs = {device.symbol: device for device in spec.devices}
        self.groups, self.devices = {}, {}
        for symbol in devices:
            self.join(symbol)
        if type and devices:
            assert self.set_iommu(type) == 0
            for symbol in devices:
                self.open_device(symbol)

    def join(self, symbol):
        self.groups[symbol] = self.process.open(f"/dev/vfio/{self.specs[symbol].group}").ret
        return self.call(self.groups[symbol], 0x3B68, struct.pack("<i", self.container))

    def open_device(self, symbol):
        name = self.specs[symbol].name.encode() + b"\0"
        self.devices[symbol] = self.call(self.groups[symbol], 0x3B6A, name)
        return self.devices[symbol]

    def leave(self, symbol):
        if symbol in self.devices:
            self.process.close(self.devices.pop(symbol))
        return self.value(self.groups[symbol], 0x3B69, 0)

    def value(self, fd, cmd, arg):
        result = self.process.ioctl(fd, cmd, arg)
        return result.err or result.ret

    def call(self, fd, cmd, payload, tail=False):
        at = self.guard - len(payload) if tail else self.argument
        self.memory.poke(at, payload)
        answer = self.value(fd, cmd, at)
        self.out = self.memory.peek(at, len(payload))
        return answer

    def set_iommu(self, type):
        return self.value(self.container, 0x3B66, type)

    def extension(self, number):
        return self.value(self.container, 0x3B65, number)

    def info(self, argsz, room=256):
        payload = struct.pack("<I", argsz) + b"\xee" * (room - 4)
        return self.call(self.container, INFO, payload)

    def map(self, iova, size, vaddr=None, flags=3, argsz=32):
        vaddr = self.data if vaddr is None else vaddr
        return self.call(self.container, MAP, struct.pack("<2I3Q", argsz, flags, vaddr, iova, size))

    def unmap(self, iova, size, flags=0, argsz=24, bitmap=(), tail=False):
        payload = struct.pack("<2I2Q", argsz, flags, iova, size)
        if bitmap:
            payload += struct.pack("<3Q", *bitmap)
        answer = self.call(self.container, UNMAP, payload, tail)
        return int.from_bytes(self.out[16:24], "little") if answer == 0 else answer

    def dirty(self, flags, argsz=8):
        return self.call(self.container, DIRTY, struct.pack("<2I", argsz, flags))

    def get(self, iova, size, bits=None, pgsize=PAGE, room=None, argsz=48, tail=0):
        bits = self.bitmap if bits is None else bits
        room = PAGE if room is None else room
        payload = struct.pack("<2I5Q", argsz, 4, iova, size, pgsize, room, bits)
        if tail:
            return self.call(self.container, DIRTY, payload[:tail], tail=True)
        return self.call(self.container, DIRTY, payload)

    def words(self, count=1, zero=True):
        found = struct.unpack(f"<{count}Q", self.memory.peek(self.bitmap, 8 * count))
        if zero:
            self.memory.poke(self.bitmap, bytes(PAGE))
        return found if count > 1 else found[0]

    def bits(self, iova=0, size=64 * PAGE):
        self.memory.poke(self.bitmap, bytes(PAGE))
        answer = self.get(iova, size)
        return answer or self.words()

    def drive(self, act, *args, device=None):
        fd = self.devices[device or next(iter(self.devices))]
        words = [COMMAND[act], *args]
        self.memory.poke(self.argument, struct.pack("<8Q", *words, *[0] * (8 - len(words))))
        assert self.process.pwrite(fd, self.argument, 64, 0).ret == 64
        self.process.pread(fd, self.argument, 64, 0)
        return struct.unpack("<q", self.memory.peek(self.argument, 8))[0]
