# SPDX-License-Identifier: MIT
"""A client that makes sense most of the time: random well-formed calls, each held against the model."""

import random
from typing import Final, TypeVar

from tests.fuzzing import model
from tests.fuzzing.client import DATA_PAGES, Client
from tests.fuzzing.model import PAGE
from tests.fuzzing.world import Handle, World

T = TypeVar("T", bound=model.Container | model.Group | model.Device)

MAX_HANDLES: Final = 24
FAR_PAGES: Final = (0xFEDFF, 0xFEE00, 0xFEF00, 0xFFFFFFFFF, 0x1000000000)


class Walk:
    """Makes random calls in a world.

    Args:
        world: where.
        rng: decides.
        groups: the numbers of the groups that it may touch.
    """

    def __init__(self, world: World, rng: random.Random, groups: range) -> None:
        self.world = world
        self.rng = rng
        self.groups = groups
        self._calls = [
            (1, self._open_container),
            (2, self._open_group),
            (3, self.set_up),
            (1, self._open_device),
            (2, self._close),
            (1, self._dup),
            (1, self._set_container),
            (1, self._unset_container),
            (1, self._let_go),
            (1, self._set_iommu),
            (9, self._map),
            (4, self._unmap),
            (2, self._unmap_dirty),
            (1, self._unmap_all),
            (3, self._track),
            (6, self._get_bitmap),
            (9, self._pin),
            (5, self._unpin),
            (8, self._dma_write),
            (4, self._dma_read),
            (2, self._notifications),
            (2, self._protect),
            (0.2, self._exit),
        ]
        self._weights = [weight for weight, _ in self._calls]

    def step(self) -> str:
        """Make one call; returns its name."""
        call = self.rng.choices(self._calls, self._weights)[0][1]
        call()
        return call.__name__.lstrip("_")

    # --- choosing ---

    def client(self) -> Client:
        """One of the processes, mostly the first."""
        return self.world.clients[self.rng.random() < 0.2]

    def handle(self, kind: type[T]) -> Handle | None:
        """An fd of a kind, of those that it may touch."""
        mine = [handle for handle in self.world.handles if isinstance(handle.thing, kind)]
        return self.rng.choice(mine) if mine else None

    def device(self) -> Handle | None:
        """A device fd on which commands can be given."""
        oracles = self.world.oracles
        mine = [handle for handle in self.world.handles if handle.thing in oracles]
        return self.rng.choice(mine) if mine else None

    def maps(self, handle: Handle) -> list[model.Mapping]:
        """The mappings of the container that an fd leads to, in IOVA order."""
        thing = handle.thing
        container = thing.container if isinstance(thing, model.Device) else thing
        if not isinstance(container, model.Container):
            return []
        return sorted(container.maps.values(), key=lambda mapping: mapping.iova)

    def iova(self, handle: Handle) -> int:
        """An IOVA in or beside a mapping, or anywhere low."""
        maps = self.maps(handle)
        if not maps or self.rng.random() < 0.1:
            return self.rng.randrange(40) * PAGE
        mapping = self.rng.choice(maps)
        return max(0, mapping.iova + self.rng.randint(-1, min(mapping.npages, 40)) * PAGE)

    # --- files ---

    def _open_container(self) -> None:
        if len(self.world.handles) < MAX_HANDLES:
            self.world.open_container(self.client())

    def _open_group(self) -> None:
        if len(self.world.handles) < MAX_HANDLES:
            self.world.open_group(self.client(), self.rng.choice(self.groups))

    def set_up(self) -> None:
        """Do all that it takes to get at a device."""
        number = self.rng.choice(self.groups)
        if len(self.world.handles) >= MAX_HANDLES or self.world.is_busy(number):
            return
        group = self.world.open_group(self.client(), number)
        if group is None:
            return
        mine = [
            h for h in self.world.handles if isinstance(h.thing, model.Container) and h.client is group.client
        ]
        container = self.rng.choice(mine) if mine else self.world.open_container(group.client)
        self.world.set_container(group, container)
        if self.rng.random() < 0.9:
            self.world.set_iommu(container, self.rng.choice([3, 3, 3, 3, 3, 3, 1]))
            self.world.open_device(group, number)

    def _open_device(self) -> None:
        if len(self.world.handles) < MAX_HANDLES and (group := self.handle(model.Group)):
            self.world.open_device(group, self.rng.choice([*self.groups, self.world.number(group)]))

    def _close(self) -> None:
        mine = self.world.handles
        if mine and self.rng.random() < len(mine) / MAX_HANDLES:
            self.world.close(self.rng.choice(mine))

    def _dup(self) -> None:
        mine = self.world.handles
        if mine and len(mine) < MAX_HANDLES:
            self.world.dup(self.rng.choice(mine), self.client())

    def _set_container(self) -> None:
        group = self.handle(model.Group)
        mine = [h for h in self.world.handles if group and h.client is group.client]
        if group and mine:
            self.world.set_container(group, self.rng.choice(mine))

    def _unset_container(self) -> None:
        if group := self.handle(model.Group):
            self.world.unset_container(group)

    def _let_go(self) -> None:
        """Close a group's devices and take it out of its container."""
        if group := self.handle(model.Group):
            for device in list(self.world.handles):
                if isinstance(device.thing, model.Device) and device.thing.group is group.thing:
                    self.world.close(device)
            self.world.unset_container(group)

    def _set_iommu(self) -> None:
        if container := self.handle(model.Container):
            self.world.set_iommu(container, self.rng.choice([3, 3, 1, 6, 9, 2]))

    # --- mappings ---

    def _map(self) -> None:
        if not (container := self.handle(model.Container)):
            return
        rng, maps = self.rng, self.maps(container)
        size = rng.randint(1, 24) * PAGE
        iova = rng.randrange(100) * PAGE
        if maps and rng.random() < 0.4:
            last = rng.choice(maps)
            iova = last.iova + last.size + rng.choice([0, 0, 1, 5]) * PAGE
        elif rng.random() < 0.05:
            iova = rng.choice(FAR_PAGES) * PAGE
        if iova + size >= 1 << 64:
            return
        vaddr = container.client.data + rng.choice([0, 0, 8, DATA_PAGES - 20, DATA_PAGES - 4]) * PAGE
        flags = rng.choice([3, 3, 3, 3, 3, 1, 2, 4])
        if flags == 4 and maps:
            iova, size = (mapping := rng.choice(maps)).iova, mapping.size
        self.world.map(container, flags=flags, vaddr=vaddr, iova=iova, size=size)

    def _unmap(self) -> None:
        if not (container := self.handle(model.Container)):
            return
        maps = self.maps(container)
        if maps and self.rng.random() < 0.7:
            first, last = sorted(self.rng.choices(maps, k=2), key=lambda mapping: mapping.iova)
            iova, size = first.iova, last.iova + last.size - first.iova
        else:
            iova, size = self.rng.randrange(100) * PAGE, self.rng.randint(0, 60) * PAGE
        self.world.unmap(container, flags=self.rng.choice([0, 0, 0, 4]), iova=iova, size=size)

    def _unmap_dirty(self) -> None:
        if container := self.handle(model.Container):
            iova, size, bitmap = self._range(container)
            self.world.unmap(container, flags=1, iova=iova, size=size, dirty=bitmap)

    def _unmap_all(self) -> None:
        if container := self.handle(model.Container):
            self.world.unmap(container, flags=self.rng.choice([2, 6]), iova=0, size=0)

    # --- dirty tracking ---

    def _track(self) -> None:
        if container := self.handle(model.Container):
            self.world.track(container, on=self.rng.random() < 0.75)

    def _get_bitmap(self) -> None:
        if container := self.handle(model.Container):
            iova, size, bitmap = self._range(container)
            pgsize = self.rng.choice([PAGE] * 12 + [2 * PAGE])
            self.world.get_bitmap(container, iova=iova, size=size, pgsize=pgsize, bitmap=bitmap)

    def _range(self, container: Handle) -> tuple[int, int, bytearray]:
        """A range around some mappings, with a bitmap that is mostly large enough for it."""
        rng, maps = self.rng, [m for m in self.maps(container) if m.iova < 1 << 30 and m.size < 1 << 24]
        if not maps:
            return 0, 128 * PAGE, bytearray(16)
        first, last = maps[rng.randrange(len(maps))], maps[-1]
        iova = max(0, first.iova - rng.choice([0, 0, 1, 7, 20, 64]) * PAGE)
        size = last.iova + last.size - iova + rng.choice([0, 0, 3, 64]) * PAGE
        nbytes = -(-(size // PAGE) // 64) * 8
        if rng.random() < 0.05:
            nbytes -= 8
        fill = 0 if self.world.quirks == "clean" else rng.choice([0, 0, 0, 0xFF])
        return iova, size, bytearray([fill]) * min(nbytes, 2 * PAGE)

    # --- devices ---

    def _pin(self) -> None:
        if device := self.device():
            prot = self.rng.choice([3, 3, 1, 2, 0])
            self.world.pin(device, self.iova(device), self.rng.choice([1, 1, 2, 5, 9, 0, 513]), prot)

    def _unpin(self) -> None:
        if device := self.device():
            self.world.unpin(device, self.iova(device), self.rng.choice([1, 3, 20]))

    def _dma_write(self) -> None:
        if device := self.device():
            offset, size = self.rng.randrange(PAGE), self.rng.choice([0, 1, 8, 4096, 9000])
            self.world.dma_write(device, self.iova(device) + offset, size, self.rng.randrange(256))

    def _dma_read(self) -> None:
        if device := self.device():
            size = self.rng.choice([0, 1, 64, 4096, 9000])
            self.world.dma_read(device, self.iova(device) + self.rng.randrange(PAGE), size)

    def _notifications(self) -> None:
        if device := self.device():
            self.world.notifications(device)

    # --- memory ---

    def _exit(self) -> None:
        self.world.exit(self.client())

    def _protect(self) -> None:
        client = self.client()
        page = self.rng.randrange(DATA_PAGES)
        npages = min(self.rng.randint(1, 24), DATA_PAGES - page)
        protection = self.rng.choice(["rw", "rw", "r", "none"])
        client.process.memory.protect(client.data + page * PAGE, npages * PAGE, protection)
