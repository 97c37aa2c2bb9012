# SPDX-License-Identifier: MIT
"""Drives handlers of the core in one thread: to their end, or interleaved at every effect.

A task is a generator of effects together with the process that called. `Scheduler.run` drives tasks until one of them
is done; a task that waits for a lock lets the others go on, as threads in the kernel would. With a `choose` function
the scheduler changes the task before and after every effect, so that a test can try the orders in which two calls may
meet.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from vfioemu.core.base.effects import Effect, Locked, Steps
from vfioemu.core.base.errors import IoctlError

T = TypeVar("T")


class Performer(Protocol):
    """The performer of a task's effects."""

    def perform(self, effect: Effect, task: "Task[Any]") -> object:
        """Carry out one effect (never Locked) of a task and return its result; raises IoctlError."""


class DeadlockError(AssertionError):
    """No task can go on: each waits for a lock."""


class Task(Generic[T]):
    """One running handler.

    Attributes:
        done: it returned or raised.
        waiting: the lock it waits for, if any.
        effects: how many have been carried out.
        at_end: called once the handler has ended: what a call holds while it runs is given back here.
    """

    def __init__(self, steps: Steps[T], performer: Performer, name: str) -> None:
        self.name = name
        self.done = False
        self.waiting: str | None = None
        self.effects = 0
        self.at_end: list[Callable[[], None]] = []
        self._steps = steps
        self._performer = performer
        self._effect: Effect | None = None
        self._send: object = None
        self._throw: IoctlError | None = None
        self._value: Any = None
        self._error: IoctlError | None = None

    def result(self) -> T:
        """Return what the handler returned; raise the IoctlError that it raised."""
        if not self.done:
            raise RuntimeError(f"{self.name} is not done")
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def advance(self, wake: Callable[["Task[Any]"], None]) -> None:
        """Run the handler up to its next effect, or carry that effect out: the one that comes next.

        Between the two another task may run, as it may while a daemon waits for a client's memory.
        """
        if self._effect is None:
            self._go_on()
        else:
            self._perform(wake)

    def run_on(self, wake: Callable[["Task[Any]"], None]) -> None:
        """Run the handler until it ends or waits for a lock."""
        while not self.done and self.waiting is None:
            if self._effect is None:
                self._go_on()
            else:
                self._perform(wake)

    def _go_on(self) -> None:
        try:
            if self._throw is not None:
                error, self._throw = self._throw, None
                self._effect = self._steps.throw(error)
            else:
                self._effect = self._steps.send(self._send)
        except StopIteration as stop:
            self._value = stop.value
            self._finish()
        except IoctlError as error:
            self._error = error
            self._finish()

    def _perform(self, wake: Callable[["Task[Any]"], None]) -> None:
        effect, self._effect = self._effect, None
        if effect is None:
            raise AssertionError("there is no effect to carry out")
        self._send = None
        self.effects += 1
        if isinstance(effect, Locked):
            lock = effect.lock
            if not lock.acquire(lambda: self._resume(wake)):
                self.waiting = lock.name
            return
        try:
            self._send = self._performer.perform(effect, self)
        except IoctlError as error:
            self._throw = error

    def _finish(self) -> None:
        self.done = True
        for give_back in self.at_end:
            give_back()

    def _resume(self, wake: Callable[["Task[Any]"], None]) -> None:
        self.waiting = None
        wake(self)


class Scheduler:
    """Runs tasks in one thread.

    Args:
        choose: picks the task that goes on; without it a task runs until it waits or ends.
    """

    def __init__(self, choose: Callable[[Sequence[Task[Any]]], Task[Any]] | None = None) -> None:
        self.choose = choose
        self._ready: list[Task[Any]] = []

    def spawn(self, steps: Steps[T], performer: Performer, name: str = "task") -> Task[T]:
        """Make a task of a handler; nothing of it runs yet."""
        task = Task(steps, performer, name)
        self._ready.append(task)
        return task

    def step(self, task: Task[Any]) -> bool:
        """Let a task make one effect; returns whether it can go on at once.

        Raises:
            ValueError: the task is done, or waits for a lock.
        """
        before = task.effects
        able = True
        while able and task.effects == before:
            able = self._advance(task)
        return able

    def run(self, task: Task[T]) -> T:
        """Run until `task` is done (others may run too) and return its result.

        Raises:
            DeadlockError: it waits for a lock that nobody who runs will release.
        """
        while not task.done:
            self._run_one(task)
        return task.result()

    def run_all(self, most: int | None = None) -> None:
        """Run until no task can go on, or `most` of them have (tasks may make new ones for ever)."""
        done = 0
        while self._ready and (most is None or done < most):
            self._run_one(self._ready[0])
            done += 1

    def call(self, steps: Steps[T], performer: Performer, name: str = "call") -> T:
        """Spawn a task and run it to its end."""
        return self.run(self.spawn(steps, performer, name))

    def _run_one(self, wanted: Task[Any]) -> None:
        if not self._ready:
            raise DeadlockError(f"{wanted.name} waits for {wanted.waiting} and nothing else can run")
        if self.choose is not None:
            self._advance(self.choose(tuple(self._ready)))
            return
        task = wanted if wanted in self._ready else self._ready[0]
        self._ready.remove(task)
        append = self._ready.append
        task.run_on(append)

    def _advance(self, task: Task[Any]) -> bool:
        self._ready.remove(task)
        task.advance(self._ready.append)
        if task.done or task.waiting is not None:
            return False
        self._ready.append(task)
        return True
