# SPDX-License-Identifier: MIT
"""What a device says that it is: how a guest finds the driver for it."""

import errno

from vfioemu import client
from vfioemu.migration.deadlines import asked
from vfioemu.uapi import constants as u


async def read_ids(file: client.Device) -> bytes:
    """Read vendor and device id, before a register is touched: what a read does to others nobody knows.

    Returns:
        Four bytes of config space; nothing for a device without.
    """
    try:
        info = file.region_info(u.VFIO_PCI_CONFIG_REGION_INDEX)
        region = await asked(file, "VFIO_DEVICE_GET_REGION_INFO", info)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return b""
    if region.size < 4 or not region.flags & u.VFIO_REGION_INFO_FLAG_READ:
        return b""
    return await asked(file, "a read of config space", file.pread(4, region.offset))
