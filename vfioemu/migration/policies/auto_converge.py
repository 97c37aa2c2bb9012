# SPDX-License-Identifier: MIT
"""Slow the CPUs of the guest down, more and more, while they write faster than the link carries: QEMU's auto-converge.

As migration_trigger_throttle() in QEMU's migration/ram.c: if in two rounds more than half of what a round has sent was
written again, the CPUs stand still for a fifth of the time, and after each two more such rounds for a tenth more. Devices are
not slowed down, here as there: what writes by DMA alone converges no better.
"""

from typing import Final

from vfioemu.migration.plan import PAGE, Limits
from vfioemu.migration.policies.policy import Decision, GoOn, Situation
from vfioemu.migration.policies.precopy_limits import PrecopyLimits

INITIAL: Final = 0.20
"""QEMU's cpu-throttle-initial."""
INCREMENT: Final = 0.10
"""QEMU's cpu-throttle-increment."""
MOST: Final = 0.99
"""QEMU's max-cpu-throttle."""
TRIGGER: Final = 0.50
"""QEMU's throttle-trigger-threshold: written again, of what was sent."""
ROUNDS: Final = 2
"""Rounds that have to be like that before the CPUs are slowed down, or slowed down more."""


class AutoConverge:
    """Stops the guest, and gives up, as `PrecopyLimits` does.

    Args:
        limits: what the user allows.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = PrecopyLimits(limits)
        self._high = 0
        """Rounds with too many writes since the CPUs were slowed down last."""

    def decide(self, situation: Situation) -> Decision:
        """Decide as `PrecopyLimits`, and slow the CPUs down if it goes on."""
        decision = self._limits.decide(situation)
        if not isinstance(decision, GoOn):
            return decision
        before, last = situation.rounds[-2], situation.rounds[-1]
        if last.dirtied * PAGE > TRIGGER * before.ram_bytes:
            self._high += 1
        if self._high < ROUNDS:
            return GoOn(situation.throttle)
        self._high = 0
        throttle = situation.throttle + INCREMENT if situation.throttle else INITIAL
        return GoOn(min(MOST, round(throttle, 2)))


POLICY: Final = AutoConverge
