# SPDX-License-Identifier: MIT
"""What a policy is asked, and what it may answer.

The engine (engine.py) has the order of a migration: trackers before pages, the final sync before the last page, and so on,
which no policy can change. What is a matter of taste it asks a policy, at one point: when all that is known to be left would fit
into the downtime limit, the logs have been read, and it is known exactly how much is left. There a round ends, and the next begins.

A policy is pure like the engine: no clock, no I/O, no randomness. It may remember what it likes, and is made anew for each
migration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from vfioemu.migration.plan import Limits, Reason, Round


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known when a round ends.

    Attributes:
        rounds: all rounds, at least two; the last one begins now, the one before it has just ended.
        seconds: since the destination has accepted the guest.
        timeout: how long the user allows that to be; infinite without a limit.
        over: that time is up. Whoever goes on then is ended by the engine.
        left: bytes that have to be sent before the destination can run: dirty pages, and device state.
        bandwidth: bytes per second that the link carries; 0 as long as nothing was measured.
        threshold: bytes that fit into the downtime limit at that bandwidth.
        throttle: the share of time, from 0 to less than 1, in which the CPUs are kept from running.
    """

    rounds: Sequence[Round]
    seconds: float
    timeout: float
    over: bool
    left: int
    bandwidth: float
    threshold: float
    throttle: float


@dataclass(frozen=True, slots=True)
class GoOn:
    """Do another round.

    Attributes:
        throttle: the share of time in which the CPUs are kept from running from now on, from 0 to less than 1.
    """

    throttle: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.throttle < 1:
            raise ValueError(f"throttle {self.throttle:g} is not in [0, 1)")


@dataclass(frozen=True, slots=True)
class StopGuest:
    """Stop the guest, and send the rest."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the migration; the guest runs on at the source.

    Attributes:
        reason: NOT_CONVERGING or DEVICE_STATE_TOO_LARGE, for programs.
        detail: what is left, what is allowed, what would help, for people.
    """

    reason: Reason
    detail: str


Decision: TypeAlias = GoOn | StopGuest | GiveUp


class Policy(Protocol):
    """Decides after each round."""

    def decide(self, situation: Situation) -> Decision:
        """Say what comes after the round that has just ended."""


class MakePolicy(Protocol):
    """A class of policies."""

    def __call__(self, limits: Limits) -> Policy:
        """Make a policy for one migration within these limits."""
