# SPDX-License-Identifier: MIT
"""A scheduler that remembers which locks were taken, so that a lock that nobody gave back is found."""

from collections.abc import Generator
from typing import Any, TypeVar

from vfioemu.core.base.effects import Effect, Locked, Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.locks import Lock
from vfioemu.testing.scheduler import Performer, Scheduler, Task

T = TypeVar("T")


class Watcher(Scheduler):
    """A scheduler whose tasks' locks are known."""

    def __init__(self) -> None:
        super().__init__()
        self._locks: dict[int, Lock] = {}

    def spawn(self, steps: Steps[T], performer: Performer, name: str = "task") -> Task[T]:
        """Make a task of a handler, and look at what it locks."""
        return super().spawn(self._watch(steps), performer, name)

    def held(self) -> list[str]:
        """The names of the locks that are held now; ask while no task runs."""
        held = [lock.name for lock in self._locks.values() if lock.held]
        self._locks.clear()
        return held

    def _watch(self, steps: Steps[T]) -> Generator[Effect, Any, T]:
        try:
            effect = next(steps)
            while True:
                if isinstance(effect, Locked):
                    self._locks[id(effect.lock)] = effect.lock
                try:
                    result = yield effect
                except IoctlError as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
