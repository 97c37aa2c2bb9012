# SPDX-License-Identifier: MIT
"""One process on one kernel, and calls that can be made on any of them: what lockstep.py makes twice."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from vfioemu.core.base.errors import IoctlError
from vfioemu.core.machine import Machine
from vfioemu.core.memory.iommu_spec import IommuSpec
from vfioemu.core.objects.spec import DeviceSpec, GroupSpec, MachineSpec
from vfioemu.core.type1 import Type1
from vfioemu.devices.registry import load_models
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import Process
from vfioemu.uapi import constants as c

PAGE = 4096
TOP = 1 << 64
BITMAP = 512
MSI_WINDOW = ((0xFEE0_0000, 0xFEEF_FFFF),)
WIDE = IommuSpec(reserved=MSI_WINDOW)
NARROW = IommuSpec(address_bits=39, reserved=MSI_WINDOW)
GROUPS = (None, None, WIDE, NARROW, None, WIDE)
DEVICES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("d0", "oracle", {"variant": "migspc"}),
    ("d1", "oracle", {"variant": "basic"}),
    ("d2", "oracle", {"variant": "migspc"}),
    ("d3", "oracle", {"variant": "migs"}),
    ("d4", "dma-engine", {"id": 1}),
    ("0000:00:05.0", "edu", {}),
)
MODELS = load_models()


class Call(NamedTuple):
    """A call.

    Attributes:
        name: an ioctl's, or what a device or a process does.
        on: which container, group, device or data fd.
        payload: what an ioctl's argument points to; numbers of everything else.
        value: an ioctl's argument that is no pointer.
        bitmap: where in the payload the address of the bitmap belongs.
        data: where in the payload the address of 64 pages of memory belongs.
    """

    name: str
    on: int
    payload: bytes = b""
    value: int | None = None
    bitmap: int | None = None
    data: int | None = None
    numbers: tuple[int, ...] = ()

    def words(self, layout: str, at: int = 0) -> tuple[int, ...]:
        """Numbers in the payload."""
        return struct.unpack_from("<" + layout, self.payload, at)


class Answer(NamedTuple):
    """What came back: a number or an errno's name, the payload, the bitmap."""

    result: int | str
    out: bytes = b""
    bitmap: bytes = b""


