# SPDX-License-Identifier: MIT
"""`vfioemu chaos --real`: migrations between real processes, one of which is killed or stopped at a random moment."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import trio

from vfioemu import starting
from vfioemu.cli.errors import CommandError
from vfioemu.control_client import ControlSocket
from vfioemu.daemon.runtime_dir import CONTROL
from vfioemu.private import private_directory
from vfioemu.wire.control import ControlError

BOUND: Final = 120.0
"""Seconds after which the source hangs, on top of the time for which somebody was stopped."""
LAST: Final = 60.0
"""Seconds that a destination may live on after its source has ended; it takes 30 of silence for the end of it."""
_PHASES: Final = ("setup", "precopy", "stopping", "stop-copy", "hand-over", "committed")
_MACHINE: Final = """
[[group]]
number = 12
[[group.device]]
symbol = "dma0"
name = "00000000-0000-4000-8000-000000000001"
model = "dma-engine"
"""
_GUEST: Final = """
name = "chaos"
[[memory]]
name = "low"
size = "8 MiB"
[[memory]]
name = "high"
base = 0x100000000
size = "8 MiB"
[[cpu]]
memory = "low"
size = "1 MiB"
rate = 500
[[container]]
name = "c0"
[[container.device]]
name = "dma0"
group = 12
device = "00000000-0000-4000-8000-000000000001"
[container.device.program]
memory = "high"
size = "1 MiB"
rate = 2000
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """Who gets which signal when.

    Attributes:
        victim: "source", "destination", "daemon a" or "daemon b".
        kill: SIGKILL; else SIGSTOP, and SIGCONT after `seconds`.
        phase: of the source, after whose beginning it comes; "" for its start.
        delay: seconds after that.
    """

    victim: str
    kill: bool
    phase: str
    delay: float
    seconds: float = 0.0

    def __str__(self) -> str:
        what = "KILL" if self.kill else f"STOP for {self.seconds:.1f} s"
        return f"{self.victim} {what} {self.delay * 1000:.0f} ms after {self.phase or 'the start'}"


def draw(source: random.Random, longest: float) -> Attack:
    """Draw an attack, which stops somebody for `longest` seconds at most."""
    victim = source.choice(["source", "destination", "daemon a", "daemon b"])
    kill = source.random() < 0.7
    phase = source.choice(["", *_PHASES])
    delay = source.uniform(0, 0.012) if phase else source.uniform(0, 2.5)
    return Attack(victim, kill, phase, delay, 0.0 if kill else source.uniform(0.5, longest))


@dataclass(slots=True)
class Program:
    """A process of ours, what it has said, and whether it has ended."""

    process: "subprocess.Popen[bytes]"
    events: list[dict[str, Any]] = field(default_factory=list)
    errors: bytes = b""
    phases: dict[str, trio.Event] = field(default_factory=dict)
    listening: trio.Event = field(default_factory=trio.Event)
    """Set when it says so, or will say nothing any more."""

    @property
    def code(self) -> int | None:
        """Its exit status; None as long as it runs."""
        return self.process.poll()

    def phase(self, name: str) -> trio.Event:
        """Return the event that is set when it says that it is in a phase."""
        return self.phases.setdefault(name, trio.Event())

    def said(self, **wanted: object) -> bool:
        """Whether it has told an event with those values."""
        return any(all(event.get(key) == value for key, value in wanted.items()) for event in self.events)

    async def listen(self) -> None:
        """Read its events."""
        rest = b""
        async with _stream(self.process.stdout) as pipe:
            async for data in pipe:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hear(json.loads(line))
        self.listening.set()

    def _hear(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "phase":
            self.phase(event["phase"]).set()
        elif event["event"] == "listening":
            self.listening.set()

    async def hear_errors(self) -> None:
        """Read what it complains of."""
        async with _stream(self.process.stderr) as pipe:
            async for data in pipe:
                self.errors += data

    async def wait(self) -> None:
        """Wait for its end."""
        await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)


def _stream(pipe: IO[bytes] | None) -> trio.lowlevel.FdStream:
    if pipe is None:
        raise AssertionError("it was started with pipes")
    with pipe:
        return trio.lowlevel.FdStream(os.dup(pipe.fileno()))


