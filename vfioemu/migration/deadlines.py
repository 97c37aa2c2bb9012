# SPDX-License-Identifier: MIT
"""Calls to a daemon, each with a deadline.

A daemon that was stopped, or is swapped out, answers nobody. Who waits for it longer than `--call-timeout` gets ETIMEDOUT. The call
itself is not cut, since nobody could tell whether it takes effect: a call that is cut ends its connection, and the daemon, when it
wakes up, may do what it asked for after what was asked for later on another connection; a device would be stopped after it has said
that it runs. So a call that is late stays open in the background, with the memory that it names, and whatever is
asked of the same file afterwards waits for it, within its own deadline. What it brings is thrown away.

A daemon that has answered nothing for twice that time is not asked any more; the first answer, to whatever call, ends that.
When the user has asked for the end (`hurry`), a silent daemon is left within a second; one that answers, however slowly, is not.
"""

import errno
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

import trio

from vfioemu.client import callname
from vfioemu.client.file import File
from vfioemu.client.session import Session

CALL_TIMEOUT: Final = 5.0
"""Seconds that a call may take, if the user has not said it."""
HURRY: Final = 1.0
"""Seconds that a call may take when the user has asked for the end."""

T = TypeVar("T")


class DaemonSilent(OSError):
    """The daemon has not answered in time (ETIMEDOUT); what it was asked for may still happen."""

    def __init__(self, what: str, seconds: float, why: str) -> None:
        super().__init__(errno.ETIMEDOUT, f"the daemon has not answered {what} for {seconds:.1f} s ({why})")
        callname.name_failed(self, callname.in_words(what))


class _Call(Generic[T]):
    """One call that was made, and what became of it."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.done = trio.Event()
        self.answer: list[T] = []
        self.error: Exception | None = None
        self.left = False
        """Nobody waits for it any more."""

    async def run(self, work: Coroutine[Any, Any, T]) -> None:
        """Make the call."""
        try:
            self.answer.append(await work)
        except Exception as error:  # noqa: BLE001 - raised by `take`, in the task that has asked
            self.error = error
        finally:
            self.done.set()
            if self.left:
                self._throw_away()

    def take(self) -> T:
        """Return what it brought, or raise."""
        if self.error is None:
            return self.answer.pop()
        error, self.error = self.error, None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame, and memory that somebody wants to unmap

    def leave(self) -> None:
        """Wait for it no more."""
        self.left = True
        if self.done.is_set():
            self._throw_away()

    def _throw_away(self) -> None:
        self.error = None
        for answer in self.answer:
            if isinstance(answer, File):
                answer.close()
        self.answer.clear()


class Calls:
    """All calls to one daemon.

    Args:
        limit: seconds that each of them may take.
    """

    def __init__(self, limit: float = CALL_TIMEOUT) -> None:
        self.limit = limit
        self._open: dict[object, _Call[Any]] = {}
        self._scopes: set[trio.CancelScope] = set()
        self._hurried_until = float("inf")
        self._answered = float("-inf")

    async def make(self, on: object, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Make a call, after the calls on the same file that are still open.

        Args:
            on: what it is a call on.
            what: how the call is named in the error.
            work: the call.

        Raises:
            DaemonSilent: it took too long.
            OSError: what the call raises.
        """
        began = trio.current_time()
        call: _Call[T] | None = None
        try:
            with trio.CancelScope(deadline=self._deadline(on, began)) as scope:
                self._scopes.add(scope)
                while (earlier := self._open.get(on)) is not None:
                    await earlier.done.wait()
                await trio.lowlevel.checkpoint_if_cancelled()
                call = self._open[on] = _Call(began)
                trio.lowlevel.spawn_system_task(self._run, on, call, work)
                await call.done.wait()
                return call.take()
        finally:
            self._scopes.discard(scope)
            if call is None:
                work.close()
            elif call.answer or call.error or not call.done.is_set():
                call.leave()
        hurried = self._hurried_until != float("inf")
        why = "the migration was to be ended" if hurried else f"--call-timeout {self.limit:g}s"
        raise DaemonSilent(what, trio.current_time() - min(began, self._silent_since), why)

    def hurry(self) -> None:
        """Leave a daemon that is silent soon: the user has asked for the end."""
        self._hurried_until = trio.current_time() + HURRY
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._hurried_until)

    def calm(self) -> None:
        """Be as patient as before."""
        self._hurried_until = float("inf")

    def _deadline(self, on: object, now: float) -> float:
        deadline = min(now + self.limit, self._hurried_until)
        deadline = min(deadline, self._silent_since + 2 * self.limit)
        earlier = self._open.get(on)
        if earlier is not None and earlier.left:
            deadline = min(deadline, earlier.began + 2 * self.limit)
        return deadline

    @property
    def _silent_since(self) -> float:
        """When the daemon was asked for what it has not answered yet, or answered last; never, if nothing is late."""
        late = [call.began for call in self._open.values() if call.left]
        return max(min(late), self._answered) if late else float("inf")

    async def _run(self, on: object, call: _Call[T], work: Coroutine[Any, Any, T]) -> None:
        try:
            await call.run(work)
        finally:
            del self._open[on]
        self._answered = trio.current_time()
        if self._hurried_until != float("inf"):
            self._hurried_until = max(self._hurried_until, self._answered + HURRY)


_of_session: WeakKeyDictionary[Session, Calls] = WeakKeyDictionary()
_UNKNOWN: Final = Calls()
"""For files of sessions that nobody has set a limit for."""


def limit_calls(session: Session, calls: Calls) -> None:
    """Set the deadlines of all calls on files of a session."""
    _of_session[session] = calls


async def asked(file: File, what: str, work: Coroutine[Any, Any, T]) -> T:
    """Make a call on a file, within the deadline of its session; as `Calls.make`."""
    return await _of_session.get(file.session, _UNKNOWN).make(file, what, work)


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Bound something that may be cut, because all that depends on it is given up with it.

    Raises:
        DaemonSilent: it took too long.
    """
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise DaemonSilent(what, seconds, f"--call-timeout {seconds:g}s")
