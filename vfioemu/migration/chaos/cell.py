# SPDX-License-Identifier: MIT
"""One migration in virtual time, in which things go wrong: the shipped `Source` and `Destination`, over sockets, with small guests.

A process that is killed here still runs its code, as a ghost: its connections, its devices and its journal are taken from it
first, so nothing that it does reaches anybody. One that is stopped gets no byte and no answer from its daemon until it goes on.
"""

import os
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from errno import EIO, ENOMEM
from pathlib import Path
from typing import Any, Final

import trio
import trio.testing

from vfioemu.migration.address import Address
from vfioemu.migration.chaos.disk import Disk
from vfioemu.migration.chaos.fake import Host, small_guest
from vfioemu.migration.chaos.faults import HARMS, Fault, Observer, Phase
from vfioemu.migration.chaos.gate import Gate
from vfioemu.migration.chaos.pump import Pump
from vfioemu.migration.destination import Destination
from vfioemu.migration.guest import Guest
from vfioemu.migration.journal import Journal, Standing
from vfioemu.migration.plan import Limits
from vfioemu.migration.policies.policy import Decision, GoOn, Situation, StopGuest
from vfioemu.migration.source import Source
from vfioemu.migration.tokenfile import SUFFIX
from vfioemu.uapi.constants import VFIO_DEVICE_STATE_RUNNING

BOUND: Final = 300.0
"""Virtual seconds after which a migration hangs: more than all patience of both sides together."""
NOTHING_CAME: Final = "the migration has ended before its phase came"
_LIMITS: Final = Limits(bandwidth=256 << 10, downtime=0.05)
_SETTLED: Final = (Standing.STARTED, Standing.REFUSED, Standing.UNKNOWN)


class _ThreeRounds:
    """Stops the guest after three rounds: in virtual time sending takes none, so there is no bandwidth to go by."""

    def __init__(self, limits: Limits) -> None:
        del limits

    def decide(self, situation: Situation) -> Decision:
        """Decide after a round."""
        return StopGuest() if len(situation.rounds) >= 3 else GoOn(0.0)


@dataclass(frozen=True, slots=True)
class Blow:
    """A fault in a phase."""

    phase: Phase
    fault: Fault

    def __str__(self) -> str:
        return f"{self.phase}: {self.fault}"


@dataclass(slots=True)
class Ending:
    """How a migration ended.

    Attributes:
        runs: who runs the guest: "S", "D" or "N", nobody.
        code: the exit code of the source; None if it was killed.
        wrong: what must never be.
        struck: the blows that came: a migration can end before its phase.
        seconds: of virtual time, to the source's end.
    """

    runs: str = "N"
    code: int | None = None
    wrong: list[str] = field(default_factory=list)
    struck: list[Blow] = field(default_factory=list)
    seconds: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.runs}{'-' if self.code is None else self.code}"


