# SPDX-License-Identifier: MIT
"""The view of a device's author: all that a model of a device is written with, from one import.

The modules of this room may import memory and base. They know no container, no group and no fd: a model is given a
`Host`. docs/devices.md says how a device is written; these names are what it promises.
"""

from vfioemu.core.base.effects import Buffer, MaybeSteps, Steps, finish
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import Mapped
from vfioemu.core.memory.iova_bitmap import DirtySink, LogRange
from vfioemu.core.model.device import DeviceModel, Factory
from vfioemu.core.model.host import Host
from vfioemu.core.model.irqs import Irq, IrqRequest, IrqTable, take_eventfd
from vfioemu.core.model.quirks import DriverQuirks
from vfioemu.core.model.regions import ABSENT, READ_WRITE, Region
from vfioemu.core.model.streams import (
    ERROR,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    STOP,
    STOP_COPY,
    ResumingStream,
    SavingStream,
    StateLost,
)

__all__ = [
    "ABSENT",
    "ERROR",
    "PRE_COPY",
    "PRE_COPY_P2P",
    "READ_WRITE",
    "RESUMING",
    "RUNNING",
    "RUNNING_P2P",
    "STOP",
    "STOP_COPY",
    "Buffer",
    "DeviceModel",
    "DirtySink",
    "DriverQuirks",
    "Factory",
    "Host",
    "IoctlError",
    "Irq",
    "IrqRequest",
    "IrqTable",
    "LogRange",
    "Mapped",
    "MaybeSteps",
    "Region",
    "ResumingStream",
    "SavingStream",
    "StateLost",
    "Steps",
    "finish",
    "take_eventfd",
]
