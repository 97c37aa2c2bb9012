# SPDX-License-Identifier: MIT
"""Bad arguments: random bytes, mutated good ones, lying sizes, and addresses where memory ends or is none."""

import random
import struct
from collections.abc import Callable, Mapping
from typing import Final

from tests.fuzzing import model
from tests.fuzzing.client import ARGUMENT_SIZE, BITMAP_SIZE, DATA_PAGES, Client
from tests.fuzzing.model import PAGE
from tests.fuzzing.walk import Walk
from tests.fuzzing.world import Handle
from vfioemu.testing.process import MemoryEventFd
from vfioemu.uapi import constants as c
from vfioemu.uapi.registry import FEATURES

KERNEL: Final = 0xFFFF_8000_0000_0000
U64: Final = (1 << 64) - 1
NUMBERS: Final = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 23, 24, 31, 32, 47, 48, 64, 511, 512, 513),
    *(0x7FF, 0x800, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 0x10000, 1 << 21, 0xFEDF_F000, 0xFEE0_0000),
    *(1 << 28, (1 << 28) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 43, (1 << 43) + PAGE),
    *(1 << 47, (1 << 48) - PAGE, 1 << 48, 1 << 62, 1 << 63, KERNEL, U64 - PAGE, U64 - PAGE + 1, U64),
)
MIDDLING: Final = range(1 << 28, 1 << 43)
"""Sizes of mappings that are avoided: their bitmaps take minutes to look at, and are like those of smaller ones."""


def is_avoided(map_dma: bytes) -> bool:
    """Whether these are arguments of mappings that the model does not follow: up to 2^64, or with huge bitmaps."""
    iova, size = (int.from_bytes(map_dma[at : at + 8], "little") for at in (16, 24))
    return iova + size == 1 << 64 or size in MIDDLING


