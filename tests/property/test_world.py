# SPDX-License-Identifier: MIT
"""Any sequence of calls by two processes: the core answers what the plain model answers, and leaves what it leaves."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vfioemu.testing import model
from vfioemu.testing.holdings import holdings
from vfioemu.testing.model import PAGE
from vfioemu.testing.world import DATA_PAGES, LAYOUT, Client, Handle, World

PAGES = st.integers(0, 40)
IOVA_PAGES = PAGES | st.sampled_from([0xFEDFF, 0xFEE00, 0xFEF00, 0xFFFFFFFFF, 0x1000000000])
LENGTHS = st.integers(1, 24)
CLIENTS = st.integers(0, 1)
WHICH = st.integers(0, 30)
MAP_FLAGS = st.sampled_from([1, 2, 3, 3, 3, 3, 4, 0, 5, 8])
BITMAP_SIZES = st.sampled_from([8, 16, 24, 32, 0, 1])


class Calls(RuleBasedStateMachine):
    """The rules; which fd a rule uses is a number modulo how many there are."""

    quirks = "recorded"

    def __init__(self):
        super().__init__()
        self.world = World(self.quirks)

    def of_kind(self, kind) -> list[Handle]:
        return [handle for handle in self.world.handles if isinstance(handle.thing, kind)]

    def pick(self, kind, which) -> Handle:
        handles = self.of_kind(kind)
        return handles[which % len(handles)]

    def client(self, which) -> Client:
        return self.world.clients[which]

    has_container = precondition(lambda self: self.of_kind(model.Container))
    has_group = precondition(lambda self: self.of_kind(model.Group))
    has_device = precondition(lambda self: self.of_kind(model.Device))

    # --- fds ---

    @precondition(lambda self: len(self.of_kind(model.Container)) < 3)
    @rule(client=CLIENTS)
    def open_container(self, client):
        self.world.open_container(self.client(client))

    @rule(client=CLIENTS, number=st.integers(0, len(LAYOUT) - 1))
    def open_group(self, client, number):
        self.world.open_group(self.client(client), number)

    @rule(client=CLIENTS, number=st.integers(0, len(LAYOUT) - 1), type_=st.sampled_from([3, 3, 3, 1, 6]))
    def set_up(self, client, number, type_):
        """All that a client does to get at a device, so that runs get to the point."""
        group = self.world.open_group(self.client(client), number)
        if group is None:
            return
        mine = [h for h in self.of_kind(model.Container) if h.client is group.client]
        container = mine[0] if mine else self.world.open_container(group.client)
        self.world.set_container(group, container)
        self.world.set_iommu(container, type_)
        self.world.open_device(group, number)

    @has_group
    @rule(group=WHICH, number=st.integers(0, len(LAYOUT) - 1), own=st.booleans())
    def open_device(self, group, number, own):
        handle = self.pick(model.Group, group)
        self.world.open_device(handle, self.world.groups.index(handle.thing) if own else number)

    @precondition(lambda self: 0 < len(self.world.handles) < 30)
    @rule(which=WHICH, client=CLIENTS)
    def dup(self, which, client):
        self.world.dup(self.pick(object, which), self.client(client))

    @precondition(lambda self: self.world.handles)
    @rule(which=WHICH)
    def close(self, which):
        self.world.close(self.pick(object, which))

    @precondition(lambda self: len(self.world.handles) > 8)
    @rule(client=CLIENTS)
    def exit(self, client):
        self.world.exit(self.client(client))

    # --- groups ---

    @has_group
    @rule(group=WHICH, other=WHICH, any_fd=st.sampled_from([False, False, False, True]))
    def set_container(self, group, other, any_fd):
        handle = self.pick(model.Group, group)
        kind = object if any_fd else model.Container
        others = [h for h in self.of_kind(kind) if h.client is handle.client]
        if others:
            self.world.set_container(handle, others[other % len(others)])

    @has_group
    @rule(group=WHICH)
    def unset_container(self, group):
        self.world.unset_container(self.pick(model.Group, group))

    @has_container
    @rule(container=WHICH, type_=st.sampled_from([3, 3, 3, 1, 6, 9, 2]))
    def set_iommu(self, container, type_):
        self.world.set_iommu(self.pick(model.Container, container), type_)

    # --- mappings ---

    @has_container
    @rule(
        container=WHICH, flags=MAP_FLAGS, page=st.integers(-2, DATA_PAGES + 1), iova=IOVA_PAGES, size=LENGTHS
    )
    def map(self, container, flags, page, iova, size):
        handle = self.pick(model.Container, container)
        vaddr = handle.client.data + page * PAGE
        self.world.map(handle, flags=flags, vaddr=vaddr, iova=iova * PAGE, size=size * PAGE)

    @has_container
    @rule(container=WHICH, iova=PAGES, size=LENGTHS)
    def map_well(self, container, iova, size):
        handle = self.pick(model.Container, container)
        self.world.map(handle, flags=3, vaddr=handle.client.data, iova=iova * PAGE, size=size * PAGE)

    @has_container
    @rule(
        container=WHICH, which=WHICH, odd=st.sampled_from([0, 0, 0, 1, PAGE]), flags=st.sampled_from([3, 4])
    )
    def map_odd(self, container, which, odd, flags):
        handle = self.pick(model.Container, container)
        maps = list(handle.thing.maps.values())
        if not maps:
            return
        mapping = maps[which % len(maps)]
        self.world.map(
            handle, flags=flags, vaddr=handle.client.data, iova=mapping.iova, size=mapping.size + odd
        )

    @has_container
    @rule(
        container=WHICH,
        flags=st.sampled_from([0, 0, 0, 0, 4, 4, 8]),
        iova=IOVA_PAGES,
        size=st.integers(0, 60),
    )
    def unmap(self, container, flags, iova, size):
        handle = self.pick(model.Container, container)
        self.world.unmap(handle, flags=flags, iova=iova * PAGE, size=size * PAGE)

    @has_container
    @rule(container=WHICH, flags=st.sampled_from([0, 0, 0, 4]), which=WHICH)
    def unmap_one(self, container, flags, which):
        handle = self.pick(model.Container, container)
        maps = list(handle.thing.maps.values())
        if maps:
            mapping = maps[which % len(maps)]
            self.world.unmap(handle, flags=flags, iova=mapping.iova, size=mapping.size)

    @has_container
    @rule(container=WHICH, flags=st.sampled_from([2, 6, 3]), iova=st.sampled_from([0, 0, PAGE]))
    def unmap_all(self, container, flags, iova):
        self.world.unmap(self.pick(model.Container, container), flags=flags, iova=iova, size=0)

    @has_container
    @rule(
        container=WHICH,
        iova=PAGES,
        size=st.integers(1, 90),
        nbytes=BITMAP_SIZES,
        fill=st.sampled_from([0, 0, 0x5A]),
    )
    def unmap_dirty(self, container, iova, size, nbytes, fill):
        dirty = bytearray([self.allowed(fill)]) * nbytes
        handle = self.pick(model.Container, container)
        self.world.unmap(handle, flags=1, iova=iova * PAGE, size=size * PAGE, dirty=dirty)

    # --- dirty tracking ---

    @has_container
    @rule(container=WHICH, on=st.sampled_from([True, True, True, False]))
    def track(self, container, on):
        self.world.track(self.pick(model.Container, container), on=on)

    @has_container
    @rule(
        container=WHICH,
        iova=PAGES,
        size=st.integers(0, 90),
        pgsize=st.sampled_from([PAGE, PAGE, PAGE, PAGE, 2048, 0]),
        nbytes=BITMAP_SIZES,
        fill=st.sampled_from([0, 0, 0, 0xA5]),
    )
    def get_bitmap(self, container, iova, size, pgsize, nbytes, fill):
        bitmap = bytearray([self.allowed(fill)]) * nbytes
        handle = self.pick(model.Container, container)
        self.world.get_bitmap(handle, iova=iova * PAGE, size=size * PAGE, pgsize=pgsize, bitmap=bitmap)

    @has_container
    @rule(container=WHICH)
    def get_everything(self, container):
        handle = self.pick(model.Container, container)
        self.world.get_bitmap(handle, iova=0, size=128 * PAGE, pgsize=PAGE, bitmap=bytearray(16))

    def allowed(self, fill):
        return fill

    # --- devices ---

    @has_device
    @rule(device=WHICH, iova=PAGES, npages=st.integers(0, 12), prot=st.sampled_from([3, 3, 2, 1, 0]))
    def pin(self, device, iova, npages, prot):
        self.world.pin(self.pick(model.Device, device), iova * PAGE, npages, prot)

    @has_device
    @rule(device=WHICH, iova=PAGES, npages=st.integers(0, 40))
    def unpin(self, device, iova, npages):
        self.world.unpin(self.pick(model.Device, device), iova * PAGE, npages)

    @has_device
    @rule(
        device=WHICH, iova=st.integers(0, 45 * PAGE), size=st.integers(0, 3 * PAGE), byte=st.integers(0, 255)
    )
    def dma_write(self, device, iova, size, byte):
        self.world.dma_write(self.pick(model.Device, device), iova, size, byte)

    @has_device
    @rule(device=WHICH, iova=st.integers(0, 45 * PAGE), size=st.integers(0, 3 * PAGE))
    def dma_read(self, device, iova, size):
        self.world.dma_read(self.pick(model.Device, device), iova, size)

    @has_device
    @rule(device=WHICH)
    def notifications(self, device):
        self.world.notifications(self.pick(model.Device, device))

    # --- memory ---

    @rule(
        client=CLIENTS,
        page=st.integers(0, DATA_PAGES - 1),
        npages=LENGTHS,
        prot=st.sampled_from(["rw", "r", "none"]),
    )
    def protect(self, client, page, npages, prot):
        process = self.client(client).process
        process.memory.protect(
            self.client(client).data + page * PAGE, min(npages, DATA_PAGES - page) * PAGE, prot
        )

    @invariant()
    def nothing_else_happened(self):
        self.world.check()

    def teardown(self):
        for client in list(self.world.clients):
            self.world.exit(client)
        self.world.check()
        left = {name: value for name, value in holdings(self.world.machine).items() if value}
        assert not left, left


class CleanCalls(Calls):
    """The same with quirks = "clean": zeroed bitmaps, and no bit that means nothing."""

    quirks = "clean"

    def allowed(self, fill):
        return 0


TestRecorded = Calls.TestCase
TestRecorded.settings = settings(stateful_step_count=60)
TestClean = CleanCalls.TestCase
TestClean.settings = settings(stateful_step_count=60)
