# SPDX-License-Identifier: MIT
"""How fast it goes and how fast it may go.

The bandwidth is measured in windows of 100 ms, as QEMU does: what was sent by the time that sending took. Time in which there was
nothing to send is no part of it: near the end of a migration that is most of the time, and bytes by wall-clock time would say that
the link is slow when it is the guest that is idle (QEMU has `avail-switchover-bandwidth` for users who know better). A window in
which next to nothing was sent tells next to nothing either, and changes nothing.

A limit of the user is kept by an account: each byte is paid for with time, and nothing is sent while there is a debt. One page may be
more than a slow link carries in seconds, and a wait that lasts a little too long is made good later, so that the limit holds on the
average over some windows, however low it is.
"""

from typing import Final

from vfioemu.migration.plan import PAGE, Limits

TELLING: Final = 8 << 20
"""Bytes from which on a window tells something about the link, however short a time they took: less may just have gone into
the buffers of a socket..."""
BUSY: Final = 0.5
"""... or the share of the window in which something was being sent, or of the limit of the user that was used up."""
SAVED: Final = 2.0
"""Windows for which time that was not used is kept: more would be a burst."""
SLOWEST: Final = 1 << 10
"""Bytes per second, the lowest limit that is kept: a page and its frame are some seconds of it."""


class Pace:
    """The window that is open now. It has no clock: the engine tells it the time.

    Attributes:
        bandwidth: bytes per second that the link carries, as far as it is used; 0 as long as nothing was measured.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.bandwidth = 0.0
        self._limits = limits
        self._began = now
        self._now = now
        self._paid_until = now - limits.window
        """What was sent is paid for by the time up to here; before now: time is left, after now: a debt."""
        self._sent = 0
        self._busy = 0.0
        self._measured = False

    @property
    def budget(self) -> int:
        """Bytes for the next slice; at least a page, which may leave a debt."""
        limit = self._limits.bandwidth
        if not limit:
            return self._limits.slice_bytes
        return max(PAGE, int(limit * min(self._now - self._paid_until, self._limits.window)))

    def count(self, sent: int, seconds: float) -> None:
        """Bytes went out, in so much time."""
        self._sent += sent
        self._busy += seconds
        if self._limits.bandwidth:
            self._paid_until += sent / self._limits.bandwidth

    def wait(self, now: float, *, idle: bool) -> float:
        """Seconds until the next slice may be sent; if there is nothing to send, until the window is over."""
        window = self._limits.window
        self._now = now
        self._paid_until = max(self._paid_until, now - SAVED * window)
        debt = self._paid_until + window - now if self._used_up else 0.0
        return max(0.0, debt, self._began + window - now if idle else 0.0)

    def measure(self, now: float) -> None:
        """Close the window if its time is over.

        Before the first one is over, what there is of it has to do: a small guest on a fast link would be syncing in
        a tight loop against a threshold of zero.
        """
        self._now = now
        limit, window = self._limits.bandwidth, self._limits.window
        elapsed = now - self._began
        over = elapsed >= window * 0.999
        much = bool(limit) and self._sent >= BUSY * limit * window
        telling = much or self._sent >= TELLING or self._busy >= BUSY * window
        if self._sent and self._busy > 0 and (telling and over if self._measured else elapsed > 0):
            bandwidth = self._sent / self._busy
            self.bandwidth = min(bandwidth, limit) if limit else bandwidth
        if over:
            self._measured = self._measured or bool(self._sent)
            self._began, self._sent, self._busy = now, 0, 0.0

    @property
    def _used_up(self) -> bool:
        """Less than a page could be sent now without a debt."""
        limit = self._limits.bandwidth
        return bool(limit) and (self._now - self._paid_until) * limit < PAGE
