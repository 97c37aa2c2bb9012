# SPDX-License-Identifier: MIT
"""The default: stop as soon as the rest fits into the downtime limit; give up when the time is over, or after so many rounds."""

from typing import Final

from vfioemu.migration.plan import Limits, Reason
from vfioemu.migration.policies.policy import Decision, GiveUp, GoOn, Situation, StopGuest

HOPELESS: Final = 5.0
"""Seconds for which the state of devices may be too large by itself: the bandwidth may have been measured wrong."""


class PrecopyLimits:
    """Keeps `Limits.downtime`, `max_rounds` and the time that is allowed; never slows the guest down.

    Args:
        limits: what the user allows.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._too_large_since: float | None = None

    def decide(self, situation: Situation) -> Decision:
        """Stop the guest if what is left fits into the downtime limit, else go on within the limits."""
        if situation.left == 0 or situation.left < situation.threshold:
            return StopGuest()
        last = situation.rounds[-1]
        limits = self._limits
        # Rounds are counted from 0, and the last one only begins.
        used_up = 0 < limits.max_rounds <= last.number
        too_large = last.device_bytes > situation.threshold
        hopeless = self._is_hopeless(situation.seconds, too_large=too_large)
        if not (used_up or situation.over or hopeless):
            return GoOn(situation.throttle)
        limit = "--max-rounds" if used_up else f"--timeout {round(situation.timeout, 2):g}s"
        needed = (
            f"{situation.left / situation.bandwidth:.3g} s of downtime"
            if situation.bandwidth
            else "a faster connection"
        )
        if too_large:
            return GiveUp(
                Reason.DEVICE_STATE_TOO_LARGE,
                f"{last.device_bytes} bytes of device state, most of it that of {last.largest or 'one device'}, are above"
                f" the threshold of {situation.threshold:.0f} bytes, and do not become less; it would take {needed}",
            )
        return GiveUp(
            Reason.NOT_CONVERGING,
            f"after {last.number} round{'s' * (last.number != 1)} in {situation.seconds:.1f} s ({limit}) {situation.left}"
            f" bytes are left, above the threshold of {situation.threshold:.0f} bytes; it would take {needed}",
        )

    def _is_hopeless(self, seconds: float, *, too_large: bool) -> bool:
        """Whether the state of devices alone has been too large for a while: what they keep for the stop waits for nothing."""
        if not too_large:
            self._too_large_since = None
        elif self._too_large_since is None:
            self._too_large_since = seconds
        return self._too_large_since is not None and seconds - self._too_large_since >= HOPELESS


POLICY: Final = PrecopyLimits
