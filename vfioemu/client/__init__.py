# SPDX-License-Identifier: MIT
"""The async client of the vfioemu daemon: VFIO's files as objects, and any ioctl with any bytes.

    async with vfioemu.client.connect(path) as session:
        container = await session.open_container()
        group = await session.open_group(12)
        await group.set_container(container)
        await container.set_iommu(VFIO_TYPE1v2_IOMMU)
        device = await group.get_device("00000000-0000-4000-8000-000000000001")

A call that the kernel would refuse raises OSError with the kernel's errno. Nothing else is interpreted.
"""

from vfioemu.client.container import Container
from vfioemu.client.control import Control, ControlError, control
from vfioemu.client.data import DataFd
from vfioemu.client.device import Device
from vfioemu.client.dirty import ranges
from vfioemu.client.file import File
from vfioemu.client.group import Group
from vfioemu.client.memory import Memory
from vfioemu.client.session import DaemonGone, Session, connect

__all__ = [
    "Container",
    "Control",
    "ControlError",
    "DaemonGone",
    "DataFd",
    "Device",
    "File",
    "Group",
    "Memory",
    "Session",
    "connect",
    "control",
    "ranges",
]
