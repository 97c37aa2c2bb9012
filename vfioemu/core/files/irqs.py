# SPDX-License-Identifier: MIT
"""The interrupts of a device fd: GET_IRQ_INFO, and the part of SET_IRQS that is the same for all drivers.

Kernel: vfio_set_irqs_validate_and_prepare() for the checks; the order of copies is that of the drivers, which all
read the 20-byte header, have it validated, and only then copy the data.
"""

import errno
from typing import Final

from vfioemu.core.base.effects import Steps, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.model.device import DeviceModel
from vfioemu.core.model.irqs import IrqRequest
from vfioemu.uapi import constants as c
from vfioemu.uapi.structs import IrqInfo, IrqSet

_U32_MAX: Final = 0xFFFFFFFF
_KNOWN_FLAGS: Final = c.VFIO_IRQ_SET_DATA_TYPE_MASK | c.VFIO_IRQ_SET_ACTION_TYPE_MASK
_ELEMENT_SIZE: Final = {
    c.VFIO_IRQ_SET_DATA_NONE: 0,
    c.VFIO_IRQ_SET_DATA_BOOL: 1,
    c.VFIO_IRQ_SET_DATA_EVENTFD: 4,
}


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


def get_irq_info(model: DeviceModel, arg: int) -> Steps[int]:
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


def read_request(model: DeviceModel, arg: int) -> Steps[IrqRequest]:
    """Read VFIO_DEVICE_SET_IRQS up to the driver's own part: EFAULT, EINVAL."""
    header = IrqSet.parse((yield from read_user(arg, IrqSet.SIZE)))
    size = validate_and_prepare(header, model.irq_limit(header.index), len(model.irqs()))
    data = (yield from read_user(arg + IrqSet.SIZE, size)) if size else b""
    return IrqRequest(header.index, header.start, header.count, header.flags, data)
