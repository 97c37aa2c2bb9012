# SPDX-License-Identifier: MIT
"""Locks that generators can hold over a yield, without a scheduler in the core.

A handler acquires with ``yield Locked(lock)`` and releases with a plain ``lock.release()`` in a ``finally``. The core
knows no tasks, so a lock knows no tasks either: the driver that performs the effect passes a callable which resumes
the waiter, and the lock hands itself over in the order of asking (as the kernel's mutex does, nearly).
"""

from collections import deque
from collections.abc import Callable


class Lock:
    """A FIFO mutex whose waiters are callables.

    Args:
        name: for traces and for the assertion messages of a wrong release.
    """

    __slots__ = ("_held", "_waiters", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._held = False
        self._waiters: deque[Callable[[], None]] = deque()

    @property
    def held(self) -> bool:
        """Tell whether somebody holds the lock now."""
        return self._held

    def acquire(self, wake: Callable[[], None]) -> bool:
        """Take the lock, or queue `wake` to be called once the lock has been handed over to it.

        Returns:
            True when the lock is held by the caller now; False when `wake` will be called later.
        """
        if not self._held:
            self._held = True
            return True
        self._waiters.append(wake)
        return False

    def release(self) -> None:
        """Give the lock to the longest waiter, or set it free."""
        if not self._held:
            raise AssertionError(f"{self.name} released but not held")
        if self._waiters:
            self._waiters.popleft()()  # still held: it belongs to that waiter now
        else:
            self._held = False
