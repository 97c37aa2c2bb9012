# SPDX-License-Identifier: MIT
"""Devices that write when they may not, through their daemon's core: the ledger names them, whatever kind they are of."""

import pytest
import trio

from tests.daemon.helpers import dma_write
from tests.migration.lab import HIGH, Dma, lab, machine
from tests.migration.late import FOUND, MOMENTS, Haunted
from vfioemu.daemon.serve import running
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.daemon_ledger import CONTROL
from vfioemu.migration.guestspec import ProgramSpec
from vfioemu.migration.plan import PAGE, Limits, Reason
from vfioemu.native.dma import DmaBatch, Op

QUICK = Limits(downtime=0.5)
STEADY = ProgramSpec(memory="high", size="1 MiB", rate=2000, pattern="sequential")
UNUSED = 1000
"""A page of the high block that neither devices nor CPUs write."""
KINDS = [
    {"type": 1, "logging": True},
    {"type": 1, "logging": False},
    {"type": 3, "logging": False},
]
WAYS = ["one", "rw", "batch", "hidden"]


def steps(device, way, iova):
    """The core's ways to write guest memory for a device: all a model has."""
    data = b"late" * 8
    if way in ("batch", "hidden"):
        batch = DmaBatch(bytearray(data), 1)
        batch.add({"batch": Op.HARDWARE_WRITE, "hidden": Op.HIDDEN_WRITE}[way], iova, len(data), 0)
        return device.dma_batch(batch)
    return (device.rw_write if way == "rw" else device.dma_write)(iova, data)


def late(it, way, page=UNUSED, symbol="dma0"):
    """What the source's device `symbol` does at the moment."""

    async def happen(_):
        daemon = it.daemons[0]
        await daemon.dispatcher.driver().run(
            steps, daemon.machine.devices[symbol], way, HIGH + page * PAGE + 100
        )

    return happen


def of(told, kind):
    return [event for event in told if isinstance(event, kind)]


async def no_ledger_is_left(it):
    """Both daemons end it, at the latest when they see that the connection has ended."""
    devices = [device for daemon in it.daemons for device in daemon.machine.devices.values()]
    with trio.fail_after(10):
        while any(device.ledger is not None for device in devices):
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("moment", "found"), list(zip(MOMENTS, FOUND, strict=True)))
@pytest.mark.parametrize(("options", "way"), [*zip(KINDS, WAYS[:3], strict=True), (KINDS[0], "hidden")])
async def test_device_that_writes_late_is_named_at_each_moment(options, way, moment, found):
    told = []
    async with lab(Dma(options=options, program=STEADY), cpu_rate=100.0) as it:
        source = Haunted(it.guest, it.address, QUICK, moment=moment, happen=late(it, way), tell=told.append)
        result = await source.migrate()
        assert source.happened == 1
        assert (result.code, result.finish.reason) == (5, Reason.LATE_WRITE), result.finish
        moved = moment == MOMENTS[3]
        assert (result.finish.outcome is Outcome.COMPLETED) == moved
        assert result.finish.source_runs == (not moved)
        [write] = result.late
        assert (write.origin, write.block, write.page) == ("dma0", "high", UNUSED)
        assert write.iova == HIGH + UNUSED * PAGE + 100
        assert write.seq
        assert write.after is not None
        assert 0 <= write.after < 60
        [event] = of(told, events.LateWrite)
        assert (event.moment, event.write) == (found, write.seq)
        assert result.not_compared == ""
        await no_ledger_is_left(it)
        if not moved:
            await it.lives()


@pytest.mark.parametrize(("moment", "found"), list(zip(MOMENTS, FOUND, strict=True)))
async def test_driver_that_makes_a_device_write_late_is_found_through_the_uapi_alone(moment, found):
    """Nothing is planted in the daemon: this model does what its registers say, whatever state it is in."""

    async def happen(guest):
        await dma_write(guest.devices["dma0"]._file, HIGH + UNUSED * PAGE, 8, 0xAB)

    told = []
    async with lab(Dma(model="oracle", options={"variant": "migsp"}, program=None), cpu_rate=100.0) as it:
        source = Haunted(it.guest, it.address, QUICK, moment=moment, happen=happen, tell=told.append)
        result = await source.migrate()
        assert (result.code, result.finish.reason) == (5, Reason.LATE_WRITE), result.finish
        [event] = of(told, events.LateWrite)
        assert (event.moment, event.origin, event.write, event.page) == (found, "dma0", 1, UNUSED)


async def test_one_of_two_devices_is_named():
    async with lab(
        Dma(options=KINDS[0], program=STEADY),
        Dma(options=KINDS[1], container="c1", program=None),
        cpu_rate=100.0,
    ) as it:
        happen = late(it, "one", symbol="dma1")
        result = await Haunted(it.guest, it.address, QUICK, moment=MOMENTS[1], happen=happen).migrate()
        assert (result.code, [write.origin for write in result.late]) == (5, ["dma1"])


@pytest.mark.parametrize("options", [{"type": 1}, {"type": 2, "logging": True}, {"type": 3}])
async def test_honest_devices_pass_and_are_compared(options):
    told = []
    async with lab(Dma(options=options, program=STEADY)) as it:
        result = await it.migrate(QUICK, tell=told.append)
        assert (result.code, result.late, result.not_compared) == (0, [], ""), result.finish
    assert [(event.late, event.not_compared) for event in of(told, events.LedgerRead)] == [(0, "")] * 3
    [audit] = of(told, events.Audited)
    assert (audit.different, audit.unexplained) == (0, 0)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_without_verification_the_same_writes_go_unnoticed(moment):
    async with lab(Dma(options=KINDS[0], program=STEADY), cpu_rate=100.0) as it:
        source = Haunted(it.guest, it.address, QUICK, moment=moment, happen=late(it, "one"), verify=False)
        result = await source.migrate()
        assert (result.code, result.late) == (0, [])


async def test_daemon_without_its_control_socket_is_not_compared():
    told = []
    async with lab(Dma(options=KINDS[0], program=STEADY)) as it:
        it.daemons[0].control_path.unlink()
        result = await it.migrate(QUICK, tell=told.append)
        assert result.code == 0
        assert result.not_compared.endswith(f"{CONTROL}: No such file or directory")
    assert any("writes of devices are not compared" in event.detail for event in of(told, events.Warned))


async def test_control_socket_of_another_daemon_is_not_believed():
    """Its ledger would be empty, and everything would pass."""
    device = Dma(options=KINDS[0], program=STEADY)
    async with lab(device) as it, running(machine(device)) as other:
        it.daemons[0].control_path.unlink()
        it.daemons[0].control_path.symlink_to(other.control_path)
        result = await it.migrate(QUICK)
        assert "belongs to another daemon" in result.not_compared


async def test_ledger_that_somebody_else_keeps_is_not_compared():
    from vfioemu import client

    async with lab(Dma(options=KINDS[0], program=STEADY)) as it:
        async with client.control(it.daemons[0].control_path) as control:
            await control.call("ledger-begin", devices=["dma0"], ranges=[[0, PAGE]])
            result = await it.migrate(QUICK)
            assert "another connection keeps the ledger of dma0" in result.not_compared
            told = await control.call("ledger-writes", device="dma0")
            assert isinstance(told, list)
            assert told
