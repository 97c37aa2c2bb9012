# SPDX-License-Identifier: MIT
"""The modelled link: its arithmetic, and that real sources and virtual ones take the time that it says."""

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.migration.fake import fake_guest
from tests.migration.test_drivers import QUICK, destination
from tests.migration.test_virtual import MIB, migrate
from vfioemu.migration import transport
from vfioemu.migration.address import Address, AddressError
from vfioemu.migration.link import CONTINUOUS, MSS, Link, LinkError, LinkSpec
from vfioemu.migration.plan import PAGE, Limits, Reason
from vfioemu.migration.source import Source

F14 = "bandwidth=128MiB/s"
"""The experiment of a device that is always dirty: 38 MiB at 128 MiB/s, with 300 ms of downtime allowed."""
F14_MIB = 38
PREDICTED = F14_MIB / 128
"""Seconds: 0.297."""
WITHIN = 0.02
"""Share by which a real source may take longer than predicted, in virtual time: headers, sums, and the state of devices and CPUs."""


def test_all_of_it_can_be_said():
    spec = LinkSpec.parse("stall=200ms/5s,bandwidth=1MiB/s,rtt=2.5ms,loss=0.01%")
    assert (spec.bandwidth, spec.rtt) == (MIB, 0.0025)
    assert spec.loss == pytest.approx(0.0001)
    assert (spec.stall, spec.every) == (0.2, 5.0)
    address = Address.parse("sim:bandwidth=1MiB/s,rtt=2ms:unix:/x:y")
    assert (address.path, str(address)) == ("/x:y", "sim:bandwidth=1MiB/s,rtt=2ms:unix:/x:y")
    assert Address.parse(str(address)).link.spec == address.link.spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is none of bandwidth="),
        ("rate=1", "'rate=1' is none of"),
        ("rtt", "'rtt' is none of"),
        ("rtt=1ms,rtt=1ms", "rtt twice"),
        ("bandwidth=fast", "bandwidth=fast: expected a rate"),
        ("rtt=5", "rtt=5: expected a time"),
        ("rtt=-1ms", "expected a time"),
        ("rtt=1e9s", "expected a time"),
        ("rtt=99999999999999999999999s", "3600s at most"),
        ("loss=1", "loss=1: expected a share below 1"),
        ("loss=100%", "expected a share"),
        ("loss=nan", "expected a share"),
        ("loss=1%", "loss without rtt"),
        ("stall=1s", "expected a time"),
        ("stall=2s/1s", "longer than it goes"),
    ],
)
def test_what_cannot_be_meant_is_named(text, says):
    with pytest.raises(LinkError, match=says):
        LinkSpec.parse(text)
    with pytest.raises(AddressError, match=r"^sim:"):
        Address.parse(f"sim:{text}:unix:x")


@pytest.mark.parametrize("uri", ["sim:rtt=1ms", "sim:rtt=1ms:", "sim:rtt=1ms:sim:rtt=1ms:unix:x", "sim:"])
def test_a_link_is_over_one_address(uri):
    with pytest.raises(AddressError):
        Address.parse(uri)


def test_a_destination_has_no_link():
    with (
        pytest.raises(AddressError, match="sim: is the source's"),
        Address.parse("sim:rtt=1ms:unix:x").listen(),
    ):
        pass


