# SPDX-License-Identifier: MIT
"""The group and its fd: drivers/vfio/group.c.

A group is opened once at a time. Every opened device holds a reference to the group's file, as does every call on it,
so what closing the group fd does (leaving the container, being free for the next open) waits for the last of them.
"""

import errno
from typing import TYPE_CHECKING, Final

from vfioemu.core.base import dispatch
from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import EventFd, ForeignFd, GiveFd, Steps, TakeFd, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.limits import DEVICE_NAME_MAX, PAGE_SIZE
from vfioemu.core.base.locks import Lock
from vfioemu.core.objects.container import Container, ContainerFile
from vfioemu.core.objects.spec import GroupSpec
from vfioemu.uapi.constants import VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE
from vfioemu.uapi.kinds import FdKind
from vfioemu.uapi.structs import GroupStatus

if TYPE_CHECKING:
    from vfioemu.core.objects.device import Device

_FD_SIZE: Final = 4


class Group:
    """struct vfio_group.

    Attributes:
        spec: its number, the IOMMU behind it, whether it is viable.
        devices: its devices, newest first.
        lock: group_lock; held before the container's and a device's.
        container: where it is; None outside.
        opened_devices: how many of its devices are open; container_users is one more while it has a container.
        file: the open file, until nothing refers to it.
    """

    def __init__(self, spec: GroupSpec) -> None:
        self.spec = spec
        self.devices: list[Device] = []
        self.lock = Lock(f"group {spec.number}")
        self.container: Container | None = None
        self.opened_devices = 0
        self.file: GroupFile | None = None
        self._references = 0

    @property
    def behind_iommu(self) -> bool:
        """Whether the DMA of its devices goes through an IOMMU."""
        return self.spec.iommu is not None

    @property
    def number(self) -> int:
        """N of /dev/vfio/N."""
        return self.spec.number

    def open(self) -> Steps["GroupFile"]:
        """vfio_group_fops_open(): ENODEV without a device, EBUSY while it or one of its devices is open."""
        yield from locked(self.lock)
        try:
            if not self.devices:
                raise IoctlError(errno.ENODEV, f"group {self.number} has no device")
            if self.file is not None:
                raise IoctlError(errno.EBUSY, f"group {self.number} is open")
            self.file = GroupFile(self)
            self._references = 1
            return self.file
        finally:
            self.lock.release()

    def device_opened(self, device: "Device") -> None:
        """The first open of a device, with the container's backend there (vfio_group_use_container())."""
        del device
        self.opened_devices += 1
        self.get_file()

    def device_closed(self, device: "Device") -> Steps[None]:
        """The last close of a device, or a first open that failed (vfio_group_unuse_container())."""
        del device
        self.opened_devices -= 1
        yield from self.put_file()

    def get_file(self) -> None:
        """Something more refers to the open file (get_file())."""
        self._references += 1

    def put_file(self) -> Steps[None]:
        """It does not any more; the last one releases the group (fput(), vfio_group_fops_release())."""
        self._references -= 1
        if self._references:
            return
        yield from locked(self.lock)
        try:
            if self.container is not None:
                yield from self.container.detach(self)
            self.file = None
        finally:
            self.lock.release()


class GroupFile(File):
    """An open /dev/vfio/N."""

    kind = FdKind.GROUP

    def __init__(self, group: Group) -> None:
        self.group = group
        self.number = group.number

    @property
    def label(self) -> str:
        """The group's number."""
        return str(self.group.number)

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """vfio_group_fops_unl_ioctl(): ENOTTY for what is not a group's."""
        self.group.get_file()
        try:
            return (yield from dispatch.ioctl(self, caller, cmd, arg))
        finally:
            yield from self.group.put_file()

    def get_status(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_GROUP_GET_STATUS``: EFAULT, EINVAL, ENODEV when all its devices have been removed."""
        del caller
        group = self.group
        status = GroupStatus.parse((yield from read_user(arg, GroupStatus.SIZE)))
        if status.argsz < GroupStatus.SIZE:
            raise IoctlError(errno.EINVAL, f"argsz {status.argsz} < {GroupStatus.SIZE}")
        yield from locked(group.lock)
        try:
            self._refuse_orphan()
            flags = VFIO_GROUP_FLAGS_VIABLE if group.spec.viable else 0
            if group.container is not None:
                flags = VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET
        finally:
            group.lock.release()
        yield from write_user(arg, GroupStatus(argsz=status.argsz, flags=flags).build())
        return 0

    def set_container(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_GROUP_SET_CONTAINER``.

        Raises:
            IoctlError: EFAULT, EBADF, EINVAL with a container already, ENODEV, EBADFD for an fd that is no container,
                EPERM when the group is not viable, and what the container's backend says.

        Kernel: vfio_group_ioctl_set_container().
        """
        del caller
        group = self.group
        number = int.from_bytes((yield from read_user(arg, _FD_SIZE)), "little", signed=True)
        taken: File | EventFd | ForeignFd = yield TakeFd(number)
        if isinstance(taken, EventFd):
            taken.close()
        yield from locked(group.lock)
        try:
            if group.container is not None:
                raise IoctlError(errno.EINVAL, f"group {group.number} has a container")
            self._refuse_orphan()
            if not isinstance(taken, ContainerFile):
                raise IoctlError(errno.EBADFD, f"fd {number} is no container")
            yield from taken.container.attach(group)
        finally:
            group.lock.release()
        return 0

    def unset_container(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_GROUP_UNSET_CONTAINER``: EINVAL without one, EBUSY while a device is open."""
        del caller, arg
        group = self.group
        yield from locked(group.lock)
        try:
            if group.container is None:
                raise IoctlError(errno.EINVAL, f"group {group.number} has no container")
            if group.opened_devices:
                raise IoctlError(
                    errno.EBUSY, f"{group.opened_devices} devices of group {group.number} are open"
                )
            yield from group.container.detach(group)
        finally:
            group.lock.release()
        return 0

    def get_device_fd(self, caller: Caller, arg: int) -> Steps[int]:
        """``VFIO_GROUP_GET_DEVICE_FD``: a new fd of the device of that name.

        Raises:
            IoctlError: EFAULT, EINVAL for a name of 4096 bytes and more, ENODEV, what the driver's own comparison says,
                EINVAL without a container or without its backend (the latter only at the first open), the driver's own
                errors, EMFILE.

        Kernel: vfio_group_ioctl_get_device_fd(), vfio_device_open_file().
        """
        del caller
        group = self.group
        device = self._find((yield from _read_name(arg)))
        yield from locked(group.lock)
        try:
            if device not in group.devices:
                raise IoctlError(errno.ENODEV, f"device {device.symbol} is being removed")
            file = yield from device.open()
        finally:
            group.lock.release()
        try:
            number: int = yield GiveFd(file)
        except IoctlError:
            yield from file.release()
            raise
        return number

    def _find(self, name: str) -> "Device":
        """vfio_device_get_from_name()."""
        for device in self.group.devices:
            if device.matches(name):
                return device
        raise IoctlError(errno.ENODEV, f"group {self.group.number} has no device {name!r}")

    def _refuse_orphan(self) -> None:
        if not self.group.devices:
            raise IoctlError(errno.ENODEV, f"group {self.group.number} has lost its devices")

    def release(self) -> Steps[None]:
        """The fd is closed."""
        return self.group.put_file()


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
