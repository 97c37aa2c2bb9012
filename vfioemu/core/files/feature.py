# SPDX-License-Identifier: MIT
"""VFIO_DEVICE_FEATURE: the checks that all features share, in the kernel's order, and the features of the core.

Kernel: vfio_ioctl_device_feature() and vfio_check_feature(). A feature that the device does not implement is ENOTTY
before any check of its own operation or size; PROBE never looks at the size.
"""

import errno
from collections.abc import Callable, Mapping
from typing import Final

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import GiveFd, RevokeFd, Steps, finish, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.files import dma_logging
from vfioemu.core.files.data import DataFile
from vfioemu.core.objects.device import Device
from vfioemu.uapi import constants as c
from vfioemu.uapi.registry import FEATURES
from vfioemu.uapi.structs import (
    DeviceFeature,
    DeviceFeatureMigDataSize,
    DeviceFeatureMigration,
    DeviceFeatureMigState,
)

_KNOWN: Final = (
    c.VFIO_DEVICE_FEATURE_MASK
    | c.VFIO_DEVICE_FEATURE_GET
    | c.VFIO_DEVICE_FEATURE_SET
    | c.VFIO_DEVICE_FEATURE_PROBE
)
_GET_AND_SET: Final = c.VFIO_DEVICE_FEATURE_GET | c.VFIO_DEVICE_FEATURE_SET


