# SPDX-License-Identifier: MIT
"""The group: /dev/vfio/N."""

from vfioemu.client.container import Container
from vfioemu.client.device import Device
from vfioemu.client.file import File
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s


class Group(File):
    """A group; every method raises OSError with the kernel's errno."""

    async def get_status(self) -> int:
        """Call VFIO_GROUP_GET_STATUS; return VFIO_GROUP_FLAGS_*."""
        buffer = bytearray(s.GroupStatus().build())
        await self.ioctl_buffer(c.VFIO_GROUP_GET_STATUS, buffer)
        return s.GroupStatus.parse(buffer).flags

    async def set_container(self, container: Container | int) -> None:
        """Call VFIO_GROUP_SET_CONTAINER: EINVAL, EBADF, EBADFD, EPERM."""
        number = container if isinstance(container, int) else container.fileno()
        await self.ioctl_buffer(
            c.VFIO_GROUP_SET_CONTAINER, bytearray(number.to_bytes(4, "little", signed=True))
        )

    async def unset_container(self) -> None:
        """Call VFIO_GROUP_UNSET_CONTAINER: EINVAL, EBUSY."""
        await self.ioctl(c.VFIO_GROUP_UNSET_CONTAINER)

    async def get_device_fd(self, name: str) -> int:
        """Call VFIO_GROUP_GET_DEVICE_FD; return the fd. ENODEV, EINVAL, EMFILE."""
        return await self.ioctl_buffer(c.VFIO_GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"))

    async def get_device(self, name: str) -> Device:
        """Call VFIO_GROUP_GET_DEVICE_FD; return the device as an object."""
        return Device(self.session, await self.get_device_fd(name))
