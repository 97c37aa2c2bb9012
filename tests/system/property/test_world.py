# SPDX-License-Identifier: MIT
"""Any sequence of calls by two processes: the core answers what the plain model answers, and leaves what it leaves."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fuzzing import model
from tests.fuzzing.client import BITMAP_SIZE, DATA_PAGES, LAYOUT, Client
from tests.fuzzing.model import PAGE
from tests.fuzzing.world import Handle, World
from vfioemu.core.base.profile import Quirks
from vfioemu.testing.holdings import holdings

PAGES = st.integers(0, 40)
FAR_PAGES = st.sampled_from([0xFEDFF, 0xFEE00, 0xFEF00, 0xFFFFFFFFF, 0x1000000000])
IOVA_PAGES = PAGES | PAGES | PAGES | FAR_PAGES
LENGTHS = st.integers(1, 24)
CLIENTS = st.integers(0, 1)
NUMBERS = st.integers(0, len(LAYOUT) - 1)
WHICH = st.integers(0, 30)
NEAR = st.integers(0, 24)
"""Which page in or beside a mapping."""
MAP_FLAGS = st.sampled_from([3, 3, 3, 3, 3, 3, 1, 2, 4, 0, 5, 8])
GAPS = st.sampled_from([0, 0, 1, 3, 7, 20, 64])
ODD_GAPS = st.sampled_from([0, 0, 0, 0, 1, 64, -1])
OFFSETS = st.sampled_from([0, 0, 1, 2048, PAGE - 1])
SIZES = st.sampled_from([1, 2, 64, PAGE, PAGE + 1, 3 * PAGE, 0])
FILLS = st.sampled_from([0, 0, 0, 0xA5])


class Calls(RuleBasedStateMachine):
    """The rules; which fd a rule uses is a number modulo how many there are."""

    quirks: Quirks = "recorded"

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

    def near(self, handle, which, page) -> int:
        """An IOVA in, or one page beside, some mapping of the handle's container."""
        maps = self.maps(handle)
        if not maps:
            return max(0, page) * PAGE
        mapping = maps[which % len(maps)]
        return max(0, mapping.iova + (page % (mapping.npages + 2) - 1) * PAGE)

    def behind(self, handle, which, pages) -> int:
        """An IOVA some pages behind the end of a mapping."""
        maps = self.maps(handle)
        mapping = maps[which % len(maps)] if maps else None
        return pages * PAGE + (mapping.iova + mapping.size if mapping else 0)

    def maps(self, handle) -> list[model.Mapping]:
        thing = handle.thing
        container = thing if isinstance(thing, model.Container) else thing.container
        return sorted(container.maps.values(), key=lambda mapping: mapping.iova)

    has_container = precondition(lambda self: self.of_kind(model.Container))
    has_group = precondition(lambda self: self.of_kind(model.Group))
    has_device = precondition(lambda self: self.of_kind(model.Device))

    @initialize(
        groups=st.lists(NUMBERS, min_size=1, max_size=3, unique=True),
        type_=st.sampled_from([3, 3, 3, 3, 3, 3, 1, 6]),
        maps=st.lists(st.tuples(GAPS, LENGTHS, st.sampled_from([3, 3, 3, 1, 2])), max_size=4),
        tracked=st.sampled_from([True, True, False]),
    )
    def begin(self, groups, type_, maps, tracked):
        """Most of what there is to see needs a container with mappings and an open device."""
        for number in groups:
            self.set_up(0, number, type_)
        container = self.of_kind(model.Container)[0]
        iova = 0
        for gap, size, flags in maps:
            iova += gap * PAGE
            self.world.map(container, flags=flags, vaddr=container.client.data, iova=iova, size=size * PAGE)
            iova += size * PAGE
        if tracked:
            self.world.track(container, on=True)

    # --- fds ---

    @precondition(lambda self: len(self.of_kind(model.Container)) < 2)
    @rule(client=CLIENTS)
    def open_container(self, client):
        self.world.open_container(self.client(client))

    @rule(client=CLIENTS, number=NUMBERS)
    def open_group(self, client, number):
        self.world.open_group(self.client(client), number)

    @rule(client=CLIENTS, number=NUMBERS, type_=st.sampled_from([3, 3, 3, 1, 6]))
    def set_up_again(self, client, number, type_):
        self.set_up(client, number, type_)

    @has_group
    @rule(group=WHICH)
    def let_go(self, group):
        """Close a group's devices and take it out of its container."""
        handle = self.pick(model.Group, group)
        for device in self.of_kind(model.Device):
            if device.thing.group is handle.thing:
                self.world.close(device)
        self.world.unset_container(handle)

    def set_up(self, client, number, type_):
        """All that a client does to get at a device."""
        group = self.world.open_group(self.client(client), number)
        if group is None:
            return
        mine = [h for h in self.of_kind(model.Container) if h.client is group.client]
        container = mine[0] if mine else self.world.open_container(group.client)
        self.world.set_container(group, container)
        self.world.set_iommu(container, type_)
        self.world.open_device(group, number)

    @has_group
    @rule(group=WHICH, number=NUMBERS, own=st.booleans())
    def open_device(self, group, number, own):
        handle = self.pick(model.Group, group)
        assert isinstance(handle.thing, model.Group)
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
    @rule(container=WHICH, which=WHICH, behind=GAPS, size=LENGTHS)
    def map_well(self, container, which, behind, size):
        handle = self.pick(model.Container, container)
        iova = self.behind(handle, which, behind)
        self.world.map(handle, flags=3, vaddr=handle.client.data, iova=iova, size=size * PAGE)

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
        which=WHICH,
        before=GAPS,
        last=WHICH,
        behind=ODD_GAPS,
        words=st.sampled_from([0, 0, 0, 1, -1]),
        fill=FILLS,
    )
    def unmap_dirty(self, container, which, before, last, behind, words, fill):
        handle = self.pick(model.Container, container)
        iova, size = self.span(handle, which, before, last, behind)
        dirty = bytearray([self.allowed(fill)]) * self.bitmap_size(size, words)
        self.world.unmap(handle, flags=1, iova=iova, size=size, dirty=dirty)

    # --- dirty tracking ---

    @has_container
    @rule(container=WHICH, on=st.sampled_from([True, True, True, False]))
    def track(self, container, on):
        self.world.track(self.pick(model.Container, container), on=on)

    @has_container
    @rule(
        container=WHICH,
        which=WHICH,
        before=GAPS,
        last=WHICH,
        behind=ODD_GAPS,
        pgsize=st.sampled_from([PAGE, PAGE, PAGE, PAGE, PAGE, PAGE, 2048, 0]),
        words=st.sampled_from([0, 0, 0, 0, 1, -1]),
        fill=FILLS,
    )
    def get_bitmap(self, container, which, before, last, behind, pgsize, words, fill):
        handle = self.pick(model.Container, container)
        iova, size = self.span(handle, which, before, last, behind)
        bitmap = bytearray([self.allowed(fill)]) * self.bitmap_size(size, words)
        self.world.get_bitmap(handle, iova=iova, size=size, pgsize=pgsize, bitmap=bitmap)

    @precondition(lambda self: any(container.tracking for container in self.world.containers))
    @rule(which=WHICH, start=st.sampled_from([0, 0, 0, 64]), fill=FILLS)
    def get_everything(self, which, start, fill):
        handles = [handle for handle in self.of_kind(model.Container) if handle.thing.tracking]
        if handles:
            bitmap = bytearray([self.allowed(fill)]) * 64
            handle = handles[which % len(handles)]
            self.world.get_bitmap(handle, iova=start * PAGE, size=512 * PAGE, pgsize=PAGE, bitmap=bitmap)

    def span(self, handle, which, before, last, behind) -> tuple[int, int]:
        """A range from some way before one mapping to some way behind another (or the same)."""
        maps = [m for m in self.maps(handle) if m.iova < 1 << 32]
        if not maps:
            return 0, 64 * PAGE
        first, end = sorted((which % len(maps), last % len(maps)))
        iova = max(0, maps[first].iova - before * PAGE)
        return iova, max(PAGE, maps[end].iova + maps[end].size + behind * PAGE - iova)

    @staticmethod
    def bitmap_size(size, words) -> int:
        """What a bitmap of so many bytes takes, or some words more or less; never more than there is room for."""
        return min(max(0, -(-(size // PAGE) // 64) + words) * 8, BITMAP_SIZE)

    def allowed(self, fill):
        return fill

    # --- devices ---

    @has_device
    @rule(
        device=WHICH,
        which=WHICH,
        page=NEAR,
        npages=st.integers(0, 9),
        prot=st.sampled_from([3, 3, 3, 1, 2, 0]),
    )
    def pin(self, device, which, page, npages, prot):
        handle = self.pick(model.Device, device)
        self.world.pin(handle, self.near(handle, which, page), npages, prot)

    @has_device
    @rule(device=WHICH, which=WHICH, page=NEAR, npages=st.integers(0, 40))
    def unpin(self, device, which, page, npages):
        handle = self.pick(model.Device, device)
        self.world.unpin(handle, self.near(handle, which, page), npages)

    @has_device
    @rule(device=WHICH, which=WHICH, page=NEAR, offset=OFFSETS, size=SIZES, byte=st.integers(0, 255))
    def dma_write(self, device, which, page, offset, size, byte):
        handle = self.pick(model.Device, device)
        self.world.dma_write(handle, self.near(handle, which, page) + offset, size, byte)

    @has_device
    @rule(device=WHICH, which=WHICH, page=NEAR, offset=OFFSETS, size=SIZES)
    def dma_read(self, device, which, page, offset, size):
        handle = self.pick(model.Device, device)
        self.world.dma_read(handle, self.near(handle, which, page) + offset, size)

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

    quirks: Quirks = "clean"

    def allowed(self, fill):
        return 0


TestRecorded = Calls.TestCase
TestRecorded.settings = settings(stateful_step_count=60)
TestClean = CleanCalls.TestCase
TestClean.settings = settings(stateful_step_count=60)
