# SPDX-License-Identifier: MIT
"""The default: stop as soon as the rest fits into the downtime limit; give up after so many rounds, or so long."""

from typing import Final

from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.policies.policy import Decision, GiveUp, GoOn, Situation, StopGuest


class PrecopyLimits:
    """Keeps `Limits.downtime`, `max_rounds` and `max_seconds`; never slows the guest down.

    Args:
        limits: what the user allows.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def decide(self, situation: Situation) -> Decision:
        """Stop the guest if what is left fits into the downtime limit, else go on within the limits."""
        if situation.left == 0 or situation.left < situation.threshold:
            return StopGuest()
        last = situation.rounds[-1]
        limits = self._limits
        if last.number <= limits.max_rounds and not 0 < limits.max_seconds < situation.seconds:
            return GoOn(situation.throttle)
        needed = (
            f"{situation.left / situation.bandwidth:.3g} s of downtime"
            if situation.bandwidth
            else "a faster connection"
        )
        if last.device_bytes > situation.threshold:
            return GiveUp(
                Reason.DEVICE_STATE_TOO_LARGE,
                f"{last.device_bytes} bytes of device state are above the threshold of"
                f" {situation.threshold:.0f} bytes; it would take {needed}",
            )
        return GiveUp(
            Reason.NOT_CONVERGING,
            f"after {last.number} rounds in {situation.seconds:.1f} s {situation.left} bytes are left, above the"
            f" threshold of {situation.threshold:.0f} bytes; it would take {needed}",
        )


POLICY: Final = PrecopyLimits
