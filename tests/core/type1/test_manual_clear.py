# SPDX-License-Identifier: MIT
"""Clearing the dirty log by hand: what the proposals of 2021 say, and any sequence of calls against a plain model."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfioemu.core.base.effects import read_user
from vfioemu.core.type1 import manual_clear

PAGE = 4096
EXTENSION = 11
DIRTY_PAGES = 0x3B75
GET = 4
VARIANTS = ("off", "as-posted", "fixed", "noclear-flag")
NOCLEAR = {"noclear-flag": 8}
CLEAR = {"as-posted": 8, "fixed": 8, "noclear-flag": 16}

pytestmark = pytest.mark.usefixtures("size_of_windows")


class Client:
    """What a client of such a container does; all bitmaps are Python integers."""

    def __init__(self, rig, variant, groups="mdev", **spec):
        self.rig = rig(groups, manual_clear=variant, **spec)
        self.variant = variant

    def __getattr__(self, name):
        return getattr(self.rig, name)

    def use(self, operation, page, npages, bits=0, **wrong):
        """One operation on a bitmap that holds `bits` before; the answer, and the bitmap after."""
        words = (npages + 63) // 64 + 1
        self.memory.poke(self.bitmap, bits.to_bytes(8 * words, "little"))
        call = {"iova": page * PAGE, "size": npages * PAGE, "pgsize": PAGE, "bytes": 8 * words} | wrong
        payload = struct.pack(
            "<IIQQQQQ", 48, operation, call["iova"], call["size"], call["pgsize"], call["bytes"], self.bitmap
        )
        answer = self.ioctl(self.container, DIRTY_PAGES, payload)
        return answer, int.from_bytes(self.memory.peek(self.bitmap, 8 * words), "little")

    def get(self, page, npages, bits=0):
        answer, found = self.use(GET, page, npages, bits)
        assert answer == 0
        return found

    def look(self, page, npages, bits=0):
        """See what is dirty and clear nothing, as the variant has it."""
        answer, found = self.use(NOCLEAR.get(self.variant, GET), page, npages, bits)
        assert answer == 0
        return found

    def clear(self, page, npages, bits):
        return self.use(CLEAR[self.variant], page, npages, bits)[0]


@pytest.fixture(params=VARIANTS[1:])
def variant(request):
    return request.param


def tracked(rig, variant, groups="mdev", npages=8, page=0, **spec):
    client = Client(rig, variant, groups, **spec)
    assert client.map(page * PAGE, npages * PAGE) == 0
    assert client.start() == 0
    if variant != "noclear-flag":
        assert client.extension(EXTENSION) == 1
    return client


# --- the extension ---


def test_without_the_option_there_is_no_such_extension_and_no_such_operation(rig):
    client = Client(rig, "off")
    client.map(0, 8 * PAGE)
    client.start()

    assert client.extension(EXTENSION) == 0
    assert [client.use(flag, 0, 8)[0] for flag in (8, 16, 24, 12, 20)] == ["EINVAL"] * 5


def test_before_set_iommu_the_extension_is_not_there(rig, variant):
    client = Client(rig, variant, type=0)

    assert client.extension(EXTENSION) == 0
    client.set_iommu(3)
    assert client.extension(EXTENSION) == 1


def test_the_question_before_set_iommu_changes_nothing(rig):
    client = Client(rig, "fixed", type=0)
    client.extension(EXTENSION)
    client.set_iommu(3)
    client.open_device(0)
    client.map(0, 8 * PAGE)
    client.start()
    client.write(PAGE, b"x")

    assert [client.get(0, 8), client.get(0, 8)] == [2, 0]


@pytest.mark.parametrize("variant", ["as-posted", "fixed"])
def test_asking_for_the_extension_switches_it_on_for_good(rig, variant):
    client = Client(rig, variant)
    client.map(0, 8 * PAGE)
    client.start()
    client.write(PAGE, b"x")

    assert [client.get(0, 8), client.get(0, 8)] == [2, 0]
    client.write(PAGE, b"x")
    assert client.extension(EXTENSION) == 1
    assert [client.get(0, 8), client.get(0, 8)] == [2, 2]
    client.stop()
    client.start()
    client.write(PAGE, b"x")
    assert [client.get(0, 8), client.get(0, 8)] == [2, 2]


def test_where_looking_is_an_operation_the_question_has_no_effect(rig):
    client = tracked(rig, "noclear-flag")
    client.write(PAGE, b"x")

    assert client.extension(EXTENSION) == 1
    assert [client.get(0, 8), client.get(0, 8)] == [2, 0]


def test_type1_v1_is_eacces_for_all_of_it(rig, variant):
    client = Client(rig, variant, type=1)

    assert client.clear(0, 8, 1) == "EACCES"


# --- the checks, which are those of GET_BITMAP ---


@pytest.mark.parametrize("flags", [0, 3, 6, 12, 20, 24, 32, 1 << 31])
def test_flags_are_exactly_one_that_exists(rig, variant, flags):
    assert tracked(rig, variant).use(flags, 0, 8)[0] == "EINVAL"


def test_the_posted_variants_have_no_16(rig):
    assert tracked(rig, "fixed").use(16, 0, 8)[0] == "EINVAL"


@pytest.mark.parametrize(
    "wrong", [{"iova": 1}, {"size": 0}, {"size": 100}, {"pgsize": 8192}, {"bytes": 0}, {"bytes": 1 << 29}]
)
def test_a_wrong_argument_is_einval(rig, variant, wrong):
    assert tracked(rig, variant).use(CLEAR[variant], 0, 8, 255, **wrong)[0] == "EINVAL"


def test_while_not_tracking_it_is_einval(rig, variant):
    client = tracked(rig, variant)
    client.stop()

    assert client.clear(0, 8, 1) == "EINVAL"


def test_a_bitmap_that_cannot_be_read_is_efault_and_nothing_is_cleared(rig, variant):
    client = tracked(rig, variant, groups="pci")
    client.pin(0, 1)
    client.unpin(0, 1)
    payload = struct.pack("<IIQQQQQ", 48, CLEAR[variant], 0, 8 * PAGE, PAGE, 8, 0x1000)

    assert client.ioctl(client.container, DIRTY_PAGES, payload) == "EFAULT"
    assert client.look(0, 8) == 1


def test_nor_is_anything_if_only_its_end_cannot_be_read(rig, variant):
    """It is read in windows, which are 64 pages here or all of it."""
    client = tracked(rig, variant, groups="pci")
    client.pin(0, 1)
    client.unpin(0, 1)
    end = client.memory.allocate(PAGE) + PAGE
    assert client.memory.accessible(end, 1, write=False) == 0
    client.memory.poke(end - 8, b"\xff" * 8)
    payload = struct.pack("<IIQQQQQ", 48, CLEAR[variant], 0, 128 * PAGE, PAGE, 16, end - 8)

    assert client.ioctl(client.container, DIRTY_PAGES, payload) == "EFAULT"
    assert client.look(0, 8) == 1


def test_a_large_bitmap_is_never_read_in_one_go(rig, variant, monkeypatch):
    client = tracked(rig, variant)
    sizes = []
    monkeypatch.setattr(manual_clear, "WINDOW", 1 << 10)

    def read(addr, size):
        sizes.append(size)
        return read_user(addr, size)

    monkeypatch.setattr(manual_clear, "read_user", read)
    npages = (1 << 12) + 64
    at = client.memory.allocate(PAGE)
    payload = struct.pack("<IIQQQQQ", 48, CLEAR[variant], 0, npages * PAGE, PAGE, npages // 8, at)

    assert client.ioctl(client.container, DIRTY_PAGES, payload) == 0
    assert sizes == [128, 128, 128, 128, 8] * 2


def test_the_range_is_first_looked_at_by_those_who_look(rig, variant):
    """CLEAR may bisect mappings; looking may not."""
    client = tracked(rig, variant)

    assert client.use(NOCLEAR.get(variant, GET), 0, 4)[0] == "EINVAL"
    assert client.clear(2, 4, 1) == 0


# --- what is dirty ---


def test_looking_twice_shows_the_same(rig, variant):
    client = tracked(rig, variant)
    client.write(3 * PAGE, b"x")

    assert [client.look(0, 8), client.look(0, 8)] == [8, 8]


@pytest.mark.parametrize("variant", ["fixed", "noclear-flag"])
def test_clearing_half_of_a_mapping_leaves_the_other_half(rig, variant):
    client = tracked(rig, variant)
    client.write(0, bytes(8 * PAGE))

    assert client.clear(4, 4, 0b1111) == 0
    assert client.look(0, 8) == 0b1111
    assert client.clear(0, 8, 0b0101_0101) == 0
    assert client.get(0, 8) == 0b1010


def test_as_posted_only_what_an_iommu_has_can_be_cleared(rig):
    client = tracked(rig, "as-posted")
    client.write(0, bytes(8 * PAGE))

    assert client.clear(0, 8, 0xFF) == 0
    assert client.look(0, 8) == 0xFF


def test_as_posted_a_mapping_that_an_iommu_has_can_be_cleared(rig):
    client = tracked(rig, "as-posted", groups="pci")
    client.pin(0, 1)
    client.unpin(0, 1)  # from now on only pins make pages dirty
    client.write(0, bytes(8 * PAGE))

    assert client.clear(0, 8, 0x0F) == 0
    assert client.look(0, 8) == 0xF0


def test_a_pinned_page_stays_dirty(rig, variant):
    client = tracked(rig, variant, groups="pci")
    client.pin(2 * PAGE, 1)

    assert client.clear(0, 8, 0xFF) == 0
    assert client.look(0, 8) == 4
    client.unpin(2 * PAGE, 1)
    assert client.look(0, 8) == 4
    assert client.clear(2, 1, 1) == 0
    assert client.look(0, 8) == 0


def test_without_a_set_bit_pins_are_not_marked_anew(rig):
    client = tracked(rig, "noclear-flag")
    client.pin(2 * PAGE, 1)
    client.map(8 * PAGE, 8 * PAGE)
    client.clear(2, 1, 1)

    assert client.clear(0, 16, 0xFF00) == 0
    assert client.look(0, 16) == 4


def test_what_is_dirty_by_policy_comes_back(rig, variant):
    """Behind an IOMMU that nobody can ask, all is dirty whenever somebody looks."""
    client = tracked(rig, variant, groups="pci")

    assert client.look(0, 8) == 0xFF
    assert client.clear(0, 8, 0xFF) == 0
    assert client.look(0, 8) == 0xFF


def test_bits_over_holes_mean_nothing(rig):
    client = tracked(rig, "noclear-flag", npages=2)
    client.map(6 * PAGE, 2 * PAGE)
    client.write(6 * PAGE, b"x")

    assert client.clear(0, 12, 0xFFF & ~0x40) == 0
    assert client.look(0, 8) == 0x40


def test_looking_at_a_shifted_bitmap_leaves_no_residue_where_it_is_shifted_back(rig):
    client = tracked(rig, "noclear-flag", npages=10)
    client.map(10 * PAGE, 10 * PAGE)
    client.write(10 * PAGE, bytes(10 * PAGE))

    assert [client.look(0, 20) for _ in range(3)] == [0xFFC00] * 3
    assert client.get(0, 20) == 0xFFC00
    assert client.get(0, 20) == 0xFFC00 << 10 & (
        (1 << 64) - 1
    )  # GET_BITMAP alone leaves the kernel's own residue


def test_stale_bits_of_the_user_stay_in_the_kernels_bitmap(rig):
    """A look with a buffer that was not zeroed: what lay over pages is dirty from then on."""
    client = tracked(rig, "noclear-flag", npages=10)
    client.map(10 * PAGE, 10 * PAGE)

    assert client.look(0, 20, bits=0xF << 12) == 0  # the first mapping overwrites all of the word
    assert client.look(0, 20) == 0
    client.unmap(0, 10 * PAGE)
    assert client.look(0, 20, bits=0xF << 12) == 0xF << 12
    assert client.look(0, 20) == 0xF << 12


@pytest.mark.parametrize("variant", ["as-posted", "fixed"])
def test_as_posted_a_shifted_bitmap_stays_shifted(rig, variant):
    client = tracked(rig, variant, npages=10)
    client.map(10 * PAGE, 10 * PAGE)
    client.write(10 * PAGE, bytes(PAGE))

    assert [client.look(0, 20) for _ in range(3)] == [1 << 10, 1 << 20, 1 << 30]


def test_clean_quirks_leave_nothing_shifted_and_nothing_stale(rig, variant):
    client = tracked(rig, variant, npages=10, quirks="clean")
    client.map(10 * PAGE, 10 * PAGE)
    client.write(10 * PAGE, bytes(PAGE))

    assert [client.look(0, 20) for _ in range(3)] == [1 << 10] * 3
    client.unmap(0, 10 * PAGE)
    assert client.look(0, 20, bits=0xF << 13) == 1 << 10
    assert client.look(0, 20) == 1 << 10


# --- any sequence, against a model ---


class Mapping:
    """A struct vfio_dma with its bitmap as the kernel has it: an array of words, one more than it needs."""

    def __init__(self, npages, mapped):
        self.npages = npages
        self.mapped = mapped
        self.pins = {}
        self.bits = 0

    def populate(self):
        for page, count in self.pins.items():
            self.bits |= (count > 0) << page

    def merge(self, user, at, kept, shift_back):
        """update_user_bitmap(): into the user's bitmap at bit `at`; returns it."""
        word, shift = divmod(at, 64)
        nwords = (self.npages + shift + 63) // 64
        low = (1 << 64 * nwords) - 1
        if shift:
            self.bits = (self.bits & ~low) | (self.bits << shift & low)
            self.bits |= user >> 64 * word & (1 << 64) - 1
        user = user & ~(low << 64 * word) | (self.bits & low) << 64 * word
        if not kept:
            self.bits &= ~((1 << self.npages) - 1)
            self.populate()
        elif shift and shift_back:
            pages = (self.bits & (1 << self.npages + shift) - 1) >> shift
            self.bits = (self.bits & ~low) | pages
        return user


