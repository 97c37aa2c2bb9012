# SPDX-License-Identifier: MIT
"""The migration data fd."""

from vfioemu.client.file import File
from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s


class DataFd(File):
    """A saving or resuming stream. `read` raises ENOMSG when pre-copy has no data for now; b"" is the end."""

    async def precopy_info(self) -> s.PrecopyInfo:
        """Call VFIO_MIG_GET_PRECOPY_INFO: EINVAL outside PRE_COPY."""
        buffer = bytearray(s.PrecopyInfo().build())
        await self.ioctl_buffer(c.VFIO_MIG_GET_PRECOPY_INFO, buffer)
        return s.PrecopyInfo.parse(buffer)
