# SPDX-License-Identifier: MIT
"""The migration data fd."""

from vfioemu.client.file import File
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s


class DataFd(File):
    """A saving or resuming stream: `read` (ENOMSG: no more while pre-copying; b"": the end), `write`."""

    async def precopy_info(self) -> s.PrecopyInfo:
        """VFIO_MIG_GET_PRECOPY_INFO: EINVAL outside PRE_COPY."""
        buffer = bytearray(s.PrecopyInfo().build())
        await self.ioctl_buffer(c.VFIO_MIG_GET_PRECOPY_INFO, buffer)
        return s.PrecopyInfo.parse(buffer)