class Arguments:
    """Makes arguments.

    Args:
        walk: the walk in whose world they are used.
        rng: decides.
    """

    def __init__(self, walk: Walk, rng: random.Random) -> None:
        self.walk = walk
        self.rng = rng
        self._good: Mapping[str, Callable[[Handle], bytes]] = {
            "VFIO_IOMMU_GET_INFO": lambda _: struct.pack(
                "<IIQII", rng.choice([16, 24, 72, 120, 4096]), 0, 0, 0, 0
            ),
            "VFIO_IOMMU_MAP_DMA": self._map,
            "VFIO_IOMMU_UNMAP_DMA": self._unmap,
            "VFIO_IOMMU_DIRTY_PAGES": self._dirty_pages,
            "VFIO_GROUP_GET_STATUS": lambda _: struct.pack("<II", 8, 0),
            "VFIO_GROUP_SET_CONTAINER": self._fd,
            "VFIO_GROUP_GET_DEVICE_FD": self._name,
            "VFIO_DEVICE_GET_INFO": lambda _: struct.pack("<6I", 24, 0, 0, 0, 0, 0),
            "VFIO_DEVICE_GET_REGION_INFO": lambda _: struct.pack("<4IQQ", 32, 0, rng.randrange(12), 0, 0, 0),
            "VFIO_DEVICE_GET_IRQ_INFO": lambda _: struct.pack("<4I", 16, 0, rng.randrange(7), 0),
            "VFIO_DEVICE_SET_IRQS": self._set_irqs,
            "VFIO_DEVICE_FEATURE": self._feature,
            "VFIO_MIG_GET_PRECOPY_INFO": lambda _: struct.pack("<IIQQ", 24, 0, 0, 0),
        }

    def number(self) -> int:
        """A number at which something may go wrong."""
        rng = self.rng
        if rng.random() < 0.2:
            return rng.getrandbits(rng.choice([8, 16, 32, 64]))
        return (rng.choice(NUMBERS) + rng.choice([0, 0, 0, 0, 1, -1, PAGE])) & U64

    def payload(self, name: str, handle: Handle) -> bytearray:
        """The bytes of an argument: noise, or a good one, mostly spoilt."""
        rng = self.rng
        good = self._good.get(name)
        if good is None or rng.random() < 0.1:
            return bytearray(rng.randbytes(rng.choice([0, 1, 4, 8, 16, 24, 32, 48, 64, 200])))
        payload = bytearray(good(handle))
        for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3])):
            self._spoil(payload)
        return payload

    def place(self, client: Client, payload: bytes | bytearray) -> int:
        """Put a payload somewhere, or nowhere; returns the address that the call is given."""
        rng, process, start = self.rng, client.process, client.argument
        process.memory.protect(start, ARGUMENT_SIZE, "rw")
        process.memory.poke(start, bytes([rng.choice([0, 0xCC, 0xFF])]) * ARGUMENT_SIZE)
        where = rng.choices(["here", "tail", "cut", "odd", "null", "bad", "kernel", "read-only"], _WHERE)[0]
        if where == "tail":
            start += ARGUMENT_SIZE - len(payload)
        elif where == "cut":
            start += ARGUMENT_SIZE - rng.randint(0, len(payload))
        elif where == "odd":
            start += rng.randrange(1, PAGE)
        if where in ("null", "bad", "kernel"):
            return {"null": 0, "bad": start + ARGUMENT_SIZE + PAGE, "kernel": KERNEL}[where]
        process.memory.poke(start, payload[: client.argument + ARGUMENT_SIZE - start])
        if where == "read-only":
            process.memory.protect(client.argument, ARGUMENT_SIZE, "r")
        return start

    @staticmethod
    def clear(client: Client) -> None:
        """Let the client use its argument area again."""
        client.process.memory.protect(client.argument, ARGUMENT_SIZE, "rw")

    def _spoil(self, payload: bytearray) -> None:
        rng = self.rng
        kind = rng.randrange(6)
        if not payload or kind == 0:
            payload[:] = payload[: rng.randint(0, len(payload))]
        elif kind == 1:
            payload += rng.randbytes(rng.choice([1, 8, 24]))
        elif kind == 2:
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        elif kind == 3 and len(payload) >= 4:
            payload[:4] = (self.number() & 0xFFFFFFFF).to_bytes(4, "little")  # argsz
        else:
            width = rng.choice([4, 8])
            at = rng.randrange(0, max(1, len(payload) - width + 1), 4)
            payload[at : at + width] = (self.number() & ((1 << 8 * width) - 1)).to_bytes(width, "little")

    # --- good ones ---

    def _map(self, handle: Handle) -> bytes:
        vaddr = handle.client.data + self.rng.randrange(DATA_PAGES) * PAGE
        size = self.rng.randint(1, 8) * PAGE
        return struct.pack(
            "<IIQQQ", 32, self.rng.choice([1, 2, 3, 3, 4]), vaddr, self.walk.iova(handle), size
        )

    def _unmap(self, handle: Handle) -> bytes:
        flags = self.rng.choice([0, 0, 1, 1, 2, 4])
        iova, size = self._range(handle)
        if flags == 2:
            iova = size = 0
        return struct.pack("<IIQQ", 48, flags, iova, size) + self._bitmap(handle.client, size)

    def _dirty_pages(self, handle: Handle) -> bytes:
        flags = self.rng.choice([1, 1, 2, 4, 4, 4])
        iova, size = self._range(handle)
        return struct.pack("<IIQQ", 48, flags, iova, size) + self._bitmap(handle.client, size)

    def _range(self, handle: Handle) -> tuple[int, int]:
        maps = self.walk.maps(handle)
        if not maps:
            return self.rng.randrange(40) * PAGE, self.rng.randint(1, 64) * PAGE
        first, last = sorted(self.rng.choices(maps, k=2), key=lambda mapping: mapping.iova)
        iova = max(0, first.iova - self.rng.choice([0, 0, 3, 64]) * PAGE)
        return iova, last.iova + last.size - iova

    def _bitmap(self, client: Client, size: int) -> bytes:
        needed = -(-(size // PAGE) // 64) * 8
        place = self.rng.choice([client.bitmap] * 6 + [client.bitmap + BITMAP_SIZE - needed, 0, KERNEL])
        place += self.rng.choice([0] * 8 + [4, BITMAP_SIZE - 8])
        return struct.pack("<QQQ", PAGE, needed, place & U64)

    def _fd(self, handle: Handle) -> bytes:
        mine = [other for other in self.walk.world.handles if other.client is handle.client]
        containers = [other.number for other in mine if isinstance(other.thing, model.Container)]
        numbers = [*containers, *containers, *handle.client.process.fds, -1, 999]
        return struct.pack("<i", self.rng.choice(numbers))

    def _name(self, handle: Handle) -> bytes:
        name = self.walk.world.name(self.walk.world.number(handle)).encode()
        return self.rng.choice(
            [name + b"\0"] * 4 + [name, b"\0", b"x" * 4095 + b"\0", b"x" * 4096, name + b" \0"]
        )

    def _set_irqs(self, handle: Handle) -> bytes:
        rng = self.rng
        flags = rng.choice([1, 2, 4, 4]) | rng.choice([8, 16, 32, 32, 32])
        count = rng.choice([0, 1, 1, 1, 4, 5])
        data = b""
        if flags & 4:
            fds = handle.client.process.fds
            eventfds = [number for number, opened in fds.items() if isinstance(opened.what, MemoryEventFd)]
            numbers = rng.choice([eventfds, eventfds, [*fds, -1]])
            data = b"".join(struct.pack("<i", rng.choice(numbers)) for _ in range(count))
        elif flags & 2:
            data = rng.randbytes(count)
        index, start = rng.choice([0, 1, 1, 2, 5]), rng.choice([0, 0, 0, 1])
        return struct.pack("<5I", 20 + len(data), flags, index, start, count) + data

    def _feature(self, handle: Handle) -> bytes:
        rng = self.rng
        features = list(FEATURES.values())
        feature = rng.choices(features, [6 if feature.served else 1 for feature in features])[0]
        flags = rng.choice([c.VFIO_DEVICE_FEATURE_GET, c.VFIO_DEVICE_FEATURE_SET, feature.ops])
        flags |= rng.choice([0, 0, 0, c.VFIO_DEVICE_FEATURE_PROBE])
        body = bytes(feature.payload.SIZE) if feature.payload is not None else b""
        if feature.name == "MIG_DEVICE_STATE":
            body = struct.pack("<Ii", rng.randrange(9), -1)
        elif feature.name == "DMA_LOGGING_START":
            body = struct.pack("<QIIQ", PAGE, 1, 0, handle.client.bitmap)
            handle.client.process.memory.poke(handle.client.bitmap, struct.pack("<QQ", 0, 64 * PAGE))
        elif feature.name == "DMA_LOGGING_REPORT":
            body = struct.pack("<QQQQ", 0, 64 * PAGE, PAGE, handle.client.bitmap)
        return struct.pack("<II", 8 + len(body), feature.number | flags) + body


_WHERE: Final = (12, 3, 2, 1, 1, 1, 1, 2)
