# SPDX-License-Identifier: MIT
"""Device interrupts: what a model says of them, the eventfds behind them, and the simplest SET_IRQS.

The ioctls of the device fd are core/files/irqs.py.
"""

import errno
import struct
from dataclasses import dataclass

from vfioemu.core.base.effects import EventFd, Signal, Steps, TakeFd
from vfioemu.core.base.errors import IoctlError
from vfioemu.uapi import constants as c


@dataclass(frozen=True, slots=True)
class Irq:
    """One interrupt index of a device.

    Attributes:
        count: how many vectors it has; 0 for one that the device does not have.
        flags: VFIO_IRQ_INFO_*.
    """

    count: int
    flags: int = c.VFIO_IRQ_INFO_EVENTFD


@dataclass(frozen=True, slots=True)
class IrqRequest:
    """A SET_IRQS call whose header is valid for the device, with its data.

    Attributes:
        data: one byte (BOOL) or one 32-bit fd (EVENTFD) per vector.
    """

    index: int
    start: int
    count: int
    flags: int
    data: bytes

    @property
    def action(self) -> int:
        """The ACTION bits: none, one or several; the driver decides."""
        return self.flags & c.VFIO_IRQ_SET_ACTION_TYPE_MASK

    @property
    def turns_off(self) -> bool:
        """DATA_NONE with no vector: all of the index are given up."""
        return bool(self.flags & c.VFIO_IRQ_SET_DATA_NONE) and self.count == 0

    def fds(self) -> tuple[int, ...]:
        """Return the eventfd numbers of an EVENTFD request."""
        return struct.unpack(f"<{self.count}i", self.data)


class IrqTable:
    """The eventfds of a device's vectors, by (index, vector)."""

    def __init__(self) -> None:
        self._triggers: dict[tuple[int, int], EventFd] = {}

    def has(self, index: int, vector: int) -> bool:
        """Tell whether an eventfd is set."""
        return (index, vector) in self._triggers

    def replace(self, index: int, vector: int, eventfd: EventFd | None) -> None:
        """Put `eventfd` in the place of the one that is there, which is closed; None leaves the place empty."""
        old = self._triggers.pop((index, vector), None)
        if old is not None:
            old.close()
        if eventfd is not None:
            self._triggers[index, vector] = eventfd

    def drop(self, index: int | None = None) -> None:
        """Close the eventfds of one index, or all."""
        for key in [key for key in self._triggers if index is None or key[0] == index]:
            self._triggers.pop(key).close()

    def signal(self, index: int, vector: int) -> Steps[bool]:
        """Signal a vector; False if it has no eventfd."""
        eventfd = self._triggers.get((index, vector))
        if eventfd is None:
            return False
        yield Signal(eventfd)
        return True


def take_eventfd(number: int) -> Steps[EventFd | None]:
    """eventfd_ctx_fdget(): a reference to the caller's eventfd; None for a negative number.

    Raises:
        IoctlError: EBADF for what is not open, EINVAL for what is no eventfd.
    """
    if number < 0:
        return None
    taken = yield TakeFd(number)
    if not isinstance(taken, EventFd):
        raise IoctlError(errno.EINVAL, f"fd {number} is not an eventfd")
    return taken


def trigger_irqs(table: IrqTable, request: IrqRequest) -> Steps[None]:
    """Carry out SET_IRQS in the simplest way: every vector by itself, and ACTION_TRIGGER only.

    Vectors before the one that fails stay changed.

    Raises:
        IoctlError: ENOTTY for another action, EBADF and EINVAL for what is no eventfd.
    """
    if request.action != c.VFIO_IRQ_SET_ACTION_TRIGGER:
        raise IoctlError(
            errno.ENOTTY, f"flags: no handler for action {request.action:#x} of index {request.index}"
        )
    if request.turns_off:
        table.drop(request.index)
    elif request.flags & c.VFIO_IRQ_SET_DATA_EVENTFD:
        for vector, number in enumerate(request.fds(), request.start):
            table.replace(request.index, vector, (yield from take_eventfd(number)))
    else:
        for i in range(request.count):
            if request.flags & c.VFIO_IRQ_SET_DATA_NONE or request.data[i]:
                yield from table.signal(request.index, request.start + i)
