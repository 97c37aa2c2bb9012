# SPDX-License-Identifier: MIT
"""The ledger of a migration: whoever writes when nobody may is found and named, whatever the moment."""

import pytest
import trio

from tests.migration.fake import HIGH, fake_guest
from tests.migration.late import FOUND, MOMENTS, Haunted
from tests.migration.test_drivers import destination
from vfioemu.migration import actions as do
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.device_writes import LedgerError
from vfioemu.migration.plan import PAGE, Limits, OnMismatch, Reason
from vfioemu.migration.source import Source

QUIET = {"area": 64, "cpu_rate": 100.0}
"""The last pages of the high block are written by nobody but those who are planted."""
PAGE_OF_DEVICE = 1000
UNSENT = 1010
"""A page of the low block that nobody writes. At the stop it is not among what is left: that is less than the high block."""
WHEN = list(zip(MOMENTS, FOUND, strict=True))


async def device_writes(guest):
    guest.devices["dma0"].write(PAGE_OF_DEVICE)


async def cpu_writes(guest):
    guest.cpus.cpus[1].step()


async def nobody_writes(guest):
    guest.ram[0].view[UNSENT * PAGE : UNSENT * PAGE + 4] = b"late"


def of(told, kind):
    return [event for event in told if isinstance(event, kind)]


MOVE = Limits(bandwidth=64 << 20, downtime=0.03, on_mismatch=OnMismatch.MOVE)


async def haunted(moment, happen, told, limits=MOVE, **options):
    async with fake_guest(running=True, **QUIET) as guest, destination() as (address, _, _):
        source = Haunted(guest, address, limits, moment=moment, happen=happen, tell=told.append, **options)
        result = await source.migrate()
        assert source.happened == (moment in MOMENTS)
        assert all(block.ledger is None for block in guest.ram)
        return result


@pytest.mark.parametrize("happen", [device_writes, cpu_writes])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_late_write_before_commit_leaves_the_guest_where_it_is(moment, happen):
    """After COMMIT it is too late for that, and the exit code says so."""
    moved = moment == MOMENTS[3]
    result = await haunted(moment, happen, [], Limits(downtime=0.1))
    assert (result.code, result.finish.source_runs) == (5, not moved), result.finish
    assert (result.finish.outcome is Outcome.COMPLETED) == moved
    assert (result.finish.reason, result.finish.mismatches) == (Reason.LATE_WRITE, 1)
    assert "came after it had been told to stand still" in result.finish.detail
    assert str(result.late[0]) in result.finish.detail


@pytest.mark.parametrize(("moment", "found"), WHEN)
async def test_device_that_writes_late_is_found_and_named(moment, found):
    told = []
    result = await haunted(moment, device_writes, told)
    assert result.code == 5, result.finish
    [late] = result.late
    assert (late.origin, late.block, late.page, late.npages) == ("dma0", "high", PAGE_OF_DEVICE, 1)
    assert late.iova == HIGH + PAGE_OF_DEVICE * PAGE
    assert late.seq > 0
    assert late.after >= 0
    [event] = of(told, events.LateWrite)
    assert (event.moment, event.origin, event.write, event.page) == (
        found,
        "dma0",
        late.seq,
        PAGE_OF_DEVICE,
    )
    [audit] = of(told, events.Audited)
    assert (audit.different, audit.unexplained) == (int(moment in MOMENTS[2:]), 0)
    # Only if it comes after the final sync, and the page is not among those that are sent then, is the page another one there.
    assert result.finish.mismatches == 1 + result.checked.mismatched_pages
    assert moment == MOMENTS[1] or not result.checked.mismatched_pages


@pytest.mark.parametrize(("moment", "found"), WHEN)
async def test_cpu_that_writes_late_is_found_and_named(moment, found):
    told = []
    result = await haunted(moment, cpu_writes, told)
    assert result.code == 5, result.finish
    [late] = result.late
    assert (late.origin, late.block) == ("cpu 1", "high")
    assert late.seq > 0
    assert late.after >= 0
    [event] = of(told, events.LateWrite)
    assert (event.moment, event.write) == (found, late.seq)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_write_that_is_in_no_ledger_is_found_by_its_page(moment):
    """Nobody's write, as that of a broken mapping. Sums are of what was sent, so only the audit finds it."""
    told = []
    result = await haunted(moment, nobody_writes, told)
    assert (result.code, result.finish.mismatches, result.late) == (5, 1, []), result.finish
    [audit] = of(told, events.Audited)
    assert audit.unexplained == 1
    [text] = audit.first
    assert f"low page {UNSENT}, iova {UNSENT * PAGE:#x}" in text


@pytest.mark.parametrize("happen", [device_writes, cpu_writes, nobody_writes])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_without_verification_nobody_looks(happen, moment):
    """The control: the same writes, and nothing is said."""
    told = []
    result = await haunted(moment, happen, told, verify=False)
    assert (result.code, result.late) == (0, [])
    assert not of(told, events.LedgerRead | events.Audited)