def test_loss_bounds_what_tcp_gets():
    """Mathis et al.: MSS / rtt * sqrt(3 / 2p), or what is left of the bandwidth."""
    assert LinkSpec.parse("bandwidth=1GiB/s,rtt=10ms,loss=1%").rate == pytest.approx(
        MSS / 0.01 * math.sqrt(150)
    )
    assert LinkSpec.parse("bandwidth=1MiB/s,rtt=10us,loss=1%").rate == pytest.approx(0.99 * MIB)
    assert LinkSpec.parse("rtt=1ms").rate == math.inf


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10 * MIB)), min_size=1, max_size=30),
    st.floats(0, 0.9),
)
def test_a_link_that_stalls_loses_nothing_and_gains_nothing(sent, stalled):
    """Things leave in their order; never faster than its rate, and what goes back to back at exactly its mean."""
    every = 0.5
    spec = LinkSpec(bandwidth=8 * MIB, stall=stalled * every, every=every)
    link = Link(spec)
    now, before, carried, began = 0.0, 0.0, 0, None
    for pause, size in sent:
        now = max(now, before) + pause
        began = now if began is None else began
        after = link.carry(now, size)
        carried += size
        assert after >= before
        assert after >= now - CONTINUOUS + size / spec.rate - 1e-9
        assert carried <= spec.rate * (after - began) + 1e-3
        before = now = after
    # Without a pause from now on, whole turns take what they should.
    link = Link(spec)
    turns = 7
    size = int(spec.rate * (every - spec.stall) * turns)
    after = 0.0
    for _ in range(10):
        after = link.carry(0.0 if link.free < 0 else link.free, size // 10)
    assert after == pytest.approx(turns * every - spec.stall, abs=0.01)
    assert spec.mean == pytest.approx(spec.rate * (1 - stalled))


def test_nothing_goes_while_it_stands_still():
    link = Link(LinkSpec(bandwidth=1000, stall=1.0, every=5.0))
    assert link.carry(0.0, 1000) == 1.0
    assert link.carry(3.5, 1000) == pytest.approx(5.5)  # half of it before the stall
    assert link.carry(9.5, 100) == pytest.approx(10.1)  # it is given in a stall


def test_an_answer_comes_after_all_that_was_sent_and_a_round_trip():
    link = Link(LinkSpec(bandwidth=1000, rtt=0.5))
    assert link.answer(1.0) == 1.5
    assert link.carry(2.0, 3000) == 5.0
    assert link.answer(2.1, 100) == pytest.approx(5.6)


# The engine in virtual time.


def outage(engine):
    return engine.timeline.started - engine.timeline.paused


def test_virtual_outage_is_the_predicted_one():
    _, engine, _ = migrate(
        F14_MIB * MIB,
        limits=Limits(downtime=0.3),
        always_dirty=F14_MIB * MIB // PAGE,
        link=Link(LinkSpec.parse(F14)),
    )
    assert outage(engine) == pytest.approx(PREDICTED, rel=1e-6)


@pytest.mark.parametrize(
    ("link", "extra"),
    [("rtt=20ms", 3 * 0.02), ("rtt=20ms,loss=0.00001%", 3 * 0.02), ("stall=100ms/1s", None)],
)
def test_round_trips_and_stalls_are_in_the_virtual_outage(link, extra):
    """The sums, PREPARE and COMMIT are asked; a stall may come in between, or not."""
    spec = LinkSpec.parse(f"{F14},{link}")
    _, engine, _ = migrate(
        F14_MIB * MIB,
        limits=Limits(downtime=0.4),
        always_dirty=F14_MIB * MIB // PAGE,
        link=Link(spec),
    )
    carried = F14_MIB * MIB / spec.rate
    if extra is None:
        assert carried <= outage(engine) <= carried + 0.1 + 1e-6
    else:
        assert outage(engine) == pytest.approx(carried + extra, rel=1e-6)


# A real source and a real destination, in virtual time.


@pytest.fixture
def no_threads(monkeypatch):
    """In virtual time a thread would be no time at all, or any: all work is done where it is asked for."""

    async def here(function, *args, **_):
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", here)
    monkeypatch.setattr(transport, "THREADED", 1 << 40)


async def measured(link, mib, limits, *, logging=False, **options):
    """What a source finds that migrates a guest of so many MiB, none of them zero: all always dirty, or (`logging`) one page."""
    npages = mib * MIB // PAGE // 2
    async with (
        fake_guest(running=True, npages=npages, cpus=0, logging=logging, area=1) as guest,
        destination(npages=npages, cpus=0) as (address, _, _),
    ):
        for block in guest.ram:
            for page in range(npages):
                block.view[page * PAGE] = 1
        over = Address.parse(f"sim:{link}:{address}", insecure=True)
        return await Source(guest, over, limits, patience=QUICK, **options).migrate()


@pytest.mark.parametrize("verify", [False, True])
async def test_real_outage_is_the_predicted_one(verify, autojump_clock, no_threads):
    """Also of a guest that is compared: what is exchanged for that is little, and time to compute is none in virtual time."""
    result = await measured(F14, F14_MIB, Limits(downtime=0.3), verify=verify)
    assert result.code == 0, result.finish
    took = outage(result.engine)
    assert PREDICTED <= took <= PREDICTED * (1 + WITHIN)
    _, virtual, _ = migrate(
        F14_MIB * MIB,
        limits=Limits(downtime=0.3),
        always_dirty=F14_MIB * MIB // PAGE,
        link=Link(LinkSpec.parse(F14)),
    )
    assert took == pytest.approx(outage(virtual), rel=WITHIN)


async def test_several_streams_share_one_link(autojump_clock, no_threads):
    """They are connections over it, not links of their own."""
    result = await measured(F14, F14_MIB, Limits(downtime=0.4), verify=False, streams=4)
    assert result.code == 0, result.finish
    assert outage(result.engine) >= PREDICTED * 0.9
    assert result.engine.bandwidth <= 128 * MIB * (1 + WITHIN)


async def test_more_than_fits_into_the_outage_is_not_stopped_for(autojump_clock, no_threads):
    """The other side of the edge: 39 MiB would take 305 ms."""
    result = await measured(F14, 40, Limits(downtime=0.3, max_rounds=3), verify=False)
    assert (result.code, result.finish.reason) == (3, Reason.NOT_CONVERGING), result.finish


async def test_round_trips_are_in_the_real_outage(autojump_clock, no_threads):
    rtt = 0.05
    result = await measured(f"{F14},rtt=50ms", F14_MIB, Limits(downtime=0.4), verify=False)
    assert result.code == 0, result.finish
    assert outage(result.engine) == pytest.approx(PREDICTED + 3 * rtt, rel=WITHIN)


async def test_stalls_are_in_the_real_outage(autojump_clock, no_threads):
    """One in each half second: at least none and at most one of them comes into 297 ms."""
    result = await measured(f"{F14},stall=100ms/500ms", F14_MIB, Limits(downtime=0.5), verify=False)
    assert result.code == 0, result.finish
    assert PREDICTED - CONTINUOUS <= outage(result.engine) <= (PREDICTED + 0.1) * (1 + WITHIN)


async def test_loss_is_in_the_real_outage(autojump_clock, no_threads):
    text = f"{F14},rtt=1ms,loss=0.01%"
    rate = LinkSpec.parse(text).rate
    carried = F14_MIB * MIB / 4 / rate
    result = await measured(text, F14_MIB // 4 + 1, Limits(downtime=1.0), verify=False)
    assert result.code == 0, result.finish
    assert rate < 128 * MIB
    assert carried * 0.9 <= outage(result.engine) <= carried * 1.2


async def test_running_phase_pays_as_well(autojump_clock, no_threads):
    """At 1 MiB/s the bulk round of 2 MiB takes two seconds."""
    began = trio.current_time()
    result = await measured("bandwidth=1MiB/s", 2, Limits(downtime=0.1), logging=True, verify=False)
    assert result.code == 0, result.finish
    assert trio.current_time() - began >= 2.0
    assert outage(result.engine) < 0.1
    assert result.engine.rounds[0].bandwidth == pytest.approx(MIB, rel=0.05)


@pytest.mark.slow
async def test_link_is_no_faster_in_real_time():
    """No upper limit: a busy machine may be as slow as it likes."""
    result = await measured(F14, F14_MIB, Limits(downtime=0.6), verify=False)
    assert result.code == 0, result.finish
    assert outage(result.engine) >= PREDICTED - CONTINUOUS
