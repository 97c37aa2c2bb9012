# SPDX-License-Identifier: MIT
"""Device interrupts: GET_IRQ_INFO, the generic part of SET_IRQS, and the eventfds behind them.

Kernel: vfio_set_irqs_validate_and_prepare() for the checks; the order of copies is that of the drivers, which all
read the 20-byte header, have it validated, and only then copy the data.
"""

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from vfioemu.core.base.effects import EventFd, Signal, Steps, TakeFd, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import IrqInfo, IrqSet

_U32_MAX: Final = 0xFFFFFFFF
_KNOWN_FLAGS: Final = c.VFIO_IRQ_SET_DATA_TYPE_MASK | c.VFIO_IRQ_SET_ACTION_TYPE_MASK
_ELEMENT_SIZE: Final = {
    c.VFIO_IRQ_SET_DATA_NONE: 0,
    c.VFIO_IRQ_SET_DATA_BOOL: 1,
    c.VFIO_IRQ_SET_DATA_EVENTFD: 4,
}


@dataclass(frozen=True, slots=True)
class Irq:
    """One interrupt index of a device.

    Attributes:
        count: how many vectors it has; 0 for one that the device does not have.
        flags: VFIO_IRQ_INFO_*.
    """

    count: int
    flags: int = c.VFIO_IRQ_INFO_EVENTFD


class IrqSource(Protocol):
    """What has interrupts: a DeviceModel, whose methods these are."""

    def irqs(self) -> Sequence[Irq | None]:
        """See DeviceModel."""

    def irq_info(self, index: int) -> Irq | None:
        """See DeviceModel."""

    def irq_limit(self, index: int) -> int:
        """See DeviceModel."""


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
        """The eventfd numbers of an EVENTFD request."""
        return struct.unpack(f"<{self.count}i", self.data)


class IrqTable:
    """The eventfds of a device's vectors, by (index, vector)."""

    def __init__(self) -> None:
        self._triggers: dict[tuple[int, int], EventFd] = {}

    def has(self, index: int, vector: int) -> bool:
        """Whether an eventfd is set."""
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


def validate_and_prepare(header: IrqSet, num_irqs: int, max_irqs: int) -> int:
    """Check a SET_IRQS header; returns how many bytes of data follow it.

    Args:
        header: as the caller wrote it.
        num_irqs: how many vectors the header's index has.
        max_irqs: how many indices the device has.

    Raises:
        IoctlError: EINVAL.
    """
    if header.argsz < IrqSet.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {header.argsz} < {IrqSet.SIZE}")
    if header.index >= max_irqs:
        raise IoctlError(errno.EINVAL, f"index {header.index}, the device has {max_irqs} irq indices")
    if header.count >= _U32_MAX - header.start:
        raise IoctlError(errno.EINVAL, f"start {header.start} + count {header.count} wraps")
    if header.flags & ~_KNOWN_FLAGS:
        raise IoctlError(errno.EINVAL, f"unknown flags {header.flags & ~_KNOWN_FLAGS:#x}")
    if header.start >= num_irqs or header.start + header.count > num_irqs:
        raise IoctlError(
            errno.EINVAL,
            f"start {header.start} + count {header.count}: index {header.index} has {num_irqs} vectors",
        )
    size = _ELEMENT_SIZE.get(header.flags & c.VFIO_IRQ_SET_DATA_TYPE_MASK)
    if size is None:
        raise IoctlError(
            errno.EINVAL, f"flags {header.flags:#x}: not exactly one of DATA_NONE, DATA_BOOL and DATA_EVENTFD"
        )
    if header.argsz - IrqSet.SIZE < header.count * size:
        raise IoctlError(errno.EINVAL, f"argsz {header.argsz} does not hold {header.count} x {size} bytes")
    return header.count * size


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
    """The simplest SET_IRQS that a driver can have: every vector by itself, and ACTION_TRIGGER only.

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


def get_irq_info(model: IrqSource, arg: int) -> Steps[int]:
    """VFIO_DEVICE_GET_IRQ_INFO: EFAULT, EINVAL."""
    info = IrqInfo.parse((yield from read_user(arg, IrqInfo.SIZE)))
    if info.argsz < IrqInfo.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {info.argsz} < {IrqInfo.SIZE}")
    irq = model.irq_info(info.index)
    if irq is None:
        raise IoctlError(errno.EINVAL, f"index {info.index}: the device has no such irq")
    answer = IrqInfo(argsz=info.argsz, flags=irq.flags, index=info.index, count=irq.count)
    yield from write_user(arg, answer.build())
    return 0


def read_request(model: IrqSource, arg: int) -> Steps[IrqRequest]:
    """The part of VFIO_DEVICE_SET_IRQS before the driver's own: EFAULT, EINVAL."""
    header = IrqSet.parse((yield from read_user(arg, IrqSet.SIZE)))
    size = validate_and_prepare(header, model.irq_limit(header.index), len(model.irqs()))
    data = (yield from read_user(arg + IrqSet.SIZE, size)) if size else b""
    return IrqRequest(header.index, header.start, header.count, header.flags, data)