class Model:
    """The container: mappings by their first page."""

    def __init__(self, variant, hardware):
        self.variant = variant
        self.hardware = hardware
        self.fills = hardware
        self.manual = False
        self.maps = {}

    def get(self, page, npages, user, look):
        kept = look if self.variant == "noclear-flag" else self.manual
        for first, mapping in sorted(self.maps.items()):
            if page <= first < page + npages:
                if self.fills and mapping.mapped:
                    mapping.bits |= (1 << mapping.npages) - 1
                user = mapping.merge(user, first - page, kept, self.variant == "noclear-flag")
        return user

    def clear(self, page, npages, bits):
        for first, mapping in sorted(self.maps.items()):
            if self.variant == "as-posted" and not mapping.mapped:
                continue
            chosen = [
                p for p in range(npages) if bits >> p & 1 and first <= page + p < first + mapping.npages
            ]
            for p in chosen:
                mapping.bits &= ~(1 << page + p - first)
            if chosen:
                mapping.populate()

    def at(self, page):
        return next(
            ((first, m) for first, m in self.maps.items() if first <= page < first + m.npages), (0, None)
        )


SPAN = 150
BEGIN = (("map", 0, 10), ("map", 10, 7), ("map", 30, 70))
WORDS = (SPAN + 63) // 64 + 1
pages = st.integers(0, 20) | st.integers(0, SPAN - 1)
calls = st.one_of(
    st.tuples(st.just("map"), pages, st.sampled_from([1, 3, 10, 64, 70])),
    st.tuples(st.just("unmap"), st.integers(0, 9), st.booleans()),
    st.tuples(st.sampled_from(["pin", "unpin", "write"]), pages, st.integers(1, 4)),
    st.tuples(st.sampled_from(["pin", "unpin", "write"]), pages, st.integers(1, 4)),
    st.tuples(st.sampled_from(["get", "look"]), st.integers(0, 9), st.sampled_from([0, 0, -1, 0xF0F0 << 60])),
    st.tuples(st.sampled_from(["get", "look"]), st.just(0), st.sampled_from([0, 0, -1, 0xF0F0 << 60])),
    st.tuples(st.just("clear"), pages, st.sampled_from([-1, 0x5555 << 3, 0xFF << 60, 1 << 12])),
    st.tuples(st.just("query"), st.just(0), st.just(0)),
)


