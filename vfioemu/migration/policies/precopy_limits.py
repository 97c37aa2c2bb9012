# SPDX-License-Identifier: MIT
"""The default: stop as soon as the rest fits into the downtime limit; give up when the time is over, or after so many rounds."""

from typing import Final

from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.policies.policy import Decision, GiveUp, GoOn, Situation, StopGuest


class PrecopyLimits:
    """Keeps `Limits.downtime`, `max_rounds` and the time that is allowed; never slows the guest down.

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
        used_up = (
            0 < limits.max_rounds <= last.number
        )  # rounds are counted from 0, and the last one only begins
        if not used_up and not situation.over:
            return GoOn(situation.throttle)
        limit = "--max-rounds" if used_up else f"--timeout {situation.timeout:g}s"
        needed = (
            f"{situation.left / situation.bandwidth:.3g} s of downtime"
            if situation.bandwidth
            else "a faster connection"
        )
        if last.device_bytes > situation.threshold:
            return GiveUp(
                Reason.DEVICE_STATE_TOO_LARGE,
                f"{last.device_bytes} bytes of device state, most of it that of {last.largest or 'one device'}, are above"
                f" the threshold of {situation.threshold:.0f} bytes after {situation.seconds:.1f} s ({limit}); it would"
                f" take {needed}",
            )
        return GiveUp(
            Reason.NOT_CONVERGING,
            f"after {last.number} round{'s' * (last.number != 1)} in {situation.seconds:.1f} s ({limit}) {situation.left}"
            f" bytes are left, above the threshold of {situation.threshold:.0f} bytes; it would take {needed}",
        )


POLICY: Final = PrecopyLimits
