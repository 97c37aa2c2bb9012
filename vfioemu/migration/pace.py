# SPDX-License-Identifier: MIT
"""How fast it goes and how fast it may go: bytes are counted, and limited, in windows of 100 ms as QEMU does."""

from vfioemu.migration.plan import PAGE, Limits


class Pace:
    """The window that is open now. It has no clock: the engine tells it the time.

    Attributes:
        bandwidth: bytes per second in the last window; 0 as long as nothing was measured.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.bandwidth = 0.0
        self._limits = limits
        self._began = now
        self._sent = 0
        self._measured = False

    @property
    def budget(self) -> int:
        """Bytes of RAM for the next slice."""
        limit = self._limits.bandwidth
        if not limit:
            return self._limits.slice_bytes
        return max(PAGE, int(limit * self._limits.window) - self._sent)

    def count(self, sent: int) -> None:
        """Bytes went out."""
        self._sent += sent

    def wait(self, now: float, *, idle: bool) -> float:
        """Seconds until the window is over, if its bytes are used up or there is nothing to send; else 0."""
        limit = self._limits.bandwidth
        used_up = limit and self._sent >= limit * self._limits.window
        left = self._began + self._limits.window - now
        return max(0.0, left) if used_up or idle else 0.0

    def measure(self, now: float) -> None:
        """Close the window if its time is over.

        Before the first one is over, what there is of it has to do: a small guest on a fast link would be syncing in
        a tight loop against a threshold of zero.
        """
        elapsed = now - self._began
        over = elapsed >= self._limits.window * 0.999
        if elapsed > 0 and self._sent and (over or not self._measured):
            limit = self._limits.bandwidth
            bandwidth = self._sent / elapsed
            self.bandwidth = min(bandwidth, limit) if limit else bandwidth
        if over:
            self._measured = self._measured or bool(self._sent)
            self._began, self._sent = now, 0