@pytest.mark.parametrize("groups", ["mdev", "pci", "mdev pci"])
@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None)
@given(steps=st.lists(calls, min_size=6, max_size=25))
def test_any_sequence_does_what_the_model_does(rig, variant, groups, steps):
    client = Client(rig, variant, groups)
    model = Model(variant, "pci" in groups)
    assert client.start() == 0
    for step, one, two in [*BEGIN, *steps]:
        if step == "map":
            length = min(two, SPAN - one)
            free = all(model.at(page)[1] is None for page in range(one, one + length))
            assert client.map(one * PAGE, length * PAGE) == (0 if free else "EEXIST")
            if free:
                model.maps[one] = Mapping(length, model.hardware)
        elif step == "unmap" and model.maps:
            first = sorted(model.maps)[one % len(model.maps)]
            mapping = model.maps.pop(first)
            if two:
                client.memory.poke(client.bitmap, bytes(8 * WORDS))
                assert client.unmap_dirty(first * PAGE, mapping.npages * PAGE, 8 * WORDS) == (
                    mapping.npages * PAGE
                )
                if model.fills and mapping.mapped:
                    mapping.bits |= (1 << mapping.npages) - 1
                got = int.from_bytes(client.memory.peek(client.bitmap, 8 * WORDS), "little")
                assert got == mapping.merge(0, 0, False, False)
            else:
                assert client.unmap(first * PAGE, mapping.npages * PAGE) == mapping.npages * PAGE
        elif step in ("pin", "unpin", "write"):
            _use_pages(client, model, step, one, two)
        elif step in ("get", "look"):
            first = sorted(model.maps)[one % len(model.maps)] if model.maps else 0
            user = two & (1 << 64 * ((SPAN - first + 63) // 64 + 1)) - 1
            operation = NOCLEAR.get(variant, GET) if step == "look" else GET
            answer, found = client.use(operation, first, SPAN - first, user)
            assert answer == 0
            assert found == model.get(first, SPAN - first, user, step == "look")
        elif step == "clear" and variant != "off":
            npages = SPAN - one
            assert client.clear(one, npages, two & (1 << npages) - 1) == 0
            model.clear(one, npages, two & (1 << npages) - 1)
        elif step == "query":
            assert client.extension(EXTENSION) == int(variant != "off")
            model.manual |= variant in ("as-posted", "fixed")
    client.finish()


def _use_pages(client, model, step, page, count):
    """Pins and writes of device 0, page by page, so that nothing is done by halves."""
    for at in range(page, page + count):
        first, mapping = model.at(at)
        answer = {
            "pin": lambda at=at: client.pin(at * PAGE, 1),
            "unpin": lambda at=at: client.unpin(at * PAGE, 1),
            "write": lambda at=at: client.write(at * PAGE, b"x"),
        }[step]()
        if mapping is None:
            assert step == "unpin" or answer == "EINVAL"
            continue
        assert not isinstance(answer, str)
        if step == "pin":
            mapping.pins[at - first] = mapping.pins.get(at - first, 0) + 1
            if mapping.pins[at - first] == 1:
                mapping.bits |= 1 << at - first
            if client.rig.machine.devices["d0"].group.spec.iommu is not None:
                model.fills = False
        elif step == "unpin":
            mapping.pins[at - first] = max(0, mapping.pins.get(at - first, 0) - 1)
        else:
            mapping.bits |= 1 << at - first


# --- a client that migrates with it, as the QEMU patches do ---

NPAGES = 200
CHUNK = 64
writes = st.lists(st.integers(0, NPAGES - 1), max_size=6)


def migrate(client, rounds, clear_first):
    """Copy all pages while a device writes; the pages whose last write did not arrive.

    The client keeps a bitmap of its own, looks without clearing, and clears chunks of 64 pages, each just before it
    copies that chunk; the other way round is the race that the proposal's reviewers pointed at.
    """
    versions, copies = {}, {}
    own = (1 << NPAGES) - 1

    def write(pages):
        for page in pages:
            versions[page] = versions.get(page, 0) + 1
            assert client.write(page * PAGE, b"x") in (None, 0)

    def look():
        found = client.use(NOCLEAR.get(client.variant, GET), 0, NPAGES)
        assert found[0] == 0
        return found[1] & (1 << NPAGES) - 1

    def copy(pages):
        copies.update({page: versions.get(page, 0) for page in pages})

    for before, chunk, between, after in rounds:
        write(before)
        own |= look()
        first = chunk * CHUNK % NPAGES // CHUNK * CHUNK
        count = min(CHUNK, NPAGES - first)
        bits = own >> first & (1 << count) - 1
        pages = [first + i for i in range(count) if bits >> i & 1]
        if clear_first:
            assert client.clear(first, count, bits) == 0
            write(between)
            copy(pages)
        else:
            copy(pages)
            write(between)
            assert client.clear(first, count, bits) == 0
        own &= ~(bits << first)
        write(after)
    own |= look()
    copy([page for page in range(NPAGES) if own >> page & 1])
    return {page for page, version in versions.items() if copies.get(page) != version}


@pytest.mark.parametrize("variant", ["fixed", "noclear-flag"])
@settings(deadline=None)
@given(rounds=st.lists(st.tuples(writes, st.integers(0, 3), writes, writes), max_size=8))
def test_a_client_that_clears_before_it_copies_loses_nothing(rig, variant, rounds):
    assert migrate(tracked(rig, variant, npages=NPAGES), rounds, clear_first=True) == set()


@pytest.mark.parametrize("variant", ["fixed", "noclear-flag"])
def test_a_client_that_copies_before_it_clears_loses_pages(rig, variant):
    """The negative control."""
    assert migrate(tracked(rig, variant, npages=NPAGES), [([7], 0, [7], [])], clear_first=False) == {7}
