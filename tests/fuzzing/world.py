# SPDX-License-Identifier: MIT
"""A machine and its model side by side: every call is made on both, and the answers must agree.

`World` has two in-memory processes and a handful of devices on which to call; its methods are what a client does, with
any arguments, and raise AssertionError where the core and the model disagree. `check` compares everything that can be
seen from outside: memory, gauges, locked pages, dma_avail.
"""

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.fuzzing import model
from tests.fuzzing.client import (
    ARGUMENT_SIZE,
    LAYOUT,
    OTHERS,
    RANGES,
    Client,
    FlatBitmap,
    Layout,
    machine_spec,
)
from tests.fuzzing.model import PAGE, Refusal, oracle
from tests.fuzzing.model.oracle import Command
from vfioemu.core.base.profile import Quirks
from vfioemu.core.machine import Machine
from vfioemu.devices.registry import load_models
from vfioemu.testing.holdings import holdings
from vfioemu.testing.process import Result, errno_name
from vfioemu.testing.scheduler import Scheduler
from vfioemu.uapi import constants as c


class DataFile:
    """A migration data fd, and the session that it is of, if the model follows that."""

    def __init__(self, session: oracle.Session | None = None) -> None:
        self.session = session


Thing: TypeAlias = model.Container | model.Group | model.Device | DataFile

COMMAND: Final = struct.Struct("<8Q")
WINDOW: Final = 0x1000


@dataclass(eq=False, slots=True)
class Handle:
    """An open fd of a client, and what it is in the model."""

    client: Client
    number: int
    thing: Thing


