# SPDX-License-Identifier: MIT
"""Bytes on their way into a wire, and out of it: what a channel moves step by step (transport.py).

Pages have their own: through a plain socket one call of C moves all runs of a frame, and sums what it receives. A frame of
scattered pages has thousands of runs, and a Python object for each would cost more than the copy.
"""

import select

from vfioemu.migration.plan import PAGE
from vfioemu.migration.stream import lost
from vfioemu.migration.wire import PlainWire, Wire
from vfioemu.native.move import PagesIn, PagesOut
from vfioemu.native.runs import Runs
from vfioemu.native.sums import SumTable


class Push:
    """Bytes on their way into a wire."""

    def __init__(self, views: list[memoryview]) -> None:
        self._views = views
        self.moved = 0
        self.events = select.POLLOUT

    def step(self, wire: Wire) -> bool:
        """Push until the wire is full; True when all is in it."""
        while self._views:
            try:
                count = wire.send(self._views)
            except BlockingIOError:
                return False
            if count == 0:
                raise lost("nothing more can be sent")
            self.moved += count
            _consume(self._views, count)
        return True

    def drop(self) -> None:
        """Forget what was not moved."""
        self._views.clear()


class Pull:
    """Bytes on their way from a wire into memory."""

    def __init__(self, views: list[memoryview]) -> None:
        self._views = views
        self.moved = 0
        self.events = select.POLLIN

    def step(self, wire: Wire) -> bool:
        """Take what there is; True when all has come."""
        while self._views:
            try:
                count = wire.receive(self._views)
            except BlockingIOError:
                return False
            if count == 0:
                raise lost("the peer closed the connection in the middle of a frame")
            self.moved += count
            _consume(self._views, count)
        return True

    def drop(self) -> None:
        """Forget what has not come."""
        self._views.clear()


class PagePush(Push):
    """A frame with pages on its way into a plain socket."""

    def __init__(self, head: bytes, memory: memoryview, runs: Runs) -> None:
        super().__init__([])
        self._pages = PagesOut(head, memory, runs)

    def step(self, wire: Wire, timeout: int = 0) -> bool:
        """Push for up to `timeout` milliseconds, or once."""
        try:
            return self._pages.step(wire.sock.fileno(), timeout)
        finally:
            self.moved = self._pages.moved

    def drop(self) -> None:
        """Let go of the memory."""
        self._pages.drop()


class PagePull(Pull):
    """The pages of a frame on their way from a plain socket into memory, where they are summed."""

    def __init__(self, memory: memoryview, runs: Runs, sums: SumTable) -> None:
        super().__init__([])
        self._pages = PagesIn(memory, runs, sums)

    def step(self, wire: Wire, timeout: int = 0) -> bool:
        """Take for up to `timeout` milliseconds, or once."""
        try:
            return self._pages.step(wire.sock.fileno(), timeout)
        except BrokenPipeError:
            raise lost("the peer closed the connection in the middle of a frame") from None
        finally:
            self.moved = self._pages.moved

    def drop(self) -> None:
        """Let go of the memory."""
        self._pages.drop()


def push_pages(wire: Wire, head: bytes, memory: memoryview, runs: Runs) -> Push:
    """Make what sends a head and pages."""
    if isinstance(wire, PlainWire):
        return PagePush(head, memory, runs)
    return Push([memoryview(head), *_views(memory, runs)])


def pull_pages(wire: Wire, memory: memoryview, runs: Runs, sums: SumTable) -> Pull:
    """Make what receives pages; a PagePull has also summed them."""
    if isinstance(wire, PlainWire):
        return PagePull(memory, runs, sums)
    return Pull(_views(memory, runs))


def _views(memory: memoryview, runs: Runs) -> list[memoryview]:
    return [memory[first * PAGE : (first + length) * PAGE] for first, length in runs]


def _consume(views: list[memoryview], count: int) -> None:
    """Drop the first `count` bytes of a list of views."""
    done = 0
    for view in views:
        if count < len(view):
            break
        count -= len(view)
        done += 1
    del views[:done]
    if count:
        views[0] = views[0][count:]
