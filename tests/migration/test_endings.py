# SPDX-License-Identifier: MIT
"""Every reason for which a migration ends is produced here, and what it tells is as the schema says.

A new reason needs an entry in ENDINGS: tests/static/test_reasons.py fails until it has one.
"""

import errno
import json
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import msgspec
import pytest
import trio

from tests.migration.certificates import Authority
from tests.migration.fake import EIO, FakeContainer, FakeDevice, fake_guest
from tests.migration.lab import Dma, lab
from tests.migration.late import MOMENTS, Haunted
from tests.migration.test_drills import Wire
from tests.migration.test_drivers import QUICK, destination
from vfioemu.cli import incoming
from vfioemu.migration import actions as do
from vfioemu.migration import events, stream
from vfioemu.migration import source as source_driver
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.deadlines import Calls
from vfioemu.migration.destination import Destination
from vfioemu.migration.failedcall import FailedCall
from vfioemu.migration.files import Folder
from vfioemu.migration.guest import Guest
from vfioemu.migration.journal import Journal, Standing
from vfioemu.migration.peers import Peers
from vfioemu.migration.plan import PAGE, Limits, Reason
from vfioemu.migration.source import Source
from vfioemu.migration.stream import StreamError
from vfioemu.migration.transport import Channel
from vfioemu.uapi import constants as u

SCHEMA = Path(__file__).parents[2] / "protocol" / "migration-events.schema.json"
NPAGES = 64
FAST = Limits(bandwidth=64 << 20, downtime=0.3)
ENDINGS = {}
"""Reason -> an async function (address of nobody yet, tell) that makes it."""


def ending(reason):
    """Note down how a reason is produced."""

    def add(function):
        assert reason not in ENDINGS
        ENDINGS[reason] = function
        return function

    return add


@asynccontextmanager
async def shell(**device):
    """A destination without a quirk."""
    async with destination(npages=NPAGES, **device) as (address, _, _):
        yield address


async def migrate(told, address, limits=FAST, *, verify=True, **device):
    """Migrate a fake guest."""
    async with fake_guest(running=True, npages=NPAGES, **device) as guest:
        source = Source(guest, address, limits, verify=verify, tell=told, patience=QUICK)
        await source.migrate()


@asynccontextmanager
async def stranger(serve):
    """Somebody who listens and is no destination: `serve(channel)`."""

    async def accept(listener):
        channel = Channel((await listener.accept())[0])
        try:
            await serve(channel)
        except stream.StreamError:
            pass  # the source has left
        finally:
            channel.close()

    with Address.parse("tcp:127.0.0.1:0", insecure=True).listen() as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, listener)
            yield listener.bound
            nursery.cancel_scope.cancel()


