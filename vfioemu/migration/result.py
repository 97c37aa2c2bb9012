# SPDX-License-Identifier: MIT
"""How a migration ended, for callers and for exit codes; and how long a source waits for what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from vfioemu.migration.actions import Event, Finish, Outcome
from vfioemu.migration.engine import Engine
from vfioemu.migration.ledger import Written
from vfioemu.migration.messages import Checked
from vfioemu.migration.transport import IDLE
from vfioemu.migration.verify.pages import Lost

_EXIT_CODES: Final[Mapping[Outcome, int]] = {
    Outcome.COMPLETED: 0,
    Outcome.MISMATCH: 5,
    Outcome.LOST: 1,
    Outcome.FAILED: 3,
    Outcome.CANCELLED: 4,
    Outcome.IN_DOUBT: 6,
    Outcome.BLOCKED: 9,
}


def exit_code(finish: Finish) -> int:
    """Return the exit code that `vfioemu migrate` has for an end."""
    if finish.outcome is Outcome.COMPLETED and finish.mismatches:
        return 5
    if finish.why_lost:
        return 1  # 3 and 4 promise that the source runs as it did
    return _EXIT_CODES[finish.outcome]


@dataclass(slots=True)
class Result:
    """How a migration ended, and what it took.

    Attributes:
        finish: the engine's last word.
        code: its exit code.
        engine: the engine, with its rounds and its timeline.
        history: every event that the engine was fed with; `virtual.replay` makes the same migration of it.
        checked: what the comparison found, if there was one.
        lost: writes that the destination has not.
        late: writes that came after the guest had been told to stand still.
        not_compared: why the ledger of devices' writes was not compared; "" if it was.
    """

    finish: Finish
    code: int
    engine: Engine
    history: list[Event]
    checked: Checked | None = None
    lost: list[Lost] = field(default_factory=list)
    late: list[Written] = field(default_factory=list)
    not_compared: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the source waits for the destination, in seconds.

    Attributes:
        listen: until somebody listens.
        connect: for a connection.
        answer: for the answer to HELLO and SETUP.
        idle: for a sign of life; a destination that has nothing to say sends ALIVE frames.
        commit: for STARTED, before it asks on a new connection.
        resolve: for an answer to that question, before it is in doubt.
    """

    listen: float = 0.0
    connect: float = IDLE
    answer: float = IDLE
    idle: float = IDLE
    commit: float = IDLE
    resolve: float = IDLE

    @classmethod
    def for_all(cls, seconds: float, listen: float) -> Self:
        """Wait as long for whatever the destination has to do, once it listens."""
        return cls(
            listen=listen, connect=seconds, answer=seconds, idle=seconds, commit=seconds, resolve=seconds
        )
