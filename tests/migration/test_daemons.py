# SPDX-License-Identifier: MIT
"""Migrations between two daemons, with the three kinds of devices and the three kinds of trackers."""

import errno

import pytest
import trio

from tests.migration.lab import HIGH, QUICK, Dma, lab
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.building import BuildError, Step
from vfioemu.migration.guestspec import ProgramSpec
from vfioemu.migration.messages import Likeness
from vfioemu.migration.plan import Limits, OnMismatch, Reason, Tracker
from vfioemu.migration.source import Source
from vfioemu.migration.workload.none import NoDriver
from vfioemu.uapi import constants as u

LOGGED = {"type": 1, "logging": True}
TRACKED = {"type": 1, "logging": False}
STEADY = ProgramSpec(memory="high", size="1 MiB", rate=4000, pattern="sequential")
PINNED = ProgramSpec(memory="high", size="2 MiB", rate=1000, pin="window", pin_pages=32)


def trackers(told):
    [hello] = [event for event in told if isinstance(event, events.Hello)]
    return {device.name: device.tracker for device in hello.devices}


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([Dma(options=LOGGED)], [Tracker.DEVICE]),
        ([Dma(options=TRACKED)], [Tracker.CONTAINER]),
        ([Dma(options=TRACKED, program=PINNED)], [Tracker.CONTAINER]),
        ([Dma(options=LOGGED), Dma(options=TRACKED)], [Tracker.CONTAINER] * 2),
        ([Dma(options=LOGGED), Dma(options=TRACKED, container="c1")], [Tracker.DEVICE, Tracker.CONTAINER]),
        ([Dma(options={"type": 3, "logging": False})], [Tracker.CONTAINER]),
        ([Dma(options={"type": 3, "logging": False, "pin-from": "run"})], [Tracker.CONTAINER]),
    ],
)
async def test_every_page_and_device_arrives(devices, expected, scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    async with lab(*devices, uri="unix:m" if scheme == "unix" else "tcp:127.0.0.1:0") as it:
        before = [await device.driver.writes() for device in it.guest.devices.values()]
        result = await it.migrate(tell=told.append)
        assert (result.code, result.lost) == (0, []), result.finish
        assert list(trackers(told).values()) == expected
        assert result.checked.pages == 2048
        assert result.checked.devices == len(devices)
        moved = it.arrivals[0].guest
        after = [await device.driver.writes() for device in moved.devices.values()]
        assert all(b > a for a, b in zip(before, after, strict=True))
        await it.lives(moved)
        states = [await device.get_state() for device in it.guest.devices.values()]
        assert states == [u.VFIO_DEVICE_STATE_STOP] * len(devices)


async def test_a_device_that_does_no_dma_is_compared():
    """What it was sent it has to give again; its driver reads what may be read."""
    told, heard = [], []
    devices = Dma(options=LOGGED), Dma(model="mtty", container="c1", program=None)
    async with lab(*devices, told=heard.append) as it:
        result = await it.migrate(tell=told.append)
        assert (result.code, result.lost) == (0, []), result.finish
        assert (result.checked.devices, result.checked.unproven) == (2, 0)
        assert await it.arrivals[0].guest.devices["dma1"].get_state() == u.VFIO_DEVICE_STATE_RUNNING
    for side in told, heard:
        [event] = [event for event in side if isinstance(event, events.Verified)]
        assert [device.result for device in event.devices] == [Likeness.SAME, Likeness.SAME]
        engine, tty = ({part.what: part.result for part in device.parts} for device in event.devices)
        assert set(engine.values()) == {Likeness.SAME}
        assert tty == dict.fromkeys(("state", "device", "config space", "registers"), Likeness.SAME)


async def test_a_device_without_a_driver_cannot_be_programmed():
    with pytest.raises(BuildError, match="cannot be programmed") as error:
        await NoDriver("dma0").program(STEADY, HIGH, 1 << 20, 1)
    assert (error.value.errno, error.value.step) == (errno.ENODEV, Step.PROGRAM)


@pytest.mark.parametrize("options", [LOGGED, TRACKED])
async def test_one_hidden_page_fails_the_verification_and_is_named(options):
    """The negative control: it has to stay in the suite, or the verifier proves nothing."""
    page = HIGH + 0x10000
    liar = Dma(options={**options, "hide-page": page}, program=STEADY)
    told = []
    async with lab(liar, cpu_rate=100.0) as it:
        limits = Limits(bandwidth=16 << 20, downtime=0.1, on_mismatch=OnMismatch.MOVE)
        source = Source(it.guest, it.address, limits, tell=told.append)
        result = await source.migrate()
        assert (result.code, result.finish.outcome) == (5, Outcome.COMPLETED), result.finish
        [lost] = result.lost
        assert (lost.origin, lost.iova, lost.block) == ("dma0", page, "high")
        assert lost.seq is not None
        assert lost.held.startswith("dma0 seq ")
        assert int(lost.held.split()[2]) < lost.seq
        assert it.arrivals[0].mismatches == 1
        assert int(await it.guest.devices["dma0"].driver.writes()) > lost.seq - 1
    [event] = [event for event in told if isinstance(event, events.LostWrite)]
    assert (event.iova, event.write) == (page, lost.seq)


async def test_without_verification_the_same_device_goes_unnoticed():
    """What a VMM without a verifier sees: nothing, but what was written between the checksum of a page and its way out."""
    page = HIGH + 0x10000
    liar = Dma(options={**LOGGED, "hide-page": page}, program=STEADY)
    async with lab(liar, cpu_rate=100.0) as it:
        result = await it.migrate(Limits(bandwidth=16 << 20, downtime=0.1), verify=False)
        if result.code == 5:
            assert result.checked.mismatched_pages == 1
            return
        assert (result.code, result.checked) == (0, None)
        here, there = (next(b for b in g.ram if b.name == "high") for g in (it.guest, it.arrivals[0].guest))
        assert here.page(0x10) != there.page(0x10)


async def test_type_2_device_is_all_dirty_and_converges_only_if_all_of_it_fits():
    device = Dma(options={"type": 2, "logging": False})
    async with lab(device) as it:
        tight = Limits(bandwidth=32 << 20, downtime=0.1, max_rounds=3)
        result = await it.migrate(tight)
        assert (result.code, result.finish.reason) == (3, Reason.NOT_CONVERGING), result.finish
        await it.lives()
        assert [r.pages for r in result.engine.rounds] == [2048] * len(result.engine.rounds)
        result = await it.migrate(Limits(bandwidth=32 << 20, downtime=1.0))
        assert (result.code, result.lost) == (0, []), result.finish


@pytest.mark.parametrize("kind", [1, 2, 3])
async def test_program_makes_a_pci_function_a_bus_master(kind):
    """Else it would do no DMA on either side, and nothing lost would mean nothing."""
    device = Dma(name="1000:00:16.0", options={"type": kind, "logging": True})
    async with lab(device) as it:
        await it.lives()
        result = await it.migrate(Limits(downtime=1.0))
        assert (result.code, result.lost) == (0, []), result.finish
        await it.lives(it.arrivals[0].guest)


async def test_cancel_and_migrate_again():
    async with lab(Dma(options=LOGGED), Dma(options=TRACKED, container="c1")) as it:
        source = Source(it.guest, it.address, Limits(bandwidth=4 << 20, downtime=0.01))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.migrate)
            await trio.sleep(0.5)
            assert source.cancel()
        assert source.result.code == 4
        for device in it.guest.devices.values():
            assert await device.get_state() == u.VFIO_DEVICE_STATE_RUNNING
        await it.lives()
        result = await it.migrate()
        assert (result.code, result.lost) == (0, []), result.finish