async def test_honest_guest_passes_and_each_reading_is_told():
    told = []
    result = await haunted("never", device_writes, told)
    assert (result.code, result.late, result.not_compared) == (0, [], "")
    readings = of(told, events.LedgerRead)
    assert [(event.moment, event.late, event.not_compared) for event in readings] == [
        (moment, 0, "") for moment in do.Moment
    ]
    [audit] = of(told, events.Audited)
    assert (audit.pages, audit.different) == (2048, 0)


async def test_lost_dirty_bit_is_a_suspect_and_is_summed_anew():
    told = []
    async with fake_guest(running=True, hide_page=5, **QUIET) as guest, destination() as (address, _, _):
        limits = Limits(bandwidth=8 << 20, downtime=0.1)
        result = await Source(guest, address, limits, tell=told.append).migrate()
        assert (result.code, result.finish.mismatches, result.late) == (5, 1, []), result.finish
    synced = of(told, events.LedgerRead)[0]
    assert synced.resummed >= 1


@pytest.mark.parametrize("method", ["begin", "take"])
async def test_ledger_that_the_daemon_does_not_keep_is_said_to_be_not_compared(method):
    """The CPUs' is kept here, and is compared all the same."""
    told = []
    async with fake_guest(running=True, **QUIET) as guest, destination() as (address, _, _):
        guest.device_writes.fail = {method: LedgerError("planted")}
        source = Haunted(guest, address, MOVE, moment=MOMENTS[3], happen=cpu_writes, tell=told.append)
        result = await source.migrate()
        assert (result.code, result.not_compared) == (5, "planted")
        assert [late.origin for late in result.late] == ["cpu 1"]
        assert guest.devices["dma0"].ledger is None
    assert of(told, events.LedgerRead)[-1].not_compared == "planted"


async def test_guest_whose_daemon_keeps_no_ledger_says_so():
    told = []
    async with fake_guest(running=True, **QUIET) as guest, destination() as (address, _, _):
        guest.device_writes = None
        result = await Source(guest, address, Limits(downtime=0.1), tell=told.append).migrate()
        assert (result.code, result.not_compared) == (0, "nobody keeps a ledger of what they write")
    assert any("not compared" in event.detail for event in of(told, events.Warned))


async def test_ledger_that_breaks_between_two_readings_is_said_to_be_not_compared():
    async def breaks(guest):
        guest.device_writes.fail = {"take": LedgerError("gone")}
        await device_writes(guest)

    told = []
    result = await haunted(MOMENTS[2], breaks, told)
    assert (result.not_compared, result.late) == ("gone", [])
    # The audit sees the page all the same, and that nobody accounts for it.
    assert (result.code, result.finish.mismatches) == (5, 1)
    assert [event.not_compared for event in of(told, events.LedgerRead)] == ["", "gone", "gone"]


@pytest.mark.parametrize("method", ["begin", "take"])
async def test_cancel_does_not_wait_for_a_daemon_that_says_nothing_of_its_ledger(method):
    async with fake_guest(running=True, **QUIET) as guest, destination() as (address, _, _):
        source = Source(guest, address, Limits(downtime=0.1))

        async def hangs(*_):
            source.cancel()
            await trio.sleep_forever()

        setattr(guest.device_writes, method, hangs)
        with trio.fail_after(10):
            result = await source.migrate()
        assert (result.code, result.finish.source_runs) == (4, True), result.finish
        assert result.not_compared == "it was interrupted"


async def test_write_that_is_not_over_yet_is_late_without_a_number():
    async def begins(guest):
        guest.devices["dma0"].ledger.bits.mark(PAGE_OF_DEVICE)

    result = await haunted(MOMENTS[2], begins, [])
    assert (result.code, result.finish.mismatches) == (5, 1)
    assert str(result.late[0]) == f"a device iova {HIGH + PAGE_OF_DEVICE * PAGE:#x} (high page 1000)"


async def test_more_late_writes_than_are_named_are_counted():
    async def many(guest):
        for _ in range(5000):
            guest.devices["dma0"].write(PAGE_OF_DEVICE)
        for _ in range(5000):
            guest.cpus.cpus[0].step()
        await trio.lowlevel.checkpoint()

    told = []
    result = await haunted(MOMENTS[2], many, told)
    assert (result.code, result.finish.mismatches) == (5, 10000)
    assert len(of(told, events.LateWrite)) == 64


async def test_ledger_of_an_attempt_that_failed_says_nothing_of_the_next_one():
    async with fake_guest(running=True, **QUIET) as guest, destination() as (address, _, _):
        source = Haunted(guest, address, Limits(downtime=0.1), moment=MOMENTS[2], happen=device_writes)

        async def cancel(_):
            source.cancel()
            await device_writes(guest)

        source.happen = cancel
        assert (await source.migrate()).code == 4
        assert guest.devices["dma0"].ledger is None
        result = await Source(guest, address, Limits(downtime=0.1)).migrate()
        assert (result.code, result.late) == (0, []), result.finish
