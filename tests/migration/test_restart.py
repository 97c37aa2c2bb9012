# SPDX-License-Identifier: MIT
"""A destination that is killed in the hand-over and started again, and sources that died: over real sockets, in one process.

A kill is told from an end: the journal's files are closed first, as the kernel does it, so what the dying code does is not
written down, and no frame leaves it.
"""

import errno
import os

import pytest
import trio

from tests.migration.fake import fake_guest
from tests.migration.test_drills import Wire
from tests.migration.test_drivers import QUICK, progresses
from tests.migration.test_journal import die
from vfioemu.migration.actions import Outcome
from vfioemu.migration.address import Address
from vfioemu.migration.destination import Destination
from vfioemu.migration.files import Folder
from vfioemu.migration.journal import Fate, Journal, Log, Role, Standing
from vfioemu.migration.peer import query
from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.records import Record
from vfioemu.migration.resolve import resolve
from vfioemu.migration.source import Source
from vfioemu.migration.stream import FrameType, StreamError


class Incoming:
    """A destination with a state directory, in a nursery of the test's."""

    def __init__(self, listener, path):
        self.address = listener.bound
        self.arrivals = []
        self.receiver = Destination(
            lambda: fake_guest(running=False), listener, linger=0.5, journal=Journal(Folder(path))
        )
        self.scope = trio.CancelScope()
        self.gone = trio.Event()

    async def receive(self):
        with self.scope:
            async with self.receiver.arrival() as arrival:
                self.arrivals.append(arrival)
                await trio.sleep_forever()

    def kill(self):
        """End it as SIGKILL would."""
        die(self.receiver._handover)
        self.scope.cancel()


async def incoming(path, port=0, *, task_status):
    """Run one; `nursery.start` gives it."""
    with Address.parse(f"tcp:127.0.0.1:{port}", insecure=True).listen() as listener:
        it = Incoming(listener, path)
        task_status.started(it)
        await it.receive()
    it.gone.set()


class Deadly(Wire):
    """A wire that is cut at a frame, and calls somebody then."""

    def __init__(self, target, cut, then):
        super().__init__(target, cut, reconnect=True)
        self.then = then

    async def serve(self, left):
        try:
            await super().serve(left)
        except OSError:
            await left.aclose()  # nobody listens

    async def copy(self, here, there, scope):
        before = self.was_cut
        await super().copy(here, there, scope)
        if self.was_cut and not before:
            self.then()


@pytest.mark.parametrize(
    ("frame", "delivered", "outcome"),
    [
        (FrameType.COMMIT, False, Outcome.FAILED),  # only READY is written down
        (FrameType.STARTED, False, Outcome.LOST),  # it ran there
    ],
)
async def test_destination_killed_in_the_hand_over_answers_when_it_is_back(
    frame, delivered, outcome, tmp_path
):
    states = tmp_path / "state"
    async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
        first = await nursery.start(incoming, states)
        back = []

        def die_and_come_back():
            first.kill()
            nursery.start_soon(restart)

        async def restart():
            await first.gone.wait()
            await nursery.start(incoming, states, first.address.port)
            back.append(trio.current_time())

        async with Deadly(first.address, (frame, delivered), die_and_come_back).up() as wire:
            source = Source(guest, wire, Limits(), patience=QUICK, journal=Journal(Folder(states)))
            result = await source.migrate()
        took = trio.current_time() - back[0]
        runs = outcome is Outcome.FAILED
        assert (result.finish.outcome, result.finish.source_runs) == (outcome, runs), result.finish
        assert guest.cpus.running == runs
        assert took < 2.0
        assert result.code == (3 if runs else 1)
        assert result.finish.reason is (Reason.PEER_REFUSED if runs else Reason.GUEST_ENDED)
        assert list(Journal(Folder(states)).tokens(Role.SOURCE)) == []  # it was told
        if runs:
            await progresses(guest)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("same_directory", [True, False])
