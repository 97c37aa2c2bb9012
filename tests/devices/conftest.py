# SPDX-License-Identifier: MIT
"""A dma-engine on a bench, and dma-engines in a machine, with their registers as attributes of a driver."""

import struct

import pytest

from vfioemu.abi.dma_engine import Command, Register
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.devices.dma_engine import DmaEngine
from vfioemu.devices.registry import load_models
from vfioemu.testing.bench import Bench
from vfioemu.testing.process import Process
from vfioemu.uapi import constants as c

PAGE = 4096
HARDWARE = IommuSpec(reserved=((0xFEE0_0000, 0xFEEF_FFFF),))


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


@pytest.fixture(scope="session")
def device_on_bench():
    """A function that puts a model on a bench and gives its driver."""
    return on_bench


@pytest.fixture(scope="session")
def make():
    """The same for a dma-engine with the options given."""
    return lambda **options: on_bench(DmaEngine({name.replace("_", "-"): options[name] for name in options}))


class Guest:
    """A machine with one dma-engine of each of the types given, all in one container, over 64 pages of RAM.

    DMA to `shared` RAM is done in C; to other RAM, by effects.
    """

    def __init__(self, *types, scheduler=None, ram=64, shared=True, **options):
        options = {name.replace("_", "-"): value for name, value in options.items()}
        groups = tuple(
            GroupSpec(number=i, iommu=None if type_ == 1 else HARDWARE) for i, type_ in enumerate(types)
        )
        devices = tuple(
            DeviceSpec(
                symbol=f"d{i}", name=f"d{i}", group=i, model="dma-engine", options={"type": type_, **options}
            )
            for i, type_ in enumerate(types)
        )
        self.machine = Machine(MachineSpec(groups=groups, devices=devices), load_models())
        self.process = process = Process(self.machine, scheduler=scheduler)
        self.arg = process.memory.allocate(PAGE)
        self.container = process.open("/dev/vfio/vfio").ret
        self.ram = ram
        fds = []
        for i in range(len(types)):
            fds.append(process.open(f"/dev/vfio/{i}").ret)
            self.call(fds[-1], c.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", self.container))
        process.ioctl(self.container, c.VFIO_SET_IOMMU, c.VFIO_TYPE1v2_IOMMU)
        self.drivers = []
        for i, group in enumerate(fds):
            fd = self.call(group, c.VFIO_GROUP_GET_DEVICE_FD, b"d%d\0" % i)
            self.drivers.append(Driver(process, self.machine.devices[f"d{i}"], fd))
        self.base = process.memory.allocate(ram * PAGE, shared=shared)
        self.map(0, ram)

    def call(self, fd, cmd, payload):
        self.process.memory.write(self.arg, payload)
        result = self.process.ioctl(fd, cmd, self.arg)
        assert result.err is None, result
        return result.ret

    def map(self, page, npages):
        payload = struct.pack("<IIQQQ", 32, 3, self.base + page * PAGE, page * PAGE, npages * PAGE)
        self.call(self.container, c.VFIO_IOMMU_MAP_DMA, payload)

    def unmap(self, page, npages):
        self.call(
            self.container, c.VFIO_IOMMU_UNMAP_DMA, struct.pack("<IIQQ", 24, 0, page * PAGE, npages * PAGE)
        )

    def track(self):
        self.call(self.container, c.VFIO_IOMMU_DIRTY_PAGES, struct.pack("<II", 8, 1))

    def dirty(self):
        """The pages that GET_BITMAP tells."""
        size = (self.ram + 63) // 64 * 8
        at = self.process.memory.allocate(PAGE)
        payload = struct.pack("<IIQQQQQ", 48, 4, 0, self.ram * PAGE, PAGE, size, at)
        self.call(self.container, c.VFIO_IOMMU_DIRTY_PAGES, payload)
        bits = int.from_bytes(self.process.memory.read(at, size), "little")
        self.process.memory.unmap(at, PAGE)
        return {page for page in range(self.ram) if bits >> page & 1}

    def memory(self):
        return self.process.memory.read(self.base, self.ram * PAGE)


@pytest.fixture(scope="session")
def guest():
    return Guest
