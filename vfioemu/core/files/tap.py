# SPDX-License-Identifier: MIT
"""A handler as seen from outside: what it read, wrote, took and gave, recorded as its driver performs it.

The tap stands between a handler and whatever drives it. It asks for nothing by itself, so that a traced call has the same effects
in the same order as any other.
"""

from typing import Protocol, TypeVar

from vfioemu.core.base.effects import EventFd, GiveFd, ReadUser, Steps, TakeFd, WriteUser
from vfioemu.core.base.file import File
from vfioemu.trace.decode import Capture
from vfioemu.trace.names import file_label

T = TypeVar("T")


class Watch(Protocol):
    """An observer that is told whose turn it is."""

    def enters(self) -> None:
        """Note that the handler goes on."""

    def leaves(self) -> None:
        """Note that the handler waits for an effect, or has ended."""


def tapped(steps: Steps[T], capture: Capture, watch: Watch | None = None) -> Steps[T]:
    """Run the same handler, and put all that passes into `capture`."""
    resume, value = steps.send, None
    while True:
        if watch is not None:
            watch.enters()
        try:
            effect = resume(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            if watch is not None:
                watch.leaves()
        try:
            value = yield effect
        except BaseException as error:  # noqa: BLE001 - it is the handler's, whatever it is
            resume, value = steps.throw, error
            continue
        resume = steps.send
        if isinstance(effect, ReadUser):
            capture.read.put(effect.addr, value)
        elif isinstance(effect, WriteUser):
            capture.written.put(effect.addr, effect.data)
        elif isinstance(effect, TakeFd):
            capture.fds[effect.number] = describe(value)
        elif isinstance(effect, GiveFd):
            capture.fds[value] = describe(effect.file)


def describe(thing: object) -> str:
    """Describe an fd in the words that a trace puts behind its number."""
    if isinstance(thing, File):
        return file_label(thing.kind, thing.label)
    return "eventfd" if isinstance(thing, EventFd) else "other"
