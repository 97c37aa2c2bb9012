# SPDX-License-Identifier: MIT
"""Take SIGINT, SIGTERM and SIGHUP for a command that must finish something, for as long as the process lives.

The handlers are never removed. So at no moment, neither before trio runs nor after it, can a signal end the process with a wrong
status or a traceback.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn

import trio

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STUCK: Final = 1.0
"""Seconds after which an unhandled signal means that the command is stuck; the next one then ends the process."""


class Signals:
    """Take the signals that end a command, and hand them to `watch`.

    Attributes:
        outcome: the exit status, once it is known; a process that is ended by force then still ends with it.
    """

    def __init__(self) -> None:
        self.outcome: int | None = None
        self._pending: deque[tuple[int, float]] = deque()
        self._token: trio.lowlevel.TrioToken | None = None
        self._arrived = trio.Event()
        self._caught = [
            number
            for number in NUMBERS
            # nohup: its user wants the command to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        ]
        for number in self._caught:
            signal.signal(number, self._handle)

    async def watch(self, act: Callable[[int], None]) -> None:
        """Call `act` with each signal, including those that came before, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            while True:
                self._arrived = trio.Event()
                while self._pending:
                    act(self._pending.popleft()[0])
                await self._arrived.wait()
        finally:
            self._token = None

    def settle(self) -> None:
        """Ignore the signals from now on: the outcome is known and must not change, not even while the interpreter ends."""
        for number in self._caught:
            signal.signal(number, signal.SIG_IGN)

    def end_at_once(self, number: int) -> NoReturn:
        """End the process without cleaning up: with the outcome if there is one, else as killed by the signal."""
        os._exit(128 + number if self.outcome is None else self.outcome)

    def _handle(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self._pending and now - self._pending[0][1] > STUCK:
            self.end_at_once(number)  # stuck, for example in a write to a pipe that nobody reads
        self._pending.append((number, now))
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._wake, idempotent=True)
            except trio.RunFinishedError:
                pass

    def _wake(self) -> None:
        self._arrived.set()


def name_of(number: int) -> str:
    """Return the name of a signal: ``SIGINT``."""
    return signal.Signals(number).name