def run_cell(directory: str, blows: Sequence[Blow]) -> Ending:
    """Migrate a small guest in virtual time, with blows.

    Args:
        directory: for its sockets.
        blows: what happens when.
    """
    with _threads_inline():
        return trio.run(_Cell(directory, blows).run, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def _threads_inline() -> Iterator[None]:
    """Do in place what would be done in a worker thread: virtual time would pass while one works."""
    threaded = trio.to_thread.run_sync

    async def inline(function: Any, *arguments: Any, **options: Any) -> Any:
        del options
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    trio.to_thread.run_sync = inline  # type: ignore[assignment]
    try:
        yield
    finally:
        trio.to_thread.run_sync = threaded


class _Side:
    """One side: its daemon, its guest, its journal, and whether its process lives."""

    def __init__(self, name: str, cell: "_Cell") -> None:
        self.name = name
        self.host = Host()
        self.disk = Disk()
        self.dead = False
        self.owner = False
        self.scope = trio.CancelScope()
        self._cell = cell

    def watch(self, guest: Guest) -> None:
        """Hear of each moment in which the CPUs are let run, or stopped."""
        cpus = guest.cpus
        pause, resume = cpus.pause, cpus.resume

        def paused() -> None:
            self.owner = False
            pause()

        def resumed() -> None:
            if not self.dead:
                self.owner = True
                self._cell.check_owners()
                resume()

        cpus.pause, cpus.resume = paused, resumed  # type: ignore[method-assign]

    def kill(self) -> None:
        """Take everything from it, and let its ghost end."""
        self.dead, self.owner = True, False
        self.disk.died(self.name)
        self.host.dead = True
        self.host.gate.open_for_good()
        self.scope.cancel()


class _Cell:
    def __init__(self, directory: str, blows: Sequence[Blow]) -> None:
        self._directory = directory
        self._blows = list(blows)
        self._observer = Observer()
        self._ending = Ending()
        self._source: Source | None = None
        self._guest: Guest | None = None
        self._there: Destination | None = None
        self._arrived = trio.Event()

    async def run(self) -> Ending:
        """Migrate."""
        self._a, self._b = _Side("source", self), _Side("destination", self)
        self._a.owner = True
        self._a.host.called = self._called
        self._pump = Pump(f"{self._directory}/b1", self._passing)
        self._a.host.before = self._pump.caught_up
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._pump.run, f"{self._directory}/p")
            await self._nursery.start(self._receive, self._b, f"{self._directory}/b1")
            with trio.move_on_after(BOUND) as bound:
                await self._migrate()
                await self._settle()
            if bound.cancelled_caught:
                self._ending.wrong.append(f"it hangs: nothing has ended after {BOUND:g} s")
            self._nursery.cancel_scope.cancel()
        self._ending.wrong += [] if self._ending.struck or not self._blows else [NOTHING_CAME]
        return self._ending

    def check_owners(self) -> None:
        """Note it when both sides run the guest."""
        if self._a.owner and self._b.owner:
            self._ending.wrong.append("both sides run the guest")

    # The two programs.

    async def _migrate(self) -> None:
        began = trio.current_time()
        async with small_guest(self._a.host, running=True) as guest:
            self._guest = guest
            self._a.watch(guest)
            journal = Journal(self._a.disk.seen_by("source"))
            source = self._source = Source(
                guest, Address(path=f"{self._directory}/p"), _LIMITS, policy=_ThreeRounds, journal=journal
            )
            with self._a.scope, self._no_traceback("the source"):
                await source.migrate()
            self._ending.seconds = trio.current_time() - began
            self._look_at_source(source, guest)
            guest.cpus.running = False  # it has shown what it has to, and need not write any more

    def _look_at_source(self, source: Source, guest: Guest) -> None:
        result, ending = source.result, self._ending
        if self._a.dead:
            return
        if result is None:
            ending.wrong.append("the source has no result")
            return
        ending.code, ending.detail = result.code, result.finish.detail
        if not result.finish.source_runs:
            return
        if not guest.cpus.running:
            ending.wrong.append("the source says that it runs the guest, and its CPUs stand")
        for device in guest.devices.values():
            running = device.state == VFIO_DEVICE_STATE_RUNNING and not device.tracking  # type: ignore[attr-defined]
            if not running and not self._a.host.dead:
                ending.wrong.append(f"the source says that it runs the guest, and not {device.name}")

    async def _receive(
        self, side: _Side, path: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        @asynccontextmanager
        async def shell() -> AsyncIterator[Guest]:
            async with small_guest(side.host, running=False) as guest:
                side.watch(guest)
                yield guest

        make: Any = shell
        with Address(path=path).listen() as listener, self._no_traceback("the destination"):
            journal = Journal(side.disk.seen_by(side.name))
            there = self._there = Destination(make, listener, journal=journal)
            self._lend_token(path)
            task_status.started()
            with side.scope:
                async with _arrival(there) as arrival:
                    arrival.guest.cpus.running = False
                    self._arrived.set()
                    await trio.sleep_forever()

    def _lend_token(self, path: str) -> None:
        """Let who connects to the pump find the token of who is behind it."""
        lent = Path(f"{self._directory}/p{SUFFIX}")
        lent.unlink(missing_ok=True)
        os.link(f"{path}{SUFFIX}", lent)

    @contextmanager
    def _no_traceback(self, who: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what a user would see
            told = "".join(traceback.format_exception(error))
            self._ending.wrong.append(f"{who} ends with a traceback:\n{told}")

    async def _settle(self) -> None:
        """Wait until the destination knows what becomes of the guest."""
        token = self._source.token if self._source is not None else ""
        while not self._b.dead and self._there is not None:
            if self._there._handover.standing(token) in _SETTLED:  # noqa: SLF001
                break
            await trio.sleep(1.0)
        await trio.sleep(3.0)  # what is still on its way
        owners = [name for name, side in (("S", self._a), ("D", self._b)) if side.owner]
        self._ending.runs = "".join(owners) or "N"

    # Blows.

    def _passing(self, kind: int, forth: bool, data: bytes) -> None:
        del forth
        self._strike(self._observer.frame(kind, data))

    def _called(self, what: str) -> None:
        self._strike(self._observer.call(what))

    def _strike(self, phase: Phase | None) -> None:
        for blow in [blow for blow in self._blows if blow.phase is phase]:
            self._blows.remove(blow)
            self._ending.struck.append(blow)
            self._do(blow.fault)

    def _do(self, fault: Fault) -> None:
        a, b, pump = self._a, self._b, self._pump
        match fault:
            case Fault.KILL_SOURCE:
                pump.refusing = True
                a.kill()
                pump.cut()
            case Fault.STOP_SOURCE:
                self._stop(a, 1.0)
            case Fault.KILL_DESTINATION | Fault.REVIVE_DESTINATION:
                pump.refusing = True
                b.kill()
                pump.cut()
                if fault is Fault.REVIVE_DESTINATION:
                    self._nursery.start_soon(self._revive)
            case Fault.STOP_DESTINATION | Fault.HANG_DESTINATION:
                self._stop(b, 1.0 if fault is Fault.STOP_DESTINATION else 90.0)
            case Fault.KILL_DAEMON_A | Fault.KILL_DAEMON_B:
                (a if fault is Fault.KILL_DAEMON_A else b).host.dead = True
            case Fault.STOP_DAEMON_A | Fault.STOP_DAEMON_B:
                self._close((a if fault is Fault.STOP_DAEMON_A else b).host.gate, 1.0)
            case Fault.EIO_A | Fault.EIO_B:
                (a if fault is Fault.EIO_A else b).host.failing = EIO
            case Fault.ENOMEM_A | Fault.ENOMEM_B:
                (a if fault is Fault.ENOMEM_A else b).host.failing = ENOMEM
            case Fault.FULL_A | Fault.FULL_B:
                (a if fault is Fault.FULL_A else b).disk.full = True
            case _:
                pump.harm, pump.harmed = HARMS[fault], False

    def _stop(self, side: _Side, seconds: float) -> None:
        self._close(self._pump.gate, seconds)
        self._close(side.host.gate, seconds)

    def _close(self, gate: Gate, seconds: float) -> None:
        gate.close()
        self._nursery.start_soon(self._open_later, gate, seconds)

    async def _open_later(self, gate: Gate, seconds: float) -> None:
        await trio.sleep(seconds)
        gate.open()

    async def _revive(self) -> None:
        await trio.sleep(1.0)
        disk, self._b = self._b.disk, _Side("destination", self)
        self._b.disk = disk
        path = f"{self._directory}/b2"
        await self._nursery.start(self._receive, self._b, path)
        self._pump.target, self._pump.refusing = path, False


def _arrival(there: Destination) -> AbstractAsyncContextManager[Any]:
    return there.arrival()