async def test_source_in_doubt_leaves_a_log_that_is_resolved_later(same_directory, tmp_path):
    ours, theirs = tmp_path / "a", tmp_path / ("a" if same_directory else "b")
    async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
        first = await nursery.start(incoming, theirs)
        async with Deadly(first.address, (FrameType.COMMIT, False), first.kill).up() as proxy:
            source = Source(guest, proxy, Limits(), patience=QUICK, journal=Journal(Folder(ours)))
            result = await source.migrate()
        assert (result.code, result.finish.outcome) == (6, Outcome.IN_DOUBT), result.finish
        assert not guest.cpus.running

        async def nobody(uri, token):
            assert uri == str(proxy)
            raise StreamError(Reason.PEER_LOST, "nobody listens")

        found = [found async for found in resolve(Journal(Folder(ours)), nobody)]
        fate = Fate.NOT_MOVED if same_directory else Fate.IN_DOUBT
        assert [(one.fate, one.guest) for one in found] == [(fate, "fake")]
        second = await nursery.start(incoming, theirs)

        async def somebody(uri, token):
            return (await query(second.address, token, 1.0))[:2]

        fates = [found.fate async for found in resolve(Journal(Folder(ours)), somebody)]
        assert fates == ([] if same_directory else [Fate.NOT_MOVED])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("records", "answer", "fate"),
    [
        ([], Standing.STARTED, Fate.NOT_MOVED),
        ([Record.COMMIT], Standing.STARTED, Fate.MOVED),
        ([Record.COMMIT], Standing.ENDED, Fate.ENDED),
        ([Record.COMMIT], Standing.REFUSED, Fate.NOT_MOVED),
        ([Record.COMMIT], Standing.UNKNOWN, Fate.IN_DOUBT),
        ([Record.COMMIT, Record.RELEASED], Standing.UNKNOWN, Fate.MOVED),
        ([Record.COMMIT, Record.RESUMED], Standing.UNKNOWN, Fate.NOT_MOVED),
    ],
)
async def test_what_a_dead_source_has_written_is_resolved_once(records, answer, fate, tmp_path):
    journal = Journal(Folder(tmp_path / "state"))
    log = journal.begin(Role.SOURCE, "1" * 32, uri="unix:b", guest="g")
    for record in records:
        log.write(record)

    async def ask(uri, token):
        assert (uri, token) == ("unix:b", "1" * 32)
        return answer, ""

    living = [found.fate async for found in resolve(journal, ask)]
    assert living == [Fate.RUNNING]
    log.close()
    assert [found.fate async for found in resolve(journal, ask)] == [fate]
    again = [found.fate async for found in resolve(journal, ask)]
    assert again == ([Fate.IN_DOUBT] if fate is Fate.IN_DOUBT else [])


async def test_journal_that_cannot_be_written_ends_a_migration_before_it_hurts(tmp_path):
    """Nothing is moved that is not written down, on either side."""

    class Full(Folder):
        def create(self, name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
        address = (await nursery.start(incoming, tmp_path / "b")).address
        source = Source(guest, address, Limits(), journal=Journal(Full(tmp_path / "a")))
        result = await source.migrate()
        assert (result.code, result.finish.reason, result.finish.errno) == (
            3,
            Reason.LOG_FAILED,
            errno.ENOSPC,
        )
        await progresses(guest)
        assert (await Source(guest, address, Limits()).migrate()).code == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("record", [Record.READY, Record.STARTED, Record.COMMIT])
async def test_record_that_cannot_be_written_leaves_the_source_running(record, tmp_path, monkeypatch):
    write = Log.write

    def failing(self, what, **facts):
        if what is record:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        write(self, what, **facts)

    monkeypatch.setattr(Log, "write", failing)
    async with fake_guest(running=True) as guest, trio.open_nursery() as nursery:
        there = await nursery.start(incoming, tmp_path / "b")
        address = there.address
        result = await Source(guest, address, Limits(), journal=Journal(Folder(tmp_path / "a"))).migrate()
        assert result.code == 3, result.finish
        assert record.name in result.finish.detail
        assert not there.arrivals
        await progresses(guest)
        nursery.cancel_scope.cancel()