class World:
    """A machine, its model, and clients.

    Args:
        quirks: of the machine. With "clean" bitmaps must be handed over zeroed, and mean exactly what they say.
        limit: dma_entry_limit.
        layout: the devices.
        scheduler: shared by the clients whose calls shall overlap.
    """

    def __init__(
        self,
        quirks: Quirks = "recorded",
        limit: int = 12,
        layout: Layout = LAYOUT,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.machine = Machine(machine_spec(layout, quirks, limit), load_models())
        self.quirks = quirks
        self.limit = limit
        self.scheduler = scheduler
        self.clients = [Client(self.machine, pid, scheduler) for pid in (1, 2)]
        self.groups = [model.Group(ranges=RANGES if backed else None) for _, backed in layout]
        self.devices = [
            model.Device(
                group=group,
                has_dma_unmap=device.has_dma_unmap,
                migration=oracle.Migration(oracle.FLAGS[variant]) if variant in oracle.FLAGS else None,
                logs=variant in oracle.LOGGING,
            )
            for (variant, _), group, device in zip(
                layout, self.groups, self.machine.devices.values(), strict=True
            )
        ]
        self.oracles = {
            device for device, (variant, _) in zip(self.devices, layout, strict=True) if variant not in OTHERS
        }
        self.handles: list[Handle] = []
        self.references: Counter[Thing] = Counter()

    def number(self, handle: Handle) -> int:
        """The number of the group that an fd is of."""
        thing = handle.thing
        if not isinstance(thing, model.Group | model.Device):
            raise TypeError("not of a group")
        return self.groups.index(thing if isinstance(thing, model.Group) else thing.group)

    def name(self, number: int) -> str:
        """What GET_DEVICE_FD calls a device."""
        return self.machine.devices[f"d{number}"].name

    def is_busy(self, number: int) -> bool:
        """Whether a group, or a device of it, is open."""
        return self._group_users(self.groups[number]) > 0

    # --- the model's side of calls that more than one object takes part in ---

    def join(self, group: model.Group, thing: Thing | None) -> None:
        """A group is told to go into what an fd refers to; None for what is not emulated."""
        if group.container is not None:
            raise Refusal("EINVAL")
        if not isinstance(thing, model.Container):
            raise Refusal("EBADFD")
        thing.add_group(group)

    def leave(self, group: model.Group) -> None:
        """A group is told to leave its container."""
        if group.container is None:
            raise Refusal("EINVAL")
        if self._open_devices(group):
            raise Refusal("EBUSY")
        group.container.remove_group(group)

    def thing(self, client: Client, number: int) -> Thing | None:
        """What an fd of a client refers to; None for what is not emulated."""
        return next((h.thing for h in self.handles if h.client is client and h.number == number), None)

    # --- fds ---

    def open_container(self, client: Client) -> Handle:
        """Open /dev/vfio/vfio."""
        result = client.process.open("/dev/vfio/vfio")
        return self.opened(
            client,
            result,
            model.Container(devices=self.devices, limit=self.limit, clean=self.quirks == "clean"),
        )

    def open_group(self, client: Client, number: int) -> Handle | None:
        """Open a group's node: one at a time, and not as long as a device of it is open."""
        group = self.groups[number]
        result = client.process.open(f"/dev/vfio/{number}")
        if self._group_users(group):
            _agree("open group", result, Result(-1, "EBUSY"))
            return None
        return self.opened(client, result, group)

    def open_device(self, group: Handle, number: int) -> Handle | None:
        """Get a device fd from a group fd."""
        device = self.devices[number]

        def expect() -> int:
            if device.group is not group.thing:
                raise Refusal("ENODEV")
            if not device.opened:
                device.open()
            return 0

        expected = _expected(expect)
        result = self._ioctl(group, c.VFIO_GROUP_GET_DEVICE_FD, f"{self.name(number)}\0".encode())
        if expected.err is None and result.err is None:
            return self.opened(group.client, result, device)
        _agree("get device", result, expected)
        return None

    def opened(self, client: Client, result: Result, thing: Thing) -> Handle:
        """An fd has been given out."""
        assert result.err is None, f"an fd must be given out, but {result.err}"
        handle = Handle(client, result.ret, thing)
        self.handles.append(handle)
        self.references[thing] += 1
        return handle

    def dup(self, handle: Handle, client: Client) -> Handle:
        """Make another fd for the same file, in the same process or another."""
        number = handle.client.process.send(handle.number, client.process)
        return self.opened(client, Result(number), handle.thing)

    def close(self, handle: Handle) -> None:
        """Close an fd; the last one of a file releases it."""
        self.handles.remove(handle)
        _agree("close", handle.client.process.close(handle.number), Result(0))
        self.references[handle.thing] -= 1
        self._released(handle.thing)

    def exit(self, client: Client) -> None:
        """A process dies with all it has, and a new one takes its place."""
        client.process.exit()
        client.alive = False
        dead = [handle for handle in self.handles if handle.client is client]
        self.handles = [handle for handle in self.handles if handle.client is not client]
        for handle in sorted(dead, key=lambda handle: handle.number):
            self.references[handle.thing] -= 1
            self._released(handle.thing)
        self.replace(client)

    def replace(self, client: Client) -> Client:
        """Let a new process take the place of one that has died."""
        new = Client(self.machine, client.process.caller.pid, self.scheduler)
        self.clients[self.clients.index(client)] = new
        return new

    # --- groups and containers ---

    def set_container(self, group: Handle, other: Handle) -> None:
        """VFIO_GROUP_SET_CONTAINER with any fd of the same process."""
        expected = _expected(lambda: self.join(_group(group), other.thing))
        payload = other.number.to_bytes(4, "little")
        _agree("set container", self._ioctl(group, c.VFIO_GROUP_SET_CONTAINER, payload), expected)

    def unset_container(self, group: Handle) -> None:
        """VFIO_GROUP_UNSET_CONTAINER."""
        expected = _expected(lambda: self.leave(_group(group)))
        _agree("unset container", self._call(group, c.VFIO_GROUP_UNSET_CONTAINER, 0), expected)

    def set_iommu(self, handle: Handle, type_: int) -> None:
        """VFIO_SET_IOMMU."""
        expected = _expected(lambda: _container(handle).set_iommu(type_))
        if expected.err is None:
            _container(handle).limit = self.limit
        _agree("set iommu", self._call(handle, c.VFIO_SET_IOMMU, type_), expected)

    # --- mappings ---

    def map(self, handle: Handle, *, flags: int, vaddr: int, iova: int, size: int) -> None:
        """VFIO_IOMMU_MAP_DMA."""
        payload = struct.pack("<IIQQQ", 32, flags, vaddr, iova, size)
        expected = _expected(
            lambda: _container(handle).map(handle.client, flags=flags, vaddr=vaddr, iova=iova, size=size)
        )
        _agree("map", self._ioctl(handle, c.VFIO_IOMMU_MAP_DMA, payload), expected)

    def unmap(
        self, handle: Handle, *, flags: int, iova: int, size: int, dirty: bytearray | None = None
    ) -> None:
        """VFIO_IOMMU_UNMAP_DMA; `dirty` is what the bitmap holds before, for GET_DIRTY_BITMAP."""
        payload = struct.pack("<IIQQ", 48 if dirty is not None else 24, flags, iova, size)
        if dirty is not None:
            payload += struct.pack("<QQQ", PAGE, len(dirty), handle.client.bitmap)
            handle.client.process.memory.poke(handle.client.bitmap, dirty)
        bitmap = None if dirty is None else FlatBitmap(dirty, PAGE)
        unmapped = []
        expected = _expected(
            lambda: unmapped.append(
                _container(handle).unmap(flags=flags, iova=iova, size=size, bitmap=bitmap)
            )
        )
        _agree("unmap", self._ioctl(handle, c.VFIO_IOMMU_UNMAP_DMA, payload), expected)
        told = int.from_bytes(handle.client.process.memory.peek(handle.client.argument + 16, 8), "little")
        assert told == (unmapped[0] if unmapped else size), f"unmap: {told:#x} bytes"
        if dirty is not None:
            self._same_bitmap(handle.client, dirty)

    # --- dirty tracking ---

    def track(self, handle: Handle, *, on: bool) -> None:
        """VFIO_IOMMU_DIRTY_PAGES, START or STOP."""
        container = _container(handle)
        expected = _expected(container.start if on else container.stop)
        payload = struct.pack("<II", 8, 1 if on else 2)
        _agree("track", self._ioctl(handle, c.VFIO_IOMMU_DIRTY_PAGES, payload), expected)

    def get_bitmap(self, handle: Handle, *, iova: int, size: int, pgsize: int, bitmap: bytearray) -> None:
        """VFIO_IOMMU_DIRTY_PAGES, GET_BITMAP; `bitmap` is what it holds before."""
        client = handle.client
        client.process.memory.poke(client.bitmap, bitmap)
        payload = struct.pack("<IIQQQQQ", 48, 4, iova, size, pgsize, len(bitmap), client.bitmap)
        expected = _expected(
            lambda: _container(handle).get(iova=iova, size=size, bitmap=FlatBitmap(bitmap, pgsize))
        )
        _agree("get bitmap", self._ioctl(handle, c.VFIO_IOMMU_DIRTY_PAGES, payload), expected)
        self._same_bitmap(client, bitmap)

    # --- devices ---

    def pin(self, handle: Handle, iova: int, npages: int, prot: int) -> None:
        """The device pins pages."""
        expected = _expected(lambda: _device(handle).pin(iova, npages, prot))
        _agree("pin", self.command(handle, Command.PIN, iova, npages, prot), expected)

    def unpin(self, handle: Handle, iova: int, npages: int) -> None:
        """The device unpins pages."""
        expected = _expected(lambda: _device(handle).unpin(iova, npages))
        _agree("unpin", self.command(handle, Command.UNPIN, iova, npages), expected)

    def dma_write(self, handle: Handle, iova: int, size: int, byte: int) -> None:
        """The device writes guest memory."""
        expected = _expected(lambda: _device(handle).write(iova, bytes([byte]) * size, handle.client))
        _agree("dma write", self.command(handle, Command.RW, iova, size, 1, byte), expected)

    def dma_read(self, handle: Handle, iova: int, size: int) -> None:
        """The device reads guest memory."""
        data: list[bytes] = []
        expected = _expected(lambda: data.append(_device(handle).read(iova, size, handle.client)))
        _agree("dma read", self.command(handle, Command.RW, iova, size, 0), expected)
        if data:
            assert self._window(handle, size) == data[0], "dma read: other bytes"

    def notifications(self, handle: Handle) -> None:
        """Which dma_unmap callbacks the device has got."""
        device = _device(handle)
        _agree("notifications", self.command(handle, Command.NOTIFY), Result(len(device.notes)))
        words = struct.unpack(f"<{2 * len(device.notes)}Q", self._window(handle, 16 * len(device.notes)))
        told = sorted(zip(words[::2], words[1::2], strict=True))
        assert told == sorted(device.notes), f"notifications: {told}"
        device.notes.clear()

    # --- what can be seen from outside ---

    def check(self) -> None:
        """Compare memory, locked pages and gauges with the model."""
        for client in self.clients:
            data = client.process.memory.peek(client.data, len(client.contents))
            assert data == client.contents, (
                f"process {client.process.caller.pid}: its memory is not as it must be"
            )
            locked = sum(
                m.locked
                for container in self.containers
                for m in container.maps.values()
                if m.space is client
            )
            assert client.process.locked_pages == locked, (
                f"{client.process.locked_pages} locked, not {locked}"
            )
        gauges, expected = holdings(self.machine), self.expected_gauges()
        wrong = {
            name: (gauges.get(name, 0), value)
            for name, value in expected.items()
            if gauges.get(name, 0) != value
        }
        assert not wrong, f"gauges (is, must be): {wrong}"
        avail = sorted(g["dma_avail"] for g in self.machine.gauges().values() if "dma_avail" in g)
        left = sorted(c.limit - len(c.maps) for c in self.containers if c.type is not None)
        assert avail == left, f"dma_avail of all containers: {avail}, not {left}"

    @property
    def containers(self) -> list[model.Container]:
        """All containers that still exist: those with an open fd or a group."""
        found = {h.thing: None for h in self.handles if isinstance(h.thing, model.Container)}
        found |= {group.container: None for group in self.groups if group.container is not None}
        return list(found)

    def expected_gauges(self) -> dict[str, int]:
        """What `holdings` must say, of what the model knows."""
        maps = [mapping for container in self.containers for mapping in container.maps.values()]
        return {
            "containers": len(self.containers),
            "groups": sum(1 for group in self.groups if self._group_users(group)),
            "opened_devices": sum(1 for device in self.devices if device.opened),
            "mappings": len(maps),
            "mapped_bytes": sum(mapping.size for mapping in maps),
            "pins": sum(len(mapping.pins) for mapping in maps),
            "pin_references": sum(sum(mapping.pins.values()) for mapping in maps),
            "held_pins": sum(sum(device.pins.values()) for device in self.devices),
            "locked_pages": sum(mapping.locked for mapping in maps),
            "bitmaps": sum(mapping.bitmap is not None for mapping in maps),
            "bitmap_bytes": sum(-(-m.npages // 64) * 8 + 8 for m in maps if m.bitmap is not None),
            "vaddr_invalid": sum(not mapping.vaddr_valid for mapping in maps),
        }

    # --- inside ---

    def _released(self, thing: Thing) -> None:
        if self.references[thing] > 0:
            return
        del self.references[thing]
        if isinstance(thing, model.Device):
            thing.close()
            thing = thing.group
        if isinstance(thing, model.Group) and not self._group_users(thing) and thing.container is not None:
            thing.container.remove_group(thing)

    def _open_devices(self, group: model.Group) -> int:
        return sum(device.opened for device in self.devices if device.group is group)

    def _group_users(self, group: model.Group) -> int:
        return self.references[group] + self._open_devices(group)

    def _call(self, handle: Handle, cmd: int, arg: int) -> Result:
        result = handle.client.process.ioctl(handle.number, cmd, arg)
        return Result(0) if result.ret > 0 else result

    def _ioctl(self, handle: Handle, cmd: int, payload: bytes) -> Result:
        process = handle.client.process
        process.memory.poke(handle.client.argument, payload)
        return process.ioctl(handle.number, cmd, handle.client.argument)

    def command(self, handle: Handle, *words: int) -> Result:
        """Give an oracle device any command; what it says."""
        process, argument = handle.client.process, handle.client.argument
        command = COMMAND.pack(*(word & (1 << 64) - 1 for word in words), *[0] * (8 - len(words)))
        process.memory.poke(argument, command)
        assert process.pwrite(handle.number, argument, COMMAND.size, 0).ret == COMMAND.size
        assert process.pread(handle.number, argument, COMMAND.size, 0).ret == COMMAND.size
        ret = int.from_bytes(process.memory.peek(argument, 8), "little", signed=True)
        return Result(ret) if ret >= 0 else Result(-1, errno_name(-ret))

    def _window(self, handle: Handle, size: int) -> bytes:
        process = handle.client.process
        data = b""
        while len(data) < size:
            part = min(size - len(data), ARGUMENT_SIZE)
            got = process.pread(handle.number, handle.client.argument, part, WINDOW + len(data))
            assert got.ret == part
            data += process.memory.peek(handle.client.argument, part)
        return data

    def _same_bitmap(self, client: Client, expected: bytearray) -> None:
        got = client.process.memory.peek(client.bitmap, len(expected))
        assert got == expected, f"bitmap {got.hex()}, not {expected.hex()}"


def _container(handle: Handle) -> model.Container:
    if not isinstance(handle.thing, model.Container):
        raise TypeError("not a container")
    return handle.thing


def _group(handle: Handle) -> model.Group:
    if not isinstance(handle.thing, model.Group):
        raise TypeError("not a group")
    return handle.thing


def _device(handle: Handle) -> model.Device:
    if not isinstance(handle.thing, model.Device):
        raise TypeError("not a device")
    return handle.thing


def _expected(action: Callable[[], int | None]) -> Result:
    try:
        return Result(action() or 0)
    except Refusal as refusal:
        return Result(-1, refusal.err)


def _agree(what: str, got: Result, expected: Result) -> None:
    assert got == expected, f"{what}: {got.err or got.ret}, not {expected.err or expected.ret}"
