# SPDX-License-Identifier: MIT
"""A group's fd: /dev/vfio/N (drivers/vfio/group.c)."""

import errno
from typing import Final

from vfioemu.core.base import dispatch
from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import EventFd, ForeignFd, GiveFd, Steps, TakeFd, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.limits import DEVICE_NAME_MAX, PAGE_SIZE
from vfioemu.core.base.profile import Profile
from vfioemu.core.files.container import ContainerFile
from vfioemu.core.files.device import open_device
from vfioemu.core.objects.device import Device
from vfioemu.core.objects.group import Group
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.structs import GroupStatus

_FD_SIZE: Final = 4


def open_group(group: Group) -> Steps["GroupFile"]:
    """Open /dev/vfio/N: ENODEV, EBUSY."""
    yield from group.open()
    return GroupFile(group)


class GroupFile(File):
    """An open /dev/vfio/N."""

    kind = FdKind.GROUP

    def __init__(self, group: Group) -> None:
        self.group = group
        self.number = group.number

    @property
    def profile(self) -> Profile:
        """The profile of the container that the group is in, or else the machine's."""
        return self.group.profile

    @property
    def label(self) -> str:
        """The group's number."""
        return str(self.group.number)

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """Carry out an ioctl of a group, ENOTTY for any other. Kernel: vfio_group_fops_unl_ioctl()."""
        self.group.get_file()
        try:
            return (yield from dispatch.ioctl(TABLE, self, caller, cmd, arg))
        finally:
            yield from self.group.put_file()

    def release(self) -> Steps[None]:
        """Release the group, its fd being closed."""
        return self.group.put_file()


def _get_status(file: GroupFile, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_GROUP_GET_STATUS``: EFAULT, EINVAL, ENODEV when all its devices have been removed."""
    group = file.group
    status = GroupStatus.parse((yield from read_user(arg, GroupStatus.SIZE)))
    if status.argsz < GroupStatus.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {status.argsz} < {GroupStatus.SIZE}")
    yield from locked(group.lock)
    try:
        _refuse_orphan(group)
        flags = c.VFIO_GROUP_FLAGS_VIABLE if group.spec.viable else 0
        if group.container is not None:
            flags = c.VFIO_GROUP_FLAGS_VIABLE | c.VFIO_GROUP_FLAGS_CONTAINER_SET
    finally:
        group.lock.release()
    yield from write_user(arg, GroupStatus(argsz=status.argsz, flags=flags).build())
    return 0


def _set_container(file: GroupFile, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_GROUP_SET_CONTAINER``.

    Raises:
        IoctlError: EFAULT, EBADF, EINVAL with a container already, ENODEV, EBADFD for an fd that is no container,
            EPERM when the group is not viable, and what the container's backend says.

    Kernel: vfio_group_ioctl_set_container().
    """
    group = file.group
    number = int.from_bytes((yield from read_user(arg, _FD_SIZE)), "little", signed=True)
    taken: File | EventFd | ForeignFd = yield TakeFd(number)
    if isinstance(taken, EventFd):
        taken.close()
    # The caller's memory and fd were looked at before: a client that is slow to answer must not hold up the group.
    yield from locked(group.lock)
    try:
        if group.container is not None:
            raise IoctlError(errno.EINVAL, f"group {group.number} has a container")
        _refuse_orphan(group)
        if not isinstance(taken, ContainerFile):
            raise IoctlError(errno.EBADFD, f"fd {number} is no container")
        yield from taken.container.attach(group)
    finally:
        group.lock.release()
    return 0


def _unset_container(file: GroupFile, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_GROUP_UNSET_CONTAINER``: EINVAL without one, EBUSY while a device is open."""
    group = file.group
    yield from locked(group.lock)
    try:
        if group.container is None:
            raise IoctlError(errno.EINVAL, f"group {group.number} has no container")
        if group.opened_devices:
            raise IoctlError(errno.EBUSY, f"{group.opened_devices} devices of group {group.number} are open")
        yield from group.container.detach(group)
    finally:
        group.lock.release()
    return 0


def _get_device_fd(file: GroupFile, caller: Caller, arg: int) -> Steps[int]:
    """``VFIO_GROUP_GET_DEVICE_FD``: a new fd of the device of that name.

    Raises:
        IoctlError: EFAULT, EINVAL for a name of 4096 bytes and more, ENODEV, what the driver's own comparison says,
            EINVAL without a container or without its backend (the latter only at the first open), the driver's own
            errors, EMFILE.

    Kernel: vfio_group_ioctl_get_device_fd(), vfio_device_open_file().
    """
    group = file.group
    device = _find(group, (yield from _read_name(arg)))
    # Held over the whole open: the group must not leave its container between the check for it and the first open.
    yield from locked(group.lock)
    try:
        if device not in group.devices:
            raise IoctlError(errno.ENODEV, f"device {device.symbol} is being removed")
        opened = yield from open_device(device)
    finally:
        group.lock.release()
    # After the release: closing the device again (EMFILE) may take the group's lock.
    try:
        number: int = yield GiveFd(opened)
    except IoctlError:
        yield from opened.release()
        raise
    return number


TABLE: Final[dispatch.Table[GroupFile]] = {
    c.VFIO_GROUP_GET_STATUS: _get_status,
    c.VFIO_GROUP_SET_CONTAINER: _set_container,
    c.VFIO_GROUP_UNSET_CONTAINER: _unset_container,
    c.VFIO_GROUP_GET_DEVICE_FD: _get_device_fd,
}


def _find(group: Group, name: str) -> Device:
    """vfio_device_get_from_name()."""
    for device in group.devices:
        if device.matches(name):
            return device
    raise IoctlError(errno.ENODEV, f"group {group.number} has no device {name!r}")


def _refuse_orphan(group: Group) -> None:
    if not group.devices:
        raise IoctlError(errno.ENODEV, f"group {group.number} has lost its devices")


def _read_name(addr: int) -> Steps[str]:
    """strndup_user(): up to the NUL, page by page, so that nothing behind it has to be there."""
    name = b""
    while len(name) < DEVICE_NAME_MAX:
        at = addr + len(name)
        count = min(PAGE_SIZE - at % PAGE_SIZE, DEVICE_NAME_MAX - len(name))
        part = yield from read_user(at, count)
        head, nul, _ = part.partition(b"\0")
        name += head
        if nul:
            return name.decode(errors="surrogateescape")
    raise IoctlError(errno.EINVAL, f"a name of {DEVICE_NAME_MAX} bytes and more")
