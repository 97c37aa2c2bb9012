# SPDX-License-Identifier: MIT
"""Who writes at the destination before the guest runs there is found and named, and so is not started."""

import pytest
import trio

from tests.migration.fake import HIGH, fake_guest
from tests.migration.late import Haunted
from tests.migration.test_drivers import destination
from vfioemu.migration import actions as do
from vfioemu.migration import events
from vfioemu.migration.actions import Outcome
from vfioemu.migration.device_writes import LedgerError
from vfioemu.migration.plan import PAGE, Limits, OnMismatch, Reason

ABORT = Limits(downtime=0.1)
MOVE = Limits(downtime=0.1, on_mismatch=OnMismatch.MOVE)
QUIET = {"area": 64, "cpu_rate": 100.0}
PAGE_OF_DEVICE = 1000


class Watched(Haunted):
    """Haunts the destination's guest: while it is loaded, or when it is ready and waits for COMMIT."""

    def __init__(self, *args, there, happen, moment, **options):
        self.there = there
        super().__init__(*args, moment=moment, happen=lambda _: happen(there[-1]), **options)

    async def _perform(self, action, nursery):
        if self.moment == "loading" and isinstance(action, do.SendCpus):
            await self._haunt()
        if self.moment == "ready" and isinstance(action, do.Commit):
            await self._haunt()
        return await super()._perform(action, nursery)


async def device_writes(guest):
    guest.devices["dma0"].write(PAGE_OF_DEVICE)


async def cpu_writes(guest):
    guest.cpus.cpus[1].step()


async def device_writes_back(guest):
    """What it writes is there already, so that no page differs."""
    block = guest.devices["dma0"].block
    before = block.page(PAGE_OF_DEVICE)
    await device_writes(guest)
    block.view[PAGE_OF_DEVICE * PAGE : (PAGE_OF_DEVICE + 1) * PAGE] = before


async def nothing(guest):
    pass


def of(told, kind):
    return [event for event in told if isinstance(event, kind)]


async def watched(moment, happen, limits, told=None, prepare=None, **options):
    there = []

    def made(guest):
        there.append(guest)
        if prepare is not None:
            prepare(guest)

    told = [] if told is None else told
    async with (
        fake_guest(running=True, **QUIET) as guest,
        destination(prepare=made, **QUIET) as (address, receiver, arrivals),
    ):
        receiver.narrator._tell = told.append
        source = Watched(guest, address, limits, moment=moment, happen=happen, there=there, **options)
        result = await source.migrate()
        assert source.happened == (moment in ("loading", "ready"))
        assert guest.cpus.running == result.finish.source_runs
        assert [arrival.guest.cpus.running for arrival in arrivals] == [True] * (
            not result.finish.source_runs
        )
        with trio.fail_after(10):
            while any(one.devices["dma0"].ledger is not None for one in there):
                await trio.lowlevel.checkpoint()  # it may not know yet that the source has given up
        return result, arrivals[0].mismatches if arrivals else None


@pytest.mark.parametrize("happen", [device_writes, cpu_writes, device_writes_back])
@pytest.mark.parametrize("moment", ["loading", "ready"])
async def test_who_writes_before_the_start_keeps_the_guest_at_the_source(moment, happen):
    told = []
    result, _ = await watched(moment, happen, ABORT, told)
    assert (result.code, result.finish.outcome) == (5, Outcome.MISMATCH), result.finish
    assert result.finish.source_runs
    origin = "cpu 1" if happen is cpu_writes else "dma0"
    found = of(told, events.LateWrite)
    assert [(event.origin, event.moment, event.after) for event in found] == [
        (origin, "before the start", None)
    ]
    assert found[0].write
    assert f"{origin} write {found[0].write} iova {found[0].iova:#x}" in result.finish.detail
    differs = moment == "loading" and result.checked.mismatched_pages > 0
    assert result.finish.reason is (Reason.MISMATCH if differs else Reason.LATE_WRITE)
    assert not differs or happen is not device_writes_back


@pytest.mark.parametrize("happen", [device_writes, cpu_writes, device_writes_back])
@pytest.mark.parametrize("moment", ["loading", "ready"])
async def test_it_moves_all_the_same_if_the_user_wants_that_and_both_sides_say_so(moment, happen):
    result, there = await watched(moment, happen, MOVE)
    assert (result.code, result.finish.outcome) == (5, Outcome.COMPLETED), result.finish
    # While the guest is loaded, the page that was written may come after it, and the write is gone; that it was made is known.
    assert result.finish.mismatches == there == 1 + result.checked.mismatched_pages


@pytest.mark.parametrize("moment", ["loading", "ready"])
async def test_without_verification_nobody_looks(moment):
    result, there = await watched(moment, device_writes, ABORT, verify=False)
    assert (result.code, there) == (0, 0)


async def test_honest_destination_is_started_and_says_what_it_has_looked_at():
    told = []
    result, there = await watched("never", nothing, ABORT, told)
    assert (result.code, there) == (0, 0), result.finish
    readings = [(event.moment, event.late, event.not_compared) for event in of(told, events.LedgerRead)]
    assert readings == [("before the start", 0, "")] * 2
    assert (result.checked.early, result.checked.ledger) == (0, "")


@pytest.mark.parametrize("method", ["begin", "take"])
async def test_destination_that_keeps_no_ledger_says_that_it_was_not_compared(method):
    def prepare(guest):
        guest.device_writes.fail = {method: LedgerError("planted")}

    told = []
    result, _ = await watched("never", nothing, ABORT, told, prepare)
    assert (result.code, result.checked.ledger) == (0, "planted")
    assert of(told, events.LedgerRead)[-1].not_compared == "planted"


async def test_more_early_writes_than_fit_are_counted():
    async def many(guest):
        for _ in range(1000):
            await device_writes_back(guest)

    result, _ = await watched("loading", many, ABORT)
    assert (result.code, result.checked.early, len(result.checked.early_writes)) == (5, 1000, 16)
    assert f"iova {HIGH + PAGE_OF_DEVICE * PAGE:#x}" in result.checked.early_writes[0]
