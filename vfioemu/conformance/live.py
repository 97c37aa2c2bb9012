# SPDX-License-Identifier: MIT
"""Replay traces through a live daemon: real sockets, real memory, a new process for each scenario.

The daemon runs in a process of its own; each scenario runs in a process that ends with it, as the recorded one did. Both are
forked from the runner. Steps follow one another without a pause.
"""

import contextlib
import logging
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, Self, cast

import trio

from vfioemu.client import connect, control
from vfioemu.conformance.livesystem import LiveSystem
from vfioemu.conformance.replay import Difference, Replay
from vfioemu.conformance.trace import Environment, Scenario
from vfioemu.core.objects.spec import MachineSpec
from vfioemu.daemon.runtime_dir import CONTROL, SOCKET
from vfioemu.daemon.serve import Options, Ready, serve
from vfioemu.private import remove_tree
from vfioemu.starting import become_a_worker, held_interrupts, lifeline
from vfioemu.wire.messages import MemoryMode
from vfioemu.world import Refusal, RefusedError, end_of, refusal

SCENARIO_TIMEOUT: Final = 60.0
LEAVE_TIMEOUT: Final = 5.0
"""Limit for a daemon to notice that a client has died, in seconds."""
_REFUSED: Final = b"\0"
"""First byte of the refusal that a daemon sends instead of its socket's path if it cannot start."""
HOLDINGS: Final = ("containers", "files", "locked_pages", "sessions")
"""Keys of `stats` that are empty or 0 when nothing is open."""


class DiedError(Exception):
    """A process died before it answered."""


class LiveRunner:
    """Run scenarios on one daemon, one after the other; a context manager.

    Args:
        spec: the daemon's machine.
        memory: how it reaches client memory, ``"ask"`` or ``"process_vm"``.
    """

    def __init__(self, spec: MachineSpec, memory: str) -> None:
        self._spec = spec
        self._memory = MemoryMode[memory.upper()]
        self._runtime_dir: Path | None = None
        self._daemon = 0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._daemon and not self._reap(os.WNOHANG):
            os.kill(self._daemon, signal.SIGTERM)
            self._reap()
        self._forget()

    def _start(self) -> None:
        reader, writer = os.pipe()
        life = lifeline()
        options = Options(memory=self._memory, until=life)

        spare = os.dup(writer)  # the daemon closes `writer` once it is ready, and may fail later

        def emulate() -> None:
            os.setsid()  # ^C is for the runner
            if not logging.getLogger().isEnabledFor(logging.DEBUG):
                logging.disable(logging.INFO)  # there is a line for each refused call, and traces have many
            try:
                trio.run(serve, self._spec, options, Ready(fd=writer))
            except Exception as error:
                told = refusal(error)
                if told is None:
                    raise
                with contextlib.suppress(OSError):  # the runner stopped reading when we were ready
                    os.write(spare, _REFUSED + "\0".join(told).encode("utf-8", "surrogateescape"))

        self._daemon = _fork(emulate, reader)
        os.close(writer)
        os.close(spare)
        os.close(life)
        with open(reader, "rb") as pipe:
            said = pipe.readline()
        if said.startswith(_REFUSED):
            self._reap()
            what, hint = said.removeprefix(_REFUSED).decode("utf-8", "surrogateescape").split("\0")
            raise RefusedError(Refusal(what, hint))
        if not said:
            _, status = os.waitpid(self._daemon, 0)
            self._daemon = 0
            raise RefusedError(end_of("the daemon", os.waitstatus_to_exitcode(status)))
        self._runtime_dir = Path(os.fsdecode(said.rstrip(b"\n"))).parent

    def _forget(self) -> None:
        """Remove the runtime directory of a daemon that was killed."""
        if self._runtime_dir is not None:
            remove_tree(self._runtime_dir)
            self._runtime_dir = None

    def _reap(self, options: int = 0) -> bool:
        """Wait for the daemon with waitpid(2) `options`; return True if it has ended."""
        if os.waitpid(self._daemon, options)[0]:
            self._daemon = 0
        return not self._daemon

    def run(self, scenario: Scenario, environment: Environment) -> list[Difference]:
        """Replay a scenario in a new process; return every difference.

        Raises:
            DiedError: the process or the daemon died.
            RefusedError: the system refuses a resource.
        """
        if not self._daemon or self._reap(os.WNOHANG):
            self._forget()
            self._start()  # the scenario before this one killed it, and was reported
        reader, writer = os.pipe()
        ours = os.getpid()

        def replay() -> None:
            become_a_worker(ours)
            answer: list[Difference] | Refusal
            try:
                answer = trio.run(self._replay, scenario, environment)
            except Exception as error:
                told = refusal(error)
                if told is None:
                    raise
                answer = told
            with open(writer, "wb") as pipe:
                pickle.dump(answer, pipe)

        child = _fork(replay, reader)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        if status or not answer:
            raise DiedError(f"{scenario.id}: its process ended with status {status:#x}")
        differences: list[Difference] | Refusal = pickle.loads(answer)
        if isinstance(differences, Refusal):
            raise RefusedError(differences)
        if left := trio.run(self._left):
            end = len(scenario.steps)
            differences.append(Difference(end, {"op": "exit"}, {"left": []}, {"left": left}))
        return differences

    async def _left(self) -> list[str]:
        """Return the gauges that are not 0 within LEAVE_TIMEOUT after the only client has died."""
        assert self._runtime_dir is not None
        async with control(self._runtime_dir / CONTROL) as commands:
            left: dict[str, object] = {}
            with trio.move_on_after(LEAVE_TIMEOUT):
                while True:
                    stats = cast("dict[str, object]", await commands.call("stats"))
                    left = {name: stats[name] for name in HOLDINGS if stats[name]}
                    if not left:
                        break
                    await trio.sleep(0.005)
        return [f"{name}={value}" for name, value in left.items()]

    async def _replay(self, scenario: Scenario, environment: Environment) -> list[Difference]:
        assert self._runtime_dir is not None
        with trio.fail_after(SCENARIO_TIMEOUT):
            async with (
                connect(self._runtime_dir / SOCKET) as session,
                control(self._runtime_dir / CONTROL) as commands,
            ):
                await session.set_limits(ipc_lock=True, memlock=None)  # scenarios were recorded as root
                return await Replay(LiveSystem(session, commands), environment).run(scenario)


def _fork(main: Callable[[], object], *unused: int) -> int:
    """Run `main` in a new process, which first closes the fds `unused`; return its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    with held_interrupts():
        child = os.fork()
    if child:
        return child
    _end(main, unused)


def _end(main: Callable[[], object], unused: tuple[int, ...]) -> NoReturn:
    status = 70
    try:
        for fd in unused:
            os.close(fd)
        main()
        status = 0
    except BaseException:  # noqa: BLE001 - the boundary of a forked process: nothing may return from here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