@contextmanager
def changed(module, name, value):
    """Another value for a moment."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@ending(Reason.NO_MIGRATION_SUPPORT)
async def no_migration_support(told, base):
    async with shell() as address:
        await migrate(told, address, migration=0)


@ending(Reason.P2P_MIXED)
async def p2p_mixed(told, base):
    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        devices = [FakeDevice(f"dma{i}", guest.ram[1], migration=flags) for i, flags in enumerate((7, 5))]
        both = Guest("two", guest.ram, guest.cpus, [FakeContainer("c0", devices)])
        await Source(both, address, FAST, tell=told, patience=QUICK).migrate()


@ending(Reason.DEVICE_NOT_RUNNING)
async def device_not_running(told, base):
    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        guest.devices["dma0"].state = u.VFIO_DEVICE_STATE_ERROR
        await Source(guest, address, FAST, tell=told, patience=QUICK).migrate()


@ending(Reason.TRACKING_START_FAILED)
async def tracking_start_failed(told, base):
    async with shell() as address:
        await migrate(told, address, fail={"start_logging": EIO})


@ending(Reason.TRACKING_SYNC_FAILED)
async def tracking_sync_failed(told, base):
    async with shell() as address:
        await migrate(told, address, fail={"report": EIO})


@ending(Reason.DEVICE_ERROR)
async def device_error(told, base):
    async with shell(fail={"write_state": EIO}) as address:
        await migrate(told, address)


@ending(Reason.DEVICE_STATE_TOO_LARGE)
async def device_state_too_large(told, base):
    async def size():
        return 200 << 30

    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        guest.devices["dma0"].stop_copy_size = size
        await Source(guest, address, replace(FAST, max_rounds=1), tell=told, patience=QUICK).migrate()


@ending(Reason.NOT_CONVERGING)
async def not_converging(told, base):
    async with shell() as address:
        limits = Limits(bandwidth=1 << 20, downtime=0.001, max_rounds=1)
        await migrate(told, address, limits, logging=False)


@ending(Reason.PEER_ABSENT)
async def peer_absent(told, base):
    await migrate(told, Address.parse(f"unix:{base}/nobody"))


@ending(Reason.PEER_BUSY)
async def peer_busy(told, base):
    async with fake_guest(running=True, npages=NPAGES) as first, shell() as address:
        assert (await Source(first, address, FAST).migrate()).code == 0
        await migrate(told, address)


@ending(Reason.GUEST_DIFFERS)
async def guest_differs(told, base):
    async with destination(npages=2 * NPAGES) as (address, _, _):
        await migrate(told, address)


@ending(Reason.VERIFY_REQUIRED)
async def verify_required(told, base):
    with Address.parse(f"unix:{base}/m").listen() as listener:
        receiver = Destination(
            lambda: fake_guest(running=False, npages=NPAGES), listener, require_verify=True
        )

        async def receive():
            async with receiver.arrival():
                pytest.fail("it was taken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await migrate(told, listener.bound, verify=False)
            nursery.cancel_scope.cancel()


@ending(Reason.PEER_REFUSED)
async def peer_refused(told, base):
    """A device that does not start there, after COMMIT."""

    def prepare(guest):
        device = guest.devices["dma0"]
        before = device.set_state

        async def set_state(state):
            if state in (u.VFIO_DEVICE_STATE_RUNNING, u.VFIO_DEVICE_STATE_RUNNING_P2P):
                raise OSError(EIO, "injected")
            await before(state)

        device.set_state = set_state

    async with destination(npages=NPAGES, prepare=prepare) as (address, _, _):
        await migrate(told, address)


@ending(Reason.PEER_LOST)
async def peer_lost(told, base):
    async def leave(channel):
        await channel.greeted()

    async with stranger(leave) as address:
        await migrate(told, address)


async def stalled(told, base, limits, patience):
    """A destination that does nothing any more when the guest stands still."""
    from tests.migration.test_silence import stall

    with Address.parse(f"unix:{base}/m").listen() as listener:
        async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
            nursery.start_soon(stall, listener, stream.FrameType.CPUS, False)
            await Source(guest, listener.bound, limits, tell=told, patience=patience).migrate()
            nursery.cancel_scope.cancel()


@ending(Reason.PEER_SILENT)
async def peer_silent(told, base):
    await stalled(told, base, FAST, replace(QUICK, idle=0.3))


@ending(Reason.OUTAGE_TOO_LONG)
async def outage_too_long(told, base):
    await stalled(told, base, replace(FAST, max_outage=0.3), QUICK)


@ending(Reason.DAEMON_SILENT)
async def daemon_silent(told, base):
    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        calls = Calls(0.2)
        device = guest.devices["dma0"]

        async def never():
            await trio.sleep_forever()

        async def report(iova, size, bitmap):
            await calls.make(device, "DMA_LOGGING_REPORT", never())

        device.report = report
        await Source(guest, address, FAST, tell=told, patience=QUICK).migrate()


@ending(Reason.PEER_UNTRUSTED)
async def peer_untrusted(told, base):
    async with shell() as address:
        await migrate(told, replace(address, peers=Peers(frozenset({4294967294}))))


@ending(Reason.TLS_REFUSED)
async def tls_refused(told, base):
    ours = Authority(base).files("localhost")
    with Address.parse("tls:127.0.0.1:0", tls=ours).listen() as listener:
        receiver = Destination(lambda: fake_guest(running=False, npages=NPAGES), listener)

        async def receive():
            async with receiver.arrival():
                pytest.fail("it was taken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await migrate(told, listener.bound)  # 127.0.0.1 is not localhost
            nursery.cancel_scope.cancel()


@ending(Reason.STREAM_CORRUPT)
async def stream_corrupt(told, base):
    async def garble(channel):
        await channel.greeted()
        await channel.greet()
        await channel.receive()
        await channel.send(stream.FrameType.STARTED, b"{}")
        await channel.receive()

    async with stranger(garble) as address:
        await migrate(told, address)


@ending(Reason.VERSION)
async def version(told, base):
    async def greet(channel):
        with changed(stream, "MAJOR", stream.MAJOR + 1):
            await channel.greet()
        await trio.sleep_forever()

    async with stranger(greet) as address:
        await migrate(told, address)


@ending(Reason.CANCELLED)
async def cancelled(told, base):
    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        source = Source(guest, address, FAST, tell=told, patience=QUICK)
        source.cancel()
        await source.migrate()


@ending(Reason.MISMATCH)
async def mismatch(told, base):
    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        block = guest.ram[0]
        unset = block.sums.unset

        def changed():
            """Just before the comparison, a page is written without a mark and summed again."""
            block.view[:5] = b"there"
            block.sums.take(block, [(0, 1)])
            return unset()

        block.sums.unset = changed
        await Source(guest, address, FAST, tell=told, patience=QUICK).migrate()


@ending(Reason.LATE_WRITE)
async def late_write(told, base):
    async def happen(guest):
        guest.cpus.cpus[1].step()

    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        source = Haunted(guest, address, FAST, moment=MOMENTS[2], happen=happen, tell=told, patience=QUICK)
        await source.migrate()


@ending(Reason.LOG_FAILED)
async def log_failed(told, base):
    class Full(Folder):
        def create(self, name):
            raise OSError(errno.ENOSPC, "injected")

    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        journal = Journal(Full(base / "state"))
        await Source(guest, address, FAST, tell=told, patience=QUICK, journal=journal).migrate()


@ending(Reason.GUEST_ENDED)
async def guest_ended(told, base):
    async def query(address, token, patience):
        return Standing.ENDED, "", 0

    async with shell() as address:
        wire = Wire(address, (stream.FrameType.STARTED, False), reconnect=False)
        async with wire.up() as cut:
            with changed(source_driver, "query", query):
                await migrate(told, cut)


@ending(Reason.NOT_COMPARED)
async def not_compared(told, base):
    """The state of the device cannot be read a second time."""

    async def read_own(size):
        raise OSError(EIO, "injected")

    async with fake_guest(running=True, npages=NPAGES) as guest, shell() as address:
        guest.devices["dma0"].read_own = read_own
        await Source(guest, address, FAST, tell=told, patience=QUICK).migrate()


async def completed(told, base):
    async with shell() as address:
        await migrate(told, address)


async def in_doubt(told, base):
    async with shell() as address:
        wire = Wire(address, (stream.FrameType.STARTED, False), reconnect=False)
        async with wire.up() as cut:
            await migrate(told, cut)


OUTCOMES = {
    Outcome.COMPLETED: (completed, 0, "destination"),
    Outcome.MISMATCH: (mismatch, 5, "source"),
    Outcome.LOST: (guest_ended, 1, "nobody"),
    Outcome.BLOCKED: (no_migration_support, 9, "source"),
    Outcome.FAILED: (peer_absent, 3, "source"),
    Outcome.CANCELLED: (cancelled, 4, "source"),
    Outcome.IN_DOUBT: (in_doubt, 6, "unknown"),
}
"""Outcome -> how it is made, its exit code, and who runs the guest then."""


def validate(lines):
    """Every line is as the schema in protocol/ says."""
    checker = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for line in lines:
        checker.validate(line)


async def make(reason, base):
    """What the source tells in a migration that ends for that reason."""
    told = []
    with trio.fail_after(60):
        await ENDINGS[reason](told.append, base)
    return told


@pytest.mark.parametrize("reason", Reason)
async def test_every_reason_is_produced_and_told_as_the_schema_says(reason, tmp_path):
    told = await make(reason, tmp_path)
    validate([msgspec.to_builtins(event) for event in told])
    end = told[-1]
    assert isinstance(end, events.End)
    assert end.reason is reason, end
    assert end.detail or reason is Reason.CANCELLED
    assert end.code in (1, 3, 4, 5, 9)
    nowhere = reason is Reason.GUEST_ENDED
    assert (end.runs, end.source_runs) == ("nobody" if nowhere else "source", not nowhere)
    if end.errno is not None:
        assert end.errno_name == errno.errorcode[end.errno]


@pytest.mark.parametrize("outcome", Outcome)
async def test_every_outcome_is_told_as_the_schema_says(outcome, tmp_path):
    make_it, code, runs = OUTCOMES[outcome]
    told = []
    with trio.fail_after(60):
        await make_it(told.append, tmp_path)
    validate([msgspec.to_builtins(event) for event in told])
    assert (told[-1].outcome, told[-1].code, told[-1].runs) == (outcome, code, runs)


@pytest.mark.parametrize("code", [0, 3, 4, 5])
def test_every_end_of_a_destination_is_as_the_schema_says(code):
    told = []
    call = FailedCall("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", "dma0")
    failure = StreamError(Reason.DEVICE_ERROR, "dma0: state 1: injected", EIO, call)
    destination: Any = SimpleNamespace(last_failure=failure, narrator=SimpleNamespace(say=told.append))
    incoming._tell_end(destination, code)
    [end] = told
    validate([msgspec.to_builtins(end)])
    assert (end.reason is None, end.runs == "destination") == (code == 0, code in (0, 5))
    assert (end.errno_name, end.ioctl, end.device) == (
        ("EIO", call.ioctl, call.device) if code == 3 else (None, None, None)
    )


def test_schema_refuses_what_is_none_of_ours():
    """The control: a reason that is not in the list, and a side that there is not."""
    end = msgspec.to_builtins(events.End(code=3, outcome=do.Outcome.FAILED, reason=Reason.PEER_LOST))
    validate([end])
    for wrong in ({"reason": "bad_weather"}, {"outcome": "undecided"}, {"runs": "both"}, {"code": "3"}):
        with pytest.raises(jsonschema.ValidationError):
            validate([end | wrong])


async def test_call_of_a_daemon_that_failed_is_named():
    told = []
    async with lab(Dma(options={"logging": True, "fail-logging-start": "EBUSY"})) as it:
        await it.migrate(tell=told.append)
    end = told[-1]
    assert end.reason is Reason.TRACKING_START_FAILED
    assert (end.ioctl, end.device, end.range) == ("VFIO_DEVICE_FEATURE_DMA_LOGGING_START", "dma0", None)
    assert (end.errno, end.errno_name) == (errno.EBUSY, "EBUSY")


async def test_call_that_a_daemon_did_not_answer_is_named(tmp_path):
    end = (await make(Reason.DAEMON_SILENT, tmp_path))[-1]
    assert (end.ioctl, end.device) == ("VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT", "dma0")
    assert end.errno_name == "ETIMEDOUT"


async def test_range_of_a_log_that_could_not_be_read_is_told(tmp_path):
    end = (await make(Reason.TRACKING_SYNC_FAILED, tmp_path))[-1]
    assert (end.device, end.range) == ("dma0", events.Range(iova=0, size=NPAGES * PAGE))


@pytest.mark.parametrize("reason", [Reason.DEVICE_ERROR, Reason.PEER_REFUSED])
async def test_device_that_failed_at_the_destination_is_told_at_the_source(reason, tmp_path):
    """While it loads, and when it is started."""
    end = (await make(reason, tmp_path))[-1]
    assert (end.device, end.errno_name) == ("dma0", "EIO")
    assert end.detail.startswith("the destination: dma0")
