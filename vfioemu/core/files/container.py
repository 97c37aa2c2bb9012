# SPDX-License-Identifier: MIT
"""The container's fd: /dev/vfio/vfio (drivers/vfio/container.c)."""

import errno
from typing import Final

from vfioemu.core.base.caller import Caller
from vfioemu.core.base.dispatch import Table, serving
from vfioemu.core.base.effects import Steps
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File
from vfioemu.core.base.profile import Profile
from vfioemu.core.objects.container import Container
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind


class ContainerFile(File):
    """An open /dev/vfio/vfio."""

    kind = FdKind.CONTAINER

    def __init__(self, container: Container) -> None:
        self.container = container

    @property
    def profile(self) -> Profile:
        """The container's profile."""
        return self.container.profile

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """Serve three ioctls that are the container's own; all others are the backend's, and EINVAL without one.

        Kernel: vfio_fops_unl_ioctl().
        """
        serve = serving(TABLE, self.profile, self.kind, cmd)
        if serve is not None:
            return (yield from serve(self, caller, arg))
        iommu = self.container.iommu
        if iommu is None:
            raise IoctlError(errno.EINVAL, f"ioctl {cmd:#x} before SET_IOMMU")
        return (yield from iommu.ioctl(caller, cmd, arg))

    def release(self) -> Steps[None]:
        """Release the container, the last reference to the file being gone. Kernel: vfio_fops_release()."""
        yield from ()
        self.container.closed()


def _get_api_version(file: ContainerFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_GET_API_VERSION; never fails."""
    yield from ()
    return c.VFIO_API_VERSION


def _check_extension(file: ContainerFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_CHECK_EXTENSION: 0 or 1, never an error; the argument has 64 bits."""
    yield from ()
    return file.container.check_extension(arg)


def _set_iommu(file: ContainerFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_SET_IOMMU: EINVAL, ENODEV, EPERM."""
    yield from file.container.set_iommu(arg)
    return 0


TABLE: Final[Table[ContainerFile]] = {
    c.VFIO_GET_API_VERSION: _get_api_version,
    c.VFIO_CHECK_EXTENSION: _check_extension,
    c.VFIO_SET_IOMMU: _set_iommu,
}
