# SPDX-License-Identifier: MIT
"""Device DMA logging: the checks of START, STOP and REPORT, and how a report reaches the caller's bitmap.

Kernel: vfio_ioctl_device_feature_logging_start(), _stop() and _report() in drivers/vfio/vfio_main.c, and
drivers/iommu/iommufd/iova_bitmap.c. The log itself is the model's (`DeviceModel.log_start`, `log_stop`, `log_report`).

A REPORT ORs into the caller's memory: bits are only ever set, and bytes for which nothing is dirty are not touched.
**What cannot be written is lost without an error**, as in the kernel: the device's log is clear by then.
"""

import errno
from dataclasses import replace
from typing import Final

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps, finish, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.limits import PAGE_SIZE, U64_MAX
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange
from vfioemu.core.objects.device import Device
from vfioemu.uapi.structs import (
    DeviceFeatureDmaLoggingControl,
    DeviceFeatureDmaLoggingRange,
    DeviceFeatureDmaLoggingReport,
)

LOG_MAX_RANGES: Final = PAGE_SIZE // DeviceFeatureDmaLoggingRange.SIZE


def start(device: Device, arg: int) -> Steps[None]:
    """DMA_LOGGING_START, after the checks that all features share.

    Raises:
        IoctlError: EFAULT, EINVAL, E2BIG (over 256 ranges), EOVERFLOW (also for an end of exactly 2^64), the model's.
    """
    control = DeviceFeatureDmaLoggingControl.parse(
        (yield from read_user(arg, DeviceFeatureDmaLoggingControl.SIZE))
    )
    if control.num_ranges == 0:
        raise IoctlError(errno.EINVAL, "num_ranges is 0")
    if control.num_ranges > LOG_MAX_RANGES:
        raise IoctlError(errno.E2BIG, f"num_ranges {control.num_ranges} > {LOG_MAX_RANGES}")
    ranges: list[LogRange] = []
    for i in range(control.num_ranges):
        at = (control.ranges + i * DeviceFeatureDmaLoggingRange.SIZE) & U64_MAX
        asked = DeviceFeatureDmaLoggingRange.parse(
            (yield from read_user(at, DeviceFeatureDmaLoggingRange.SIZE))
        )
        ranges.append(_check_range(asked, control.page_size, ranges))
    ranges.sort(key=lambda range_: range_.start)
    # The ranges were read without the lock. The page size is written back under it: if that fails the log ends again
    # before anyone else can report from it.
    yield from locked(device.lock)
    try:
        page_size = yield from device.between_activities(_begin(device, control.page_size, ranges))
        answer = replace(control, page_size=page_size)
        try:
            yield from write_user(arg, answer.build())
        except IoctlError:
            yield from finish(device.model.log_stop())
            raise
    finally:
        device.lock.release()


def _begin(device: Device, page_size: int, ranges: list[LogRange]) -> Steps[int]:
    """Begin a log with no transfer under way: a transfer does not know of a new log, and its writes would be lost."""
    return (yield from finish(device.model.log_start(page_size, ranges)))


def _check_range(asked: DeviceFeatureDmaLoggingRange, page_size: int, earlier: list[LogRange]) -> LogRange:
    """One range: aligned to the *requested* page size by mask, whatever that is; no wrap; no overlap."""
    mask = (page_size - 1) & U64_MAX
    if asked.iova & mask or asked.length & mask:
        which = f"iova {asked.iova:#x}" if asked.iova & mask else f"length {asked.length:#x}"
        raise IoctlError(errno.EINVAL, f"{which} is not a multiple of page_size {page_size:#x}")
    if asked.iova + asked.length > U64_MAX:
        raise IoctlError(errno.EOVERFLOW, f"iova {asked.iova:#x} + length {asked.length:#x} passes 2^64 - 1")
    range_ = LogRange(asked.iova, (asked.iova + asked.length - 1) & U64_MAX)
    for other in earlier:
        if range_.overlaps(other):
            raise IoctlError(
                errno.EINVAL, f"ranges: iova {asked.iova:#x} overlaps the one at {other.start:#x}"
            )
    return range_


def report(device: Device, caller: Caller, arg: int) -> Steps[None]:
    """DMA_LOGGING_REPORT, after the checks that all features share.

    Raises:
        IoctlError: EFAULT (the argument, never the bitmap), EINVAL, EOVERFLOW, the model's.
    """
    asked = DeviceFeatureDmaLoggingReport.parse(
        (yield from read_user(arg, DeviceFeatureDmaLoggingReport.SIZE))
    )
    if asked.page_size < PAGE_SIZE or asked.page_size & (asked.page_size - 1):
        what = f"is less than {PAGE_SIZE:#x}" if asked.page_size < PAGE_SIZE else "is not a power of two"
        raise IoctlError(errno.EINVAL, f"page_size {asked.page_size:#x} {what}")
    if asked.iova + asked.length > U64_MAX:
        raise IoctlError(errno.EOVERFLOW, f"iova {asked.iova:#x} + length {asked.length:#x} passes 2^64 - 1")
    sink = DirtySink(asked.iova, asked.length, asked.page_size, caller.space, asked.bitmap)
    # The device forgets what it reports, so nobody may end the log, or begin another one, in the middle of it.
    yield from locked(device.lock)
    try:
        yield from finish(device.model.log_report(asked.iova, asked.length, sink))
    finally:
        device.lock.release()
    yield from sink.deliver()