class Field:
    """A directory with two daemons, which are started again when they have died."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "machine.toml").write_text(_MACHINE, encoding="ascii")
        (base / "guest.toml").write_text(_GUEST, encoding="ascii")
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def daemon(self, name: str) -> "subprocess.Popen[bytes]":
        """Return a daemon that runs."""
        found = self._daemons.get(name)
        if found is None or found.poll() is not None:
            where: list[str | Path] = [
                "--machine",
                self.base / "machine.toml",
                "--runtime-dir",
                self.base / name,
            ]
            with (self.base / f"{name}.log").open("ab") as log:
                found, path = starting.start_daemon(["-q", "serve", *where], stderr=log, process_group=0)
            self._daemons[name] = found
            if not path:
                raise CommandError(f"daemon {name} does not start", f"{self.base / name}.log says why")
        return found

    def holds(self, name: str) -> dict[str, Any]:
        """Ask a daemon what its clients hold, and how many bugs it has met; what is zero is left out."""
        with ControlSocket(self.base / name / CONTROL, 10.0) as control:
            stats = control.ask("stats")
        held = {key: stats[key] for key in ("sessions", "locked_pages", "internal_errors")}
        held |= {f"{kind} files": count for kind, count in stats["files"].items()} | stats["totals"]
        return {key: count for key, count in held.items() if count}

    def close(self) -> None:
        """End the daemons."""
        for process in self._daemons.values():
            process.kill()
            process.wait()


class Round:
    """One migration with one attack; `wrong` is what must not be."""

    def __init__(self, field: Field, attack: Attack) -> None:
        self._field = field
        self._attack = attack
        self.wrong: list[str] = []
        self.outcome = ""

    async def run(self) -> None:
        """Migrate."""
        daemons = {f"daemon {name}": self._field.daemon(name) for name in "ab"}
        base = self._field.base
        uri = f"unix:{base}/m.sock"
        async with trio.open_nursery() as nursery:
            there = self._start(nursery, "incoming", uri, "b", "--attempts", "1", "--run-for", "200ms")
            with trio.move_on_after(BOUND):
                await there.listening.wait()
            options = ["--bandwidth", "32MiB/s", "--downtime", "100ms", "--warm-up", "0", "--wait", "5s"]
            here = self._start(nursery, "migrate", uri, "a", *options)
            victims: dict[str, Any] = {"source": here.process, "destination": there.process, **daemons}
            nursery.start_soon(self._strike, victims[self._attack.victim], here)
            await self._wait(here, "the source", BOUND + self._attack.seconds)
            if not here.said(event="phase", phase="precopy") and there.code is None:
                there.process.terminate()  # nobody has come, and nobody will
            await self._wait(there, "the destination", LAST + self._attack.seconds)
            nursery.cancel_scope.cancel()
        await self._judge(here, there)

    def _start(self, nursery: trio.Nursery, command: str, uri: str, daemon: str, *options: str) -> Program:
        base = self._field.base
        where: list[str | Path] = [
            "-g",
            base / "guest.toml",
            "--runtime-dir",
            base / daemon,
            "--state-dir",
            base / "state",
        ]
        # Not trio's: it starts processes in a thread of its own, whose end is what the kernel takes for ours (PDEATHSIG).
        process = subprocess.Popen(
            starting.command(command, uri, *where, "--json", *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=starting.dying_with_us(signal.SIGKILL),
        )
        program = Program(process)
        nursery.start_soon(program.listen)
        nursery.start_soon(program.hear_errors)
        return program

    async def _strike(self, victim: Any, here: Program) -> None:
        attack = self._attack
        if attack.phase:
            await here.phase(attack.phase).wait()
        await trio.sleep(attack.delay)
        if victim.poll() is not None:
            return  # it was quicker
        if attack.kill:
            victim.kill()
            return
        victim.send_signal(signal.SIGSTOP)
        with trio.CancelScope(shield=True):
            await trio.sleep(attack.seconds)
            victim.send_signal(signal.SIGCONT)

    async def _wait(self, program: Program, who: str, seconds: float) -> None:
        with trio.move_on_after(seconds) as waited:
            await program.wait()
            await trio.sleep(0.1)  # the rest of what it has said
        if waited.cancelled_caught:
            self.wrong.append(f"{who} hangs: it has not ended within {seconds:.0f} s")
            program.process.kill()
            with trio.CancelScope(shield=True):
                await program.wait()

    async def _judge(self, here: Program, there: Program) -> None:
        moved = there.said(event="owner", owner="destination")
        stays = here.said(event="end", source_runs=True)
        self.outcome = f"source {here.code}, destination {there.code}"
        if moved and stays:
            self.wrong.append("both sides run the guest")
        for who, program in (("the source", here), ("the destination", there)):
            text = program.errors.decode(errors="replace")
            if "Traceback" in text or "internal error" in text:
                self.wrong.append(f"{who} ends with a traceback:\n{text}")
            if program.code == 5:
                self.wrong.append(f"{who} says that the guest is not the same: {program.events[-1]}")
        await self._resolve(here, moved=moved)
        for name in "ab":
            if self._field.daemon(name).poll() is None and not await self._is_empty(name):
                self.wrong.append(f"daemon {name} still holds {self._field.holds(name)}")

    async def _resolve(self, here: Program, *, moved: bool) -> None:
        """Both are over; if the source was in doubt, or died, its fate can be told now."""
        command = starting.command(
            "migrate", "--resolve", "--json", "--state-dir", self._field.base / "state"
        )
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        fates = [json.loads(line)["fate"] for line in done.stdout.splitlines()]
        if fates:
            self.outcome += f", resolved {' '.join(fates)}"
        if here.code == 6 and not fates:
            self.wrong.append("the source was in doubt, and has left nothing to resolve")
        if {"in_doubt", "running"} & set(fates):
            self.wrong.append("it stays in doubt, though both sides are dead")
        if "not_moved" in fates and moved:
            self.wrong.append("it is said never to have run there, where it ran")

    async def _is_empty(self, name: str) -> bool:
        with trio.move_on_after(20.0):
            while True:
                try:
                    if not await trio.to_thread.run_sync(self._field.holds, name):
                        return True
                except (OSError, ControlError):
                    pass  # it is just being started, or stopped
                await trio.sleep(0.1)
        return False


def run_real(count: int, seed: int, longest: float) -> Iterator[tuple[Attack, str, list[str]]]:
    """Migrate between real processes; yields each attack, how it ended, and what is wrong with that.

    Args:
        count: of migrations.
        seed: of the attacks; moments are those of this machine all the same.
        longest: seconds for which somebody is stopped at most.
    """
    source = random.Random(seed)
    with private_directory("chaos") as base:
        field = Field(base)
        try:
            for _ in range(count):
                one = Round(field, draw(source, longest))
                trio.run(one.run)
                yield one._attack, one.outcome, one.wrong  # noqa: SLF001
        finally:
            field.close()
