# SPDX-License-Identifier: MIT
"""SIGINT, SIGTERM and SIGHUP for a command that has something to bring to its end, from its first moment to its last.

The handlers are ours as long as the process lives, so that there is no moment at which a signal kills it with another
status than the one that is true, or with a traceback: not before trio runs, not when it has ended.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STUCK: Final = 1.0
"""Seconds after which a signal that nobody has looked at says that nobody will."""


class Signals:
    """Takes the signals that end a command; what comes of them `watch` is told."""

    def __init__(self) -> None:
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
        """Call `act` with each signal, also with those that came before, until cancelled."""
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
        """How it ends is known: no signal changes it any more, also while the interpreter ends."""
        for number in self._caught:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self._pending and now - self._pending[0][1] > STUCK:
            os._exit(128 + number)  # stuck, in a write to somebody who does not read for example
        self._pending.append((number, now))
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._wake, idempotent=True)
            except trio.RunFinishedError:
                pass

    def _wake(self) -> None:
        self._arrived.set()


def name_of(number: int) -> str:
    """``SIGINT``."""
    return signal.Signals(number).name
