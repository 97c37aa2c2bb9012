# SPDX-License-Identifier: MIT
"""How much is said about one client: a burst of lines, then one a second with the number of those left out."""

from typing import Final

import trio

_BURST: Final = 20
_PERIOD: Final = 1.0


class Throttle:
    """Decides whether a line is logged."""

    __slots__ = ("_at", "_said", "_unsaid")

    def __init__(self) -> None:
        self._at = 0.0
        self._said = 0
        self._unsaid = 0

    def allows(self) -> bool:
        """Decide whether to log a line now; it counts as logged, or as left out."""
        now = trio.current_time()
        if now - self._at >= _PERIOD:
            self._said = max(0, self._said - int((now - self._at) / _PERIOD))
            self._at = now
        if self._said >= _BURST:
            self._unsaid += 1
            return False
        self._said += 1
        return True

    def left_out(self) -> str:
        """Return what to append to a line: how many were left out before it."""
        unsaid, self._unsaid = self._unsaid, 0
        return f" ({unsaid} more left out)" if unsaid else ""
