# SPDX-License-Identifier: MIT
"""How the writes of the three kinds of devices become known, and that none is ever lost but a hidden one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfioemu.testing.scheduler import Scheduler
from vfioemu.uapi import constants as c

PAGE = 4096
RAM = 64
PRE_COPY, RUNNING, STOP = c.VFIO_DEVICE_STATE_PRE_COPY, c.VFIO_DEVICE_STATE_RUNNING, c.VFIO_DEVICE_STATE_STOP
EVERYTHING = set(range(RAM))


class Ledger:
    """What memory held at the last query: what differs now has been written."""

    def __init__(self, guest):
        self.guest = guest
        self.before = guest.memory()

    def written(self):
        now = self.guest.memory()
        pages = range(0, len(now), PAGE)
        changed = {
            page // PAGE for page in pages if now[page : page + PAGE] != self.before[page : page + PAGE]
        }
        self.before = now
        return changed


def set_up(guest, **registers):
    for driver in guest.drivers:
        driver.set(size=RAM * PAGE, pattern=1, **registers)


# --- by the container ---


def test_type_1_is_dirty_where_it_wrote(guest):
    guest = guest(1)
    guest.track()
    set_up(guest)
    ledger = Ledger(guest)

    guest.drivers[0].command("write", 20)

    assert guest.dirty() == ledger.written()
    assert guest.dirty() == set()


def test_type_1_with_pins_is_dirty_where_they_are(guest):
    guest = guest(1)
    guest.track()
    set_up(guest, pin_mode=2, pin_pages=3)
    driver = guest.drivers[0]

    driver.command("write", 20)

    assert driver.get("pinned") == 3
    first = guest.dirty()
    assert len(first) > 3
    assert len(guest.dirty()) == 3
    driver.command("unpin_all")
    assert len(guest.dirty()) == 3
    assert guest.dirty() == set()


def test_type_2_is_dirty_everywhere_whatever_it_does(guest):
    guest = guest(2)
    guest.track()
    set_up(guest)

    assert guest.dirty() == EVERYTHING
    guest.drivers[0].command("write", 1)
    assert guest.dirty() == EVERYTHING
    assert guest.drivers[0].command("pin", 0, 1, 2) == -22
    assert guest.dirty() == EVERYTHING


def test_type_3_is_dirty_everywhere_before_its_first_pin_and_by_its_pins_after(guest):
    guest = guest(3)
    guest.track()
    set_up(guest)
    driver = guest.drivers[0]
    ledger = Ledger(guest)
    driver.command("write", 10)
    assert guest.dirty() == EVERYTHING
    before = ledger.written()
    driver.command("write", 3)
    between = ledger.written()

    driver.state(PRE_COPY)

    assert driver.get("pinned") == len(before | between)
    assert guest.dirty() == before | between
    driver.command("write", 5)
    assert ledger.written() <= guest.dirty() != EVERYTHING


def test_type_3_may_pin_from_the_start(guest):
    guest = guest(3, pin_from="run")
    guest.track()
    set_up(guest)
    ledger = Ledger(guest)

    guest.drivers[0].command("write", 10)

    assert guest.dirty() == ledger.written()


def test_one_device_of_type_2_makes_all_of_its_container_dirty(guest):
    guest = guest(1, 2)
    guest.track()
    set_up(guest)

    guest.drivers[0].command("write", 1)

    assert guest.dirty() == EVERYTHING


STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 2), st.integers(1, 30)),
    st.tuples(st.just("get"), st.just(0), st.just(0)),
    st.tuples(st.just("pre-copy"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("run"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("remap"), st.integers(0, 2), st.just(0)),
)


@given(
    types=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3),
    mode=st.sampled_from([0, 1, 2]),
    window=st.integers(1, 8),
    steps=st.lists(STEP, max_size=25),
    shared=st.booleans(),
)
def test_the_container_reports_every_page_that_any_device_wrote(guest, types, mode, window, steps, shared):
    guest = guest(*types, shared=shared)
    for driver, type_ in zip(guest.drivers, types, strict=True):
        driver.set(size=RAM * PAGE, pattern=1, seed=driver.fd, pin_pages=window, batch=7)
        if type_ == 1 or (type_ == 3 and mode):
            driver.set(pin_mode=mode)
    guest.track()
    ledger = Ledger(guest)
    written = set()

    for kind, which, count in [*steps, ("get", 0, 0)]:
        driver = guest.drivers[which % len(types)]
        if kind == "write":
            driver.command("write", count)
        elif kind == "pre-copy":
            driver.state(PRE_COPY)
        elif kind == "run":
            driver.state(RUNNING)
        elif kind == "get":
            assert ledger.written() <= guest.dirty()
        else:  # what is unmapped without a bitmap is forgotten: the client has to know that by itself
            written = ledger.written() | guest.dirty()
            guest.unmap(0, RAM)
            guest.map(0, RAM)
    assert written <= EVERYTHING
    for driver in guest.drivers:
        driver.process.close(driver.fd)
    assert all(not device.npinned for device in guest.machine.devices.values())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("types", [(1,), (3,)])
def test_a_page_that_a_liar_hides_is_not_reported(guest, types, shared):
    guest = guest(*types, hide_page=5 * PAGE, shared=shared)
    guest.track()
    set_up(guest)
    driver = guest.drivers[0]
    driver.set(pattern=0)
    if types == (3,):
        driver.state(PRE_COPY)
    ledger = Ledger(guest)
    guest.dirty()

    driver.command("write", 10)

    assert ledger.written() == set(range(10))
    assert guest.dirty() == set(range(10)) - {5}
    assert driver.get("hidden") == 1


def test_every_nth_write_of_a_liar_is_hidden(guest):
    guest = guest(1, hide=3)
    guest.track()
    guest.drivers[0].set(size=RAM * PAGE)

    guest.drivers[0].command("write", 10)

    assert guest.dirty() == {0, 1, 3, 4, 6, 7, 9}
    assert guest.drivers[0].get("hidden") == 3


# --- by the device itself ---


def test_the_log_begins_and_ends(guest):
    driver = guest(1).drivers[0]
    assert driver.log((0, RAM * PAGE))[0] == 0
    assert driver.log((0, RAM * PAGE))[0] == "EINVAL"
    assert driver.feature(c.VFIO_DEVICE_FEATURE_SET | 7)[0] == 0
    assert driver.feature(c.VFIO_DEVICE_FEATURE_SET | 7)[0] == 0
    with pytest.raises(AssertionError, match="EINVAL"):
        driver.report(0, PAGE)


@pytest.mark.parametrize(
    ("page_size", "chosen"), [(512, 4096), (4096, 4096), (1 << 21, 1 << 21), (1 << 30, 1 << 21), (6000, None)]
)
def test_the_log_takes_the_nearest_page_size(guest, page_size, chosen):
    driver = guest(1).drivers[0]

    error, payload = driver.log((0, page_size * 4), page_size=page_size)

    if chosen is None:
        assert error == "EINVAL"
    else:
        assert error == 0
        assert int.from_bytes(payload[:8], "little") == chosen


def test_a_log_without_end_is_refused(guest):
    driver = guest(1).drivers[0]

    assert driver.log((0, 1 << 62))[0] == "ENOMEM"
    assert driver.log((0, 0))[0] == 0


RANGES = st.lists(st.integers(0, RAM), min_size=2, max_size=6, unique=True).map(sorted)


@given(
    type_=st.sampled_from([1, 2, 3]),
    edges=RANGES,
    log_shift=st.sampled_from([12, 12, 13, 14]),
    rounds=st.lists(
        st.tuples(
            st.integers(0, 40),
            st.integers(0, RAM - 1),
            st.integers(1, RAM),
            st.sampled_from([12, 12, 13, 15]),
        ),
        max_size=6,
    ),
    shared=st.booleans(),
)
def test_reports_tell_every_write_once(guest, type_, edges, log_shift, rounds, shared):
    guest = guest(type_, shared=shared)
    driver = guest.drivers[0]
    driver.set(size=RAM * PAGE, pattern=1, batch=5)
    unit = 1 << log_shift
    pairs = zip(edges[::2], edges[1::2], strict=False)
    ranges = [(first * unit, (last - first) * unit) for first, last in pairs]
    assert driver.log(*ranges, page_size=unit)[0] == 0
    ledger = Ledger(guest)
    pending = set()

    for count, first, npages, shift in [*rounds, (0, 0, RAM, 12)]:
        driver.command("write", count)
        logged = {
            page * PAGE // unit
            for page in ledger.written()
            if any(start <= page * PAGE < start + size for start, size in ranges)
        }
        pending |= logged
        iova, length = first * PAGE, npages * PAGE
        told = {number for number in pending if number * unit < iova + length and (number + 1) * unit > iova}
        expected = {
            bit
            for number in told
            for bit in range(
                (max(iova, number * unit) - iova) >> shift,
                (min(iova + length, (number + 1) * unit) - 1 - iova >> shift) + 1,
            )
        }
        pending -= told

        assert driver.report(iova, length, page_size=1 << shift) == expected


@pytest.mark.parametrize("shared", [True, False])
def test_a_liar_hides_from_its_own_log_too(guest, shared):
    driver = guest(2, hide_page=0, shared=shared).drivers[0]
    driver.set(size=4 * PAGE)
    driver.log((0, RAM * PAGE))

    driver.command("write", 4)

    assert driver.report(0, RAM * PAGE) == {1, 2, 3}


# --- whatever meets what ---


@given(st.randoms(use_true_random=False), st.sampled_from([1, 2, 3]), st.integers(0, 2), st.booleans())
def test_after_an_unmap_nothing_is_written_and_nothing_pinned(guest, random, type_, mode, shared):
    scheduler = Scheduler()
    guest = guest(type_, scheduler=scheduler, shared=shared)
    driver = guest.drivers[0]
    driver.set(size=RAM * PAGE, pattern=1, rate=0, batch=4, limit=100, pin_pages=4)
    if type_ == 1 or (type_ == 3 and mode):
        driver.set(pin_mode=mode)
    if type_ == 3:
        driver.state(PRE_COPY)
    driver.set(control=1)
    scheduler.choose = random.choice
    process = guest.process
    storm = process.start(driver.device.work(0.0), "storm")
    payload = (24).to_bytes(4, "little") + bytes(12) + (RAM * PAGE).to_bytes(8, "little")
    process.memory.write(guest.arg, payload)
    unmap = process.start_ioctl(guest.container, c.VFIO_IOMMU_UNMAP_DMA, guest.arg)

    assert scheduler.run(unmap) == 0
    at_unmap = guest.memory()
    scheduler.run(storm)

    assert guest.memory() == at_unmap
    assert driver.device.npinned == 0
    assert driver.get("writes") + driver.get("failed") == 100 or driver.get("control") == 1


@given(st.randoms(use_true_random=False), st.sampled_from([1, 2, 3]), st.booleans())
def test_once_stopped_nothing_is_written(guest, random, type_, shared):
    scheduler = Scheduler()
    guest = guest(type_, scheduler=scheduler, shared=shared)
    driver = guest.drivers[0]
    driver.set(size=RAM * PAGE, pattern=1, rate=0, batch=4, limit=60, control=1)
    scheduler.choose = random.choice
    process = guest.process
    storm = process.start(driver.device.work(0.0), "storm")
    flags = c.VFIO_DEVICE_FEATURE_SET | 2
    process.memory.write(guest.arg, b"".join(word.to_bytes(4, "little") for word in (16, flags, STOP, 0)))
    stop = process.start_ioctl(driver.fd, c.VFIO_DEVICE_FEATURE, guest.arg)

    scheduler.run(stop)
    at_stop = guest.memory()
    scheduler.run(storm)
    scheduler.choose = None

    assert guest.memory() == at_stop
    assert driver.command("write", 1) == -16
    assert driver.command("unpin_all") == -16
    assert driver.get("active") == 0
    driver.work(until=1.0)
    assert guest.memory() == at_stop