def feature(device: Device, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_FEATURE.

    Raises:
        IoctlError: EFAULT, EINVAL, ENOTTY (no such feature here); then what the feature answers.
    """
    header = DeviceFeature.parse((yield from read_user(arg, DeviceFeature.SIZE)))
    if header.argsz < DeviceFeature.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {header.argsz} < {DeviceFeature.SIZE}")
    if header.flags & ~_KNOWN:
        raise IoctlError(errno.EINVAL, f"unknown flags {header.flags & ~_KNOWN:#x}")
    asked = header.flags & _GET_AND_SET
    if asked == _GET_AND_SET and not header.flags & c.VFIO_DEVICE_FEATURE_PROBE:
        raise IoctlError(errno.EINVAL, f"flags {header.flags:#x}: GET and SET at once")
    number = header.flags & c.VFIO_DEVICE_FEATURE_MASK
    handler = _HANDLERS.get(number)
    if not _offers(device, number):
        raise IoctlError(errno.ENOTTY, f"{device.symbol} has no feature {_named(number)}")
    row = FEATURES[number]
    if asked & ~row.ops:
        raise IoctlError(
            errno.EINVAL, f"flags {header.flags:#x}: {row.name} is for {_operations(row.ops)} alone"
        )
    if header.flags & c.VFIO_DEVICE_FEATURE_PROBE:
        return 0
    if not asked:
        raise IoctlError(errno.EINVAL, f"flags {header.flags:#x}: {row.name} with neither GET nor SET")
    size = row.payload.SIZE if row.payload else 0
    if header.argsz - DeviceFeature.SIZE < size:
        raise IoctlError(
            errno.EINVAL, f"argsz {header.argsz} < {DeviceFeature.SIZE + size}, what {row.name} takes"
        )
    if handler is None:
        room = header.argsz - DeviceFeature.SIZE
        return (yield from finish(device.model.feature(number, arg + DeviceFeature.SIZE, room))) or 0
    yield from handler(device, caller, asked, arg + DeviceFeature.SIZE)
    return 0


def _named(number: int) -> str:
    row = FEATURES.get(number)
    return f"{number}" if row is None else f"{number} ({row.name})"


def _operations(ops: int) -> str:
    return "GET" if ops == c.VFIO_DEVICE_FEATURE_GET else "SET"


def _offers(device: Device, number: int) -> bool:
    """Tell whether the device has a feature; one is missed with EINVAL.

    Kernel: vfio_ioctl_device_feature_migration_precopy_info_v2() looks for PRE_COPY where the others look for their
    operations.
    """
    if not device.profile.has_feature(number):
        return False
    if number not in _HANDLERS:
        return device.model.has_feature(number)
    if number in _LOGGING:
        return device.model.has_dma_logging
    if number == c.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
        if not device.migration_flags & c.VFIO_MIGRATION_PRE_COPY:
            raise IoctlError(errno.EINVAL, f"{device.symbol} has no pre-copy, so no MIG_PRECOPY_INFOv2")
        return True
    return device.migration_flags != 0


def _migration(device: Device, caller: Caller, asked: int, arg: int) -> Steps[None]:
    """vfio_ioctl_device_feature_migration()."""
    yield from write_user(arg, DeviceFeatureMigration(flags=device.migration_flags).build())


def _mig_device_state(device: Device, caller: Caller, asked: int, arg: int) -> Steps[None]:
    """vfio_ioctl_device_feature_mig_device_state().

    On failure the caller's structure gets data_fd -1 and the state that it asked for, not the one that it has; if that
    cannot be written, EFAULT wins over the device's own error.
    """
    mig = DeviceFeatureMigState.parse((yield from read_user(arg, DeviceFeatureMigState.SIZE)))
    refusal = None
    file = None
    state = mig.device_state
    # Several arcs may lie between two states: nobody sees the device in the middle, resets it, or sets another state.
    yield from locked(device.lock)
    try:
        if asked == c.VFIO_DEVICE_FEATURE_GET:
            state = device.migration.state
        else:
            session = yield from device.migration.set_state(state)
            file = None if session is None else DataFile(session, device.profile)
    except IoctlError as error:
        refusal = error
    finally:
        device.lock.release()
    if file is not None:
        yield from _return_fd(file, arg, state)
        return
    yield from write_user(arg, DeviceFeatureMigState(device_state=state, data_fd=-1).build())
    if refusal is not None:
        raise refusal


def _return_fd(file: DataFile, arg: int, state: int) -> Steps[None]:
    """vfio_ioct_mig_return_fd(): EMFILE or EFAULT drop the file, but the device's state has changed."""
    try:
        number: int = yield GiveFd(file)
    except IoctlError:
        yield from file.release()
        raise
    try:
        yield from write_user(arg, DeviceFeatureMigState(device_state=state, data_fd=number).build())
    except IoctlError:
        yield RevokeFd(number)
        yield from file.release()
        raise


def _mig_data_size(device: Device, caller: Caller, asked: int, arg: int) -> Steps[None]:
    """vfio_ioctl_device_feature_migration_data_size()."""
    size = device.model.stop_copy_size()
    yield from write_user(arg, DeviceFeatureMigDataSize(stop_copy_length=size).build())


def _mig_precopy_info_v2(device: Device, caller: Caller, asked: int, arg: int) -> Steps[None]:
    """Make the flags of PRECOPY_INFO an output, and ignore their input value from now on."""
    yield from ()
    device.migration.set_info_v2(True)


def _logging_start(device: Device, caller: Caller, asked: int, arg: int) -> Steps[None]:
    yield from dma_logging.start(device, arg)


def _logging_stop(device: Device, caller: Caller, asked: int, arg: int) -> Steps[None]:
    # A report that is under way is of the log that ends here.
    yield from locked(device.lock)
    try:
        yield from finish(device.model.log_stop())
    finally:
        device.lock.release()


def _logging_report(device: Device, caller: Caller, asked: int, arg: int) -> Steps[None]:
    yield from dma_logging.report(device, caller, arg)


_LOGGING: Final = frozenset(
    {
        c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
        c.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
        c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
    }
)
_HANDLERS: Final[Mapping[int, Callable[[Device, Caller, int, int], Steps[None]]]] = {
    c.VFIO_DEVICE_FEATURE_MIGRATION: _migration,
    c.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: _mig_device_state,
    c.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: _mig_data_size,
    c.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: _mig_precopy_info_v2,
    c.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: _logging_start,
    c.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: _logging_stop,
    c.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: _logging_report,
}
