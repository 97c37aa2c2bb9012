# SPDX-License-Identifier: MIT
"""How fast it goes and how fast it may go: bytes are counted, and limited, in windows of 100 ms as QEMU does.

The bandwidth is what was sent by the time that sending took. Time in which there was nothing to send is no part of it: near
the end of a migration that is most of the time, and bytes by wall-clock time would say that the link is slow when it is the
guest that is idle (QEMU has `avail-switchover-bandwidth` for users who know better). A window in which next to nothing was
sent tells next to nothing either, and changes nothing.
"""

from typing import Final

from vfioemu.migration.plan import PAGE, Limits

TELLING: Final = 8 << 20
"""Bytes from which on a window tells something about the link, however short a time they took: less may just have gone into
the buffers of a socket..."""
BUSY: Final = 0.5
"""... or the share of the window in which something was being sent, if the link is slow."""


class Pace:
    """The window that is open now. It has no clock: the engine tells it the time.

    Attributes:
        bandwidth: bytes per second that the link carries, as far as it is used; 0 as long as nothing was measured.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.bandwidth = 0.0
        self._limits = limits
        self._began = now
        self._sent = 0
        self._busy = 0.0
        self._measured = False

    @property
    def budget(self) -> int:
        """Bytes of RAM for the next slice."""
        limit = self._limits.bandwidth
        if not limit:
            return self._limits.slice_bytes
        return max(PAGE, int(limit * self._limits.window) - self._sent)

    def count(self, sent: int, seconds: float) -> None:
        """Bytes went out, in so much time."""
        self._sent += sent
        self._busy += seconds

    def wait(self, now: float, *, idle: bool) -> float:
        """Seconds until the window is over, if its bytes are used up or there is nothing to send; else 0."""
        left = self._began + self._limits.window - now
        return max(0.0, left) if self._used_up or idle else 0.0

    def measure(self, now: float) -> None:
        """Close the window if its time is over.

        Before the first one is over, what there is of it has to do: a small guest on a fast link would be syncing in
        a tight loop against a threshold of zero.
        """
        elapsed = now - self._began
        over = elapsed >= self._limits.window * 0.999
        telling = self._used_up or self._sent >= TELLING or self._busy >= BUSY * self._limits.window
        if self._sent and self._busy > 0 and (telling and over if self._measured else elapsed > 0):
            limit = self._limits.bandwidth
            bandwidth = self._sent / self._busy
            self.bandwidth = min(bandwidth, limit) if limit else bandwidth
        if over:
            self._measured = self._measured or bool(self._sent)
            self._began, self._sent, self._busy = now, 0, 0.0

    @property
    def _used_up(self) -> bool:
        limit = self._limits.bandwidth
        return bool(limit) and self._sent >= limit * self._limits.window
