# SPDX-License-Identifier: MIT
"""The waits of a source after COMMIT: nobody may cut them off, but the user can make them short."""

from collections.abc import Awaitable
from typing import Final, TypeVar

import trio

T = TypeVar("T")

IN_DOUBT: Final = 1.5
"""Seconds that the answer to COMMIT has when the user has asked for the end: one that is alive needs far less."""


class Doubt:
    """What is waited for after COMMIT.

    Attributes:
        until: when the last wait ends, whatever comes; infinite as long as nobody has asked for the end.
    """

    def __init__(self) -> None:
        self.until = float("inf")
        self._scope: trio.CancelScope | None = None
        self._spare = 0.0

    def shorten(self) -> None:
        """Wait no longer than IN_DOUBT from now on."""
        self.until = min(self.until, trio.current_time() + IN_DOUBT)
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self.until - self._spare)

    async def wait(self, work: Awaitable[T], deadline: float = float("inf"), spare: float = 0.0) -> T | None:
        """Wait for an answer; None if it has not come by the deadline, or `spare` seconds before `until`."""
        with trio.CancelScope(deadline=min(deadline, self.until - spare)) as scope:
            self._scope, self._spare = scope, spare
            try:
                return await work
            finally:
                self._scope = None
        return None
