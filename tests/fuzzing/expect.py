# SPDX-License-Identifier: MIT
"""What a container or group must answer to any bytes at all: the model, from the argument's address on.

Each function looks at the caller's memory as it is before the call, makes the call on the model, and returns what the
core must answer. `UserMemory` keeps what the model writes into dirty bitmaps, to be compared after the call.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from tests.fuzzing import model
from tests.fuzzing.client import ADDRESS_END, Client
from tests.fuzzing.model import PAGE, Refusal
from tests.fuzzing.world import Handle, World
from vfioemu.testing.process import Result
from vfioemu.uapi import constants as c


class UserMemory:
    """A bitmap at any address of a client: `model.UserBitmap`.

    Attributes:
        written: what the model has put where.
    """

    def __init__(self, client: Client, pgsize: int, size: int, data: int) -> None:
        self.pgsize = pgsize
        self.size = size
        self.valid = data + size <= ADDRESS_END
        self.written: list[tuple[int, bytes]] = []
        self._client = client
        self._data = data

    def load(self, offset: int) -> int:
        """The word at an offset; EFAULT."""
        address = self._data + offset
        data = bytearray(self._client.process.memory.read(address, 8))
        if len(data) < 8:
            raise Refusal("EFAULT")
        for start, new in self.written:
            for at in range(max(start, address), min(start + len(new), address + 8)):
                data[at - address] = new[at - start]
        return int.from_bytes(data, "little")

    def store(self, offset: int, data: bytes) -> None:
        """Write as far as possible; EFAULT."""
        address = self._data + offset
        fits = self._client.process.memory.accessible(address, len(data), write=True)
        if fits:
            self.written.append((address, data[:fits]))
        if fits < len(data):
            raise Refusal("EFAULT")

    def check(self) -> None:
        """The core must have written the same."""
        memory = self._client.process.memory
        state: dict[int, int] = {}
        for address, data in self.written:
            state.update(enumerate(data, address))
        for address, byte in state.items():
            got = memory.peek(address, 1)[0]
            assert got == byte, f"bitmap byte at {address:#x}: {got:#04x}, not {byte:#04x}"


class Expectation:
    """The model's answer to one call.

    Attributes:
        bitmap: where dirty bits went, if any.
    """

    def __init__(self, world: World, handle: Handle, arg: int) -> None:
        self.world = world
        self.handle = handle
        self.arg = arg
        self.bitmap: UserMemory | None = None
        self._memory = handle.client.process.memory

    def answer(self, name: str | None) -> Result | None:
        """Make the call `name` (None for an unknown number) on the model: what it answers, None if it cannot say."""
        try:
            if isinstance(self.handle.thing, model.Container):
                return Result(self._container(self.handle.thing, name))
            call = _GROUP_CALLS.get(name)
            if not isinstance(self.handle.thing, model.Group):
                return None
            if name is None or call is None:
                raise Refusal("ENOTTY")
            return Result(call(self, self.handle.thing))
        except Refusal as refusal:
            return Result(-1, refusal.err)

    def _read(self, offset: int, size: int) -> bytes:
        data = self._memory.read(self.arg + offset, size)
        if len(data) < size:
            raise Refusal("EFAULT")
        return data

    def _writable(self, offset: int, size: int) -> None:
        if self._memory.accessible(self.arg + offset, size, write=True) < size:
            raise Refusal("EFAULT")

    # --- container ---

    def _container(self, container: model.Container, name: str | None) -> int:
        if name == "VFIO_GET_API_VERSION":
            return 0
        if name == "VFIO_CHECK_EXTENSION":
            return self._extension(container)
        if name == "VFIO_SET_IOMMU":
            container.set_iommu(self.arg)
            container.limit = self.world.limit
            return 0
        if container.type is None:
            raise Refusal("EINVAL")
        call = _CONTAINER_CALLS.get(name)
        if name is None or call is None:
            raise Refusal("ENOTTY")
        return call(self, container)

    def _extension(self, container: model.Container) -> int:
        always = self.arg in (1, 3, 6, 9)
        emulated = any(not group.backed for group in container.groups)
        is_set = container.type is not None
        update_vaddr = self.arg == c.VFIO_UPDATE_VADDR and is_set and not emulated
        coherent = self.arg == c.VFIO_DMA_CC_IOMMU and is_set and not container.backed
        return int(always or update_vaddr or coherent)

    def get_info(self, container: model.Container) -> int:
        """VFIO_IOMMU_GET_INFO."""
        argsz = int.from_bytes(self._read(0, 16)[:4], "little")
        if argsz < 16:
            raise Refusal("EINVAL")
        caps = 48 + (16 + 16 * len(container.ranges) if container.ranges is not None else 0)
        if argsz >= 24 + caps:
            self._writable(24, caps)
        self._writable(0, min(argsz, 24))
        return 0

    def map_dma(self, container: model.Container) -> int:
        """VFIO_IOMMU_MAP_DMA."""
        argsz, flags, vaddr, iova, size = struct.unpack("<IIQQQ", self._read(0, 32))
        if argsz < 32:
            raise Refusal("EINVAL")
        container.map(self.handle.client, flags=flags, vaddr=vaddr, iova=iova, size=size)
        return 0

    def unmap_dma(self, container: model.Container) -> int:
        """VFIO_IOMMU_UNMAP_DMA."""
        argsz, flags, iova, size = struct.unpack("<IIQQ", self._read(0, 24))
        if argsz < 24 or flags & ~7 or (flags & 1 and (flags & 6 or argsz < 48)):
            raise Refusal("EINVAL")
        if flags & 1:
            self.bitmap = UserMemory(self.handle.client, *struct.unpack("<QQQ", self._read(24, 24)))
        container.unmap(flags=flags, iova=iova, size=size, bitmap=self.bitmap)
        self._writable(0, 24)
        return 0

    def dirty_pages(self, container: model.Container) -> int:
        """VFIO_IOMMU_DIRTY_PAGES."""
        if container.type == 1:
            raise Refusal("EACCES")
        argsz, flags = struct.unpack("<II", self._read(0, 8))
        if argsz < 8 or flags not in (1, 2, 4):
            raise Refusal("EINVAL")
        if flags == 4:
            if argsz < 48:
                raise Refusal("EINVAL")
            iova, size, *bitmap = struct.unpack("<5Q", self._read(8, 40))
            self.bitmap = UserMemory(self.handle.client, *bitmap)
            container.get(iova=iova, size=size, bitmap=self.bitmap)
        elif flags == 1:
            container.start()
        else:
            container.stop()
        return 0

    # --- group ---

    def get_status(self, _: model.Group) -> int:
        """VFIO_GROUP_GET_STATUS."""
        if int.from_bytes(self._read(0, 8)[:4], "little") < 8:
            raise Refusal("EINVAL")
        self._writable(0, 8)
        return 0

    def set_container(self, group: model.Group) -> int:
        """VFIO_GROUP_SET_CONTAINER."""
        number = int.from_bytes(self._read(0, 4), "little", signed=True)
        if number not in self.handle.client.process.fds:
            raise Refusal("EBADF")
        self.world.join(group, self.world.thing(self.handle.client, number))
        return 0

    def unset_container(self, group: model.Group) -> int:
        """VFIO_GROUP_UNSET_CONTAINER."""
        self.world.leave(group)
        return 0

    def get_device_fd(self, group: model.Group) -> int:
        """VFIO_GROUP_GET_DEVICE_FD; the new fd's number is not told."""
        name = self._memory.read(self.arg, PAGE)
        name, nul, _ = name.partition(b"\0")
        if not nul:
            raise Refusal("EINVAL" if len(name) == PAGE else "EFAULT")
        number = self.world.groups.index(group)
        device = self.world.devices[number]
        known = self.world.name(number)
        found, _, rest = name.partition(b" ")
        if found != known.encode() or (":" not in known and name != found):
            raise Refusal("ENODEV")
        if rest.strip(b" "):  # vfio-pci: options, of which a plain function knows none
            raise Refusal("EINVAL")
        if not device.opened:
            device.open()
        return 1


_CONTAINER_CALLS: Final[Mapping[str | None, Callable[[Expectation, model.Container], int]]] = {
    "VFIO_IOMMU_GET_INFO": Expectation.get_info,
    "VFIO_IOMMU_MAP_DMA": Expectation.map_dma,
    "VFIO_IOMMU_UNMAP_DMA": Expectation.unmap_dma,
    "VFIO_IOMMU_DIRTY_PAGES": Expectation.dirty_pages,
}
_GROUP_CALLS: Final[Mapping[str | None, Callable[[Expectation, model.Group], int]]] = {
    "VFIO_GROUP_GET_STATUS": Expectation.get_status,
    "VFIO_GROUP_SET_CONTAINER": Expectation.set_container,
    "VFIO_GROUP_UNSET_CONTAINER": Expectation.unset_container,
    "VFIO_GROUP_GET_DEVICE_FD": Expectation.get_device_fd,
}
