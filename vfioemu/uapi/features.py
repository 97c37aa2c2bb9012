# SPDX-License-Identifier: MIT
"""One row per device feature, and the classes by which calls and features can be selected; see registry.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from vfioemu.uapi import constants as c
from vfioemu.uapi import structs as s
from vfioemu.uapi.payload import Payload

FEATURE_ERRNOS: Final = "EFAULT EINVAL ENOTTY"
"""The checks that all features share: vfio_ioctl_device_feature() and vfio_check_feature()."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of VFIO_DEVICE_FEATURE.

    Attributes:
        name: as in <linux/vfio.h>, without VFIO_DEVICE_FEATURE_.
        number: the low 16 bits of `flags`.
        payload: what follows the header; None for nothing.
        ops: VFIO_DEVICE_FEATURE_GET, _SET or both.
        errnos: what it may fail with once a device has it; without it, ENOTTY.
        served: whether any device model here has it.
        classes: what a trace can select it by, besides VFIO_DEVICE_FEATURE's own.
    """

    name: str
    number: int
    payload: type[Payload] | None
    ops: int
    errnos: frozenset[str]
    served: bool
    classes: frozenset[str] = frozenset()

    @property
    def c_name(self) -> str:
        """The whole name in <linux/vfio.h>."""
        return f"VFIO_DEVICE_FEATURE_{self.name}"


def _feature(
    number: int,
    name: str,
    payload: type[Payload] | None,
    ops: int,
    errnos: str,
    served: bool,
    classes: str = "",
) -> Feature:
    return Feature(
        name,
        number,
        payload,
        ops,
        frozenset(f"{FEATURE_ERRNOS} {errnos}".split()),
        served,
        frozenset(classes.split()),
    )


_GET: Final = c.VFIO_DEVICE_FEATURE_GET
_SET: Final = c.VFIO_DEVICE_FEATURE_SET
_DRIVER: Final = "EIO EBUSY ENOMEM ETIMEDOUT EAGAIN"
"""What a migration driver's own failures look like: hardware that does not answer, resources it does not get."""

FEATURES: Final[Mapping[int, Feature]] = MappingProxyType(
    {
        feature.number: feature
        for feature in (
            _feature(0, "PCI_VF_TOKEN", s.DeviceFeaturePciVfToken, _SET, "", False),
            _feature(1, "MIGRATION", s.DeviceFeatureMigration, _GET, "", True, "migration"),
            _feature(
                2,
                "MIG_DEVICE_STATE",
                s.DeviceFeatureMigState,
                _GET | _SET,
                f"EMFILE {_DRIVER}",
                True,
                "migration",
            ),
            _feature(3, "LOW_POWER_ENTRY", None, _SET, "EPERM", True),
            _feature(
                4, "LOW_POWER_ENTRY_WITH_WAKEUP", s.DeviceLowPowerEntryWithWakeup, _SET, "EPERM EBADF", True
            ),
            _feature(5, "LOW_POWER_EXIT", None, _SET, "", True),
            _feature(
                6,
                "DMA_LOGGING_START",
                s.DeviceFeatureDmaLoggingControl,
                _SET,
                "E2BIG EOVERFLOW EEXIST EIO ENOMEM",
                True,
                "dirty",
            ),
            _feature(7, "DMA_LOGGING_STOP", None, _SET, "EIO", True, "dirty"),
            _feature(
                8,
                "DMA_LOGGING_REPORT",
                s.DeviceFeatureDmaLoggingReport,
                _GET,
                "EOVERFLOW EIO ENOMEM",
                True,
                "dirty",
            ),
            _feature(9, "MIG_DATA_SIZE", s.DeviceFeatureMigDataSize, _GET, _DRIVER, True, "migration"),
            _feature(10, "BUS_MASTER", s.DeviceFeatureBusMaster, _SET, "", False),
            _feature(11, "DMA_BUF", s.DeviceFeatureDmaBuf, _GET, "ENODEV ENOMEM EOVERFLOW EMFILE", True),
            _feature(12, "MIG_PRECOPY_INFOv2", None, _SET, "", True, "migration"),
        )
    }
)

CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dirty": "dirty page tracking of containers and devices",
        "dma": "mapping and unmapping",
        "feature": "VFIO_DEVICE_FEATURE, whatever feature",
        "group": "groups, containers and the devices that they give",
        "info": "questions that change nothing",
        "irq": "interrupts",
        "migration": "states, streams and sizes of migration",
        "region": "regions of a device",
        "reset": "resets",
    }
)
"""What calls can be selected by, and what that means; a trace adds those of calls that are no ioctls."""