async def test_destination_without_the_device_is_found_out_before_it_matters():
    """The shell cannot be built there, so nobody listens for long; here the types differ instead."""
    async with lab(Dma(options=TRACKED), there=[Dma(options={**TRACKED, "migration": ["stop-copy"]})]) as it:
        result = await it.migrate()
        assert (result.code, result.finish.reason) == (3, Reason.GUEST_DIFFERS)
        assert "devices" in result.finish.detail
        await it.lives()


async def test_state_that_the_destination_refuses_leaves_the_source_running():
    """A type 3 device does not load what a type 1 device saved."""
    async with lab(Dma(options=TRACKED), there=[Dma(options={"type": 3, "logging": False})]) as it:
        result = await it.migrate()
        assert (result.code, result.finish.reason) == (3, Reason.DEVICE_ERROR), result.finish
        await it.lives()


async def test_device_without_precopy_and_p2p_moves_alone():
    async with lab(Dma(options={**TRACKED, "migration": ["stop-copy"]})) as it:
        result = await it.migrate()
        assert (result.code, result.lost) == (0, []), result.finish


@pytest.mark.parametrize(
    ("flags", "reason"),
    [([[]], Reason.NO_MIGRATION_SUPPORT), ([["stop-copy"], ["stop-copy", "p2p"]], Reason.P2P_MIXED)],
)
async def test_blocked_before_any_byte(flags, reason):
    devices = [Dma(options={**TRACKED, "migration": f}) for f in flags]
    async with lab(*devices) as it:
        result = await it.migrate()
        assert (result.code, result.finish.reason) == (9, reason)
        await it.lives()


async def test_second_hop_takes_the_guest_back_to_a_fresh_shell():
    """There and on: what arrived is a guest like any other, so it can be migrated again."""
    async with lab(Dma(options=LOGGED)) as first, lab(Dma(options=LOGGED)) as second:
        assert (await first.migrate(QUICK)).code == 0
        moved = first.arrivals[0].guest
        result = await Source(moved, second.address, QUICK).migrate()
        assert (result.code, result.lost) == (0, []), result.finish
        await second.lives(second.arrivals[0].guest)