class Side:
    """One process on one kernel."""

    def __init__(self, profile: str) -> None:
        spec = MachineSpec(
            groups=tuple(GroupSpec(number=n, iommu=iommu) for n, iommu in enumerate(GROUPS)),
            devices=tuple(
                DeviceSpec(symbol=f"s{n}", name=name, group=n, model=model, options=options)
                for n, (name, model, options) in enumerate(DEVICES)
            ),
            profile=profile,
        )
        self.machine = Machine(spec, MODELS)
        self.process = Process(self.machine)
        memory = self.process.memory
        self.argument = memory.allocate(PAGE)
        self.bitmap = memory.allocate(PAGE)
        self.data = memory.allocate(64 * PAGE)
        self.files: dict[tuple[str, int], int] = {}

    # --- what it holds ---

    def device(self, number: int):
        return self.machine.devices[f"s{number}"]

    def is_open(self, kind: str, number: int) -> bool:
        return (kind, number) in self.files

    def container(self, number: int):
        return self.process.fds[self.files["container", number]].what.container

    def container_of(self, device: int):
        return self.device(device).group.container

    def holdings(self) -> dict:
        held: dict[str, object] = dict(holdings(self.machine))
        held["states"] = tuple(device.migration.state for device in self.machine.devices.values())
        held["bits"] = tuple(
            (dma.iova, dma.bitmap.runs())
            for container in self.machine.containers.values()
            if isinstance(container.iommu, Type1)
            for dma in container.iommu.map
            if dma.bitmap is not None
        )
        return held

    # --- calls ---

    def make(self, call: Call) -> Answer | None:
        """Make the call; None if there is nothing to make it on."""
        special = getattr(self, f"_{call.name}", None)
        if special is not None:
            return special(call)
        kind = KINDS[call.name]
        if not self.is_open(kind, call.on):
            return None
        return self._ioctl(self.files[kind, call.on], call)

    def _ioctl(self, fd: int, call: Call) -> Answer:
        memory, command = self.process.memory, getattr(c, call.name)
        if call.value is not None:
            return Answer(_plain(self.process.ioctl(fd, command, call.value)))
        payload = bytearray(call.payload)
        if call.bitmap is not None:
            payload[call.bitmap : call.bitmap + 8] = self.bitmap.to_bytes(8, "little")
            memory.poke(self.bitmap, b"\xa5" * BITMAP)
        if call.data is not None:
            payload[call.data : call.data + 8] = self.data.to_bytes(8, "little")
        memory.poke(self.argument, payload + b"\xcc" * 64)
        result = self.process.ioctl(fd, command, self.argument)
        out = memory.peek(self.argument, len(payload) + 64)
        return Answer(
            _plain(result), out, memory.peek(self.bitmap, BITMAP) if call.bitmap is not None else b""
        )

    def _open(self, kind: str, number: int, path: str) -> Answer | None:
        if self.is_open(kind, number):
            return None
        result = self.process.open(path)
        if result.err is None:
            self.files[kind, number] = result.ret
            return Answer(0)
        return Answer(result.err)

    def _container(self, call: Call) -> Answer | None:
        return self._open("container", call.on, "/dev/vfio/vfio")

    def _group(self, call: Call) -> Answer | None:
        return self._open("group", call.on, f"/dev/vfio/{call.on}")

    def _join(self, call: Call) -> Answer | None:
        (number,) = call.numbers
        if not (self.is_open("group", call.on) and self.is_open("container", number)):
            return None
        self.process.memory.poke(self.argument, struct.pack("<i", self.files["container", number]))
        fd = self.files["group", call.on]
        return Answer(_plain(self.process.ioctl(fd, c.VFIO_GROUP_SET_CONTAINER, self.argument)))

    def _device(self, call: Call) -> Answer | None:
        if not self.is_open("group", call.on) or self.is_open("device", call.on):
            return None
        self.process.memory.poke(self.argument, DEVICES[call.on][0].encode() + b"\0")
        fd = self.files["group", call.on]
        result = self.process.ioctl(fd, c.VFIO_GROUP_GET_DEVICE_FD, self.argument)
        if result.err is None:
            self.files["device", call.on] = result.ret
            return Answer(0)
        return Answer(result.err)

    def _close(self, call: Call) -> Answer | None:
        kind = ("container", "group", "device", "data")[call.numbers[0]]
        fd = self.files.pop((kind, call.on), None)
        return None if fd is None else Answer(_plain(self.process.close(fd)))

    def _state(self, call: Call) -> Answer | None:
        """Set a migration state; the data fd replaces the one that there was."""
        if not self.is_open("device", call.on):
            return None
        payload = struct.pack("<IIIi", 16, c.VFIO_DEVICE_FEATURE_SET | 2, call.numbers[0], -1)
        self.process.memory.poke(self.argument, payload)
        result = self.process.ioctl(self.files["device", call.on], c.VFIO_DEVICE_FEATURE, self.argument)
        (fd,) = struct.unpack("<i", self.process.memory.peek(self.argument + 12, 4))
        if result.err is None and fd >= 0:
            if (old := self.files.pop(("data", call.on), None)) is not None:
                self.process.close(old)
            self.files["data", call.on] = fd
        return Answer(_plain(result), bytes([fd >= 0]))

    def _pin(self, call: Call) -> Answer | None:
        return self._run(call, lambda device: device.pin(*call.numbers))

    def _unpin(self, call: Call) -> Answer | None:
        return self._run(call, lambda device: device.unpin(*call.numbers[:2]))

    def _write(self, call: Call) -> Answer | None:
        return self._run(call, lambda device: device.rw_write(call.numbers[0], b"w" * call.numbers[1]))

    def _run(self, call: Call, steps: Callable) -> Answer | None:
        if not self.is_open("device", call.on):
            return None
        try:
            return Answer(self.process.scheduler.call(steps(self.device(call.on)), self.process) or 0)
        except IoctlError as error:
            return Answer(error.name)


KINDS = {
    "VFIO_CHECK_EXTENSION": "container",
    "VFIO_SET_IOMMU": "container",
    "VFIO_IOMMU_GET_INFO": "container",
    "VFIO_IOMMU_MAP_DMA": "container",
    "VFIO_IOMMU_UNMAP_DMA": "container",
    "VFIO_IOMMU_DIRTY_PAGES": "container",
    "VFIO_GROUP_UNSET_CONTAINER": "group",
    "VFIO_GROUP_GET_STATUS": "group",
    "VFIO_DEVICE_FEATURE": "device",
    "VFIO_DEVICE_RESET": "device",
    "VFIO_DEVICE_GET_INFO": "device",
    "VFIO_DEVICE_GET_REGION_INFO": "device",
    "VFIO_DEVICE_IOEVENTFD": "device",
    "VFIO_MIG_GET_PRECOPY_INFO": "data",
}


def _plain(result) -> int | str:
    return result.ret if result.err is None else result.err
