# SPDX-License-Identifier: MIT
"""Runtime power management of a device: what vfio core does before it lets anybody use a device that is suspended.

Kernel: dev->power, and vfio_device_pm_runtime_get(), which every ioctl of a device fd begins with. A driver that suspends its
device puts an object of a class of its own into `DeviceModel.power`; a device without one always has full power.
"""

from typing import Final

from vfioemu.core.base.effects import MaybeSteps


class RuntimePower:
    """The power of one device; as it is, of any that is never suspended.

    Attributes:
        engaged: the device is suspended, or may be, while nobody uses it.
    """

    engaged: bool = False

    def use(self) -> MaybeSteps[None]:
        """Resume the device: an ioctl, a read or a write came while `engaged` was True."""
        return None


FULL_POWER: Final = RuntimePower()
"""That of devices which are never suspended."""
