# SPDX-License-Identifier: MIT
"""Whose turn it is: the daemon has one thread, and nobody has more of it by having more connections.

trio runs whatever is ready in rounds: look at all sockets, run every task that can go on once, look again. In one round a
process gets so much, a user as much as a few processes, however many connections they have; what is left of their calls waits
for the next round, in the order of asking. A handler that has done its slice of work gives way in the same manner, with
whatever locks it holds.
"""

import time
from collections import deque
from typing import Final

import trio

SLICE: Final = 200
"""Work of a handler before it gives way: effects, or as much else as takes about as long (some microseconds each)."""
BYTES_SHIFT: Final = 14
"""log2 of how many bytes moved count as one such unit."""
CALLS: Final = 8
"""Calls of a process in one round; a slice, or a piece of work of a device, is as much."""
_PROCESSES: Final = 4
"""A user has as much as so many processes."""


class Rounds(trio.abc.Instrument):
    """Counts trio's rounds, and measures them.

    Attributes:
        number: of the round that runs.
        longest: the most CPU time of this thread that went by in one round, in seconds: so long nobody was looked at.
    """

    def __init__(self) -> None:
        self.number = 0
        self.longest = 0.0
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        """Measure the round that has ended."""
        took = time.thread_time() - self._began
        if took > self.longest:
            self.longest = took

    def after_io_wait(self, timeout: float) -> None:
        """Begin the next one."""
        self.number += 1
        self._began = time.thread_time()


class Share:
    """What somebody gets of each round.

    Args:
        rounds: that are shared.
        parent: whose share this one is a part of.

    Attributes:
        budget: how many calls it gets in one round.
        round, spent: how many it has had in the last round in which it had any.
        waiting: who waits for the next round, in the order of asking.
    """

    __slots__ = ("__weakref__", "_rounds", "budget", "parent", "round", "spent", "waiting")

    def __init__(self, rounds: Rounds, parent: "Share | None" = None, *, processes: int = 1) -> None:
        self._rounds = rounds
        self.parent = parent
        self.budget = CALLS * processes
        self.round = 0
        self.spent = 0
        self.waiting: deque[trio.lowlevel.Task] = deque()

    @classmethod
    def of_user(cls, rounds: Rounds) -> "Share":
        """Make a user's share, of which his processes have parts."""
        return cls(rounds, processes=_PROCESSES)

    @property
    def free(self) -> bool:
        """Whether nobody has to be waited for: there is something left in this round, and nobody waits for it."""
        number = self._rounds.number
        share: Share | None = self
        while share is not None:  # a loop, and no calls: this is asked twice for each call of a client
            if share.waiting or (share.round == number and share.spent >= share.budget):
                return False
            share = share.parent
        return True

    def spend(self, calls: int = 1) -> None:
        """Count what has been done in this round."""
        number = self._rounds.number
        share: Share | None = self
        while share is not None:
            if share.round != number:
                share.round = number
                share.spent = calls
            else:
                share.spent += calls
            share = share.parent

    async def turn(self) -> None:
        """Wait until there is something left for us. It cannot be cancelled: handlers wait here."""
        waiting = self.waiting
        if waiting or not self._left():
            waiting.append(trio.lowlevel.current_task())
            if len(waiting) > 1:
                await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
            while not self._left():  # the first of those who wait looks in each round
                await trio.lowlevel.cancel_shielded_checkpoint()
            if self.parent is not None:
                await self.parent.turn()
            waiting.popleft()
            if waiting:
                trio.lowlevel.reschedule(waiting[0])
        elif self.parent is not None:
            await self.parent.turn()

    async def breathe(self) -> None:
        """Count a slice of work, and let others be served before the next."""
        self.spend(CALLS)
        await self.turn()

    def _left(self) -> bool:
        return self.round != self._rounds.number or self.spent < self.budget
