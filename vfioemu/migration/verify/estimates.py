# SPDX-License-Identifier: MIT
"""What a device says that it still has to send while it runs (PRECOPY_INFO), and what came of it.

The engine stops the guest when little is left, and what is left is what devices say. Estimates may be wrong; a device that speaks of
gigabytes and has a few bytes keeps its guest from being stopped for ever.
"""

from dataclasses import dataclass

from vfioemu.migration.verify.echo import SLACK


@dataclass(frozen=True, slots=True)
class Estimate:
    """The last that a device said, in bytes, and how many have come since, its state in STOP_COPY included."""

    said: int = 0
    came: int = 0


class Estimates:
    """Those of all devices of a migration."""

    def __init__(self) -> None:
        self._last: dict[str, Estimate] = {}

    def __getitem__(self, device: str) -> Estimate:
        """Return the last one of a device."""
        return self._last.get(device, Estimate())

    def said(self, device: str, pending: int) -> None:
        """Note what a device says that is left."""
        self._last[device] = Estimate(pending)

    def came(self, device: str, size: int) -> None:
        """Note that bytes of a device were read."""
        last = self[device]
        self._last[device] = Estimate(last.said, last.came + size)


def is_too_much(said: int, came: int) -> bool:
    """Tell whether a device has spoken of more than twice as much as came, and a MiB: no estimate is that wrong."""
    return said > 2 * came + SLACK
