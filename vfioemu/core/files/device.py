# SPDX-License-Identifier: MIT
"""A device fd: VFIO_DEVICE_* ioctls, and the regions as one file."""

import errno
from typing import Final

from vfioemu.core.base import dispatch
from vfioemu.core.base.caller import Caller
from vfioemu.core.base.effects import Steps, finish, locked, read_user, write_user
from vfioemu.core.base.errors import IoctlError
from vfioemu.core.base.file import File, Mapped
from vfioemu.core.base.profile import Profile
from vfioemu.core.base.userrange import refuse_bad_range
from vfioemu.core.files import irqs, regions
from vfioemu.core.files.feature import feature
from vfioemu.core.model.regions import OFFSET_SHIFT
from vfioemu.core.objects.device import Device
from vfioemu.uapi import constants as c
from vfioemu.uapi.kinds import FdKind

_INFO_MINSZ: Final = 16


def open_device(device: Device) -> Steps["DeviceFile"]:
    """vfio_device_open_file(): a new file on the device; errors as `Device.open`."""
    yield from device.open()
    return DeviceFile(device)


class DeviceFile(File):
    """A device fd ("[vfio-device]")."""

    kind = FdKind.DEVICE

    def __init__(self, device: Device) -> None:
        self.device = device
        self._position = 0

    @property
    def profile(self) -> Profile:
        """The device's profile."""
        return self.device.profile

    @property
    def label(self) -> str:
        """The device's symbol."""
        return self.device.symbol

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Steps[int]:
        """Dispatch; ENOTTY for what neither vfio core nor the driver knows."""
        steps = dispatch.ioctl(TABLE, self, caller, cmd, arg)
        return self._resume_first(steps) if self.device.model.power.engaged else steps

    def _resume_first(self, steps: Steps[int]) -> Steps[int]:
        """vfio_device_pm_runtime_get()."""
        yield from finish(self.device.model.power.use())
        return (yield from steps)

    def read(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """read(2) at the file's own position, which moves only if the driver moves it."""
        done = yield from self.pread(caller, addr, size, self._position)
        if self.device.model.quirks.moves_position:
            self._position += done
        return done

    def write(self, caller: Caller, addr: int, size: int) -> Steps[int]:
        """write(2) at the file's own position, which moves only if the driver moves it."""
        done = yield from self.pwrite(caller, addr, size, self._position)
        if self.device.model.quirks.moves_position:
            self._position += done
        return done

    def pread(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """Read a region: EFAULT, EINVAL, the model's."""
        steps = regions.read(self.device.regions, addr, size, offset)
        engaged = self.device.model.power.engaged
        return self._resume_if_used(steps, addr, size, offset) if engaged else steps

    def pwrite(self, caller: Caller, addr: int, size: int, offset: int) -> Steps[int]:
        """Write a region: EFAULT, EINVAL, the model's."""
        steps = regions.write(self.device.regions, addr, size, offset)
        engaged = self.device.model.power.engaged
        return self._resume_if_used(steps, addr, size, offset) if engaged else steps

    def _resume_if_used(self, steps: Steps[int], addr: int, size: int, offset: int) -> Steps[int]:
        """vfio_pci_rw(): what has an index of the device's and is not empty resumes it, even if it is refused then."""
        refuse_bad_range(addr, size, offset)
        if not size or offset >> OFFSET_SHIFT >= len(self.device.regions.regions()):
            return (yield from steps)
        return (yield from self._resume_first(steps))

    def mmap(self, caller: Caller, offset: int, size: int, prot: int, shared: bool) -> Steps[Mapped]:
        """Map a region: EINVAL."""
        mapped = yield from regions.mmap(self.device.regions, offset, size, prot, shared)
        index, start = regions.place(offset)
        hides = self.device.model.maps_registers(index, start, size)
        return mapped._replace(hides=(self.label, index)) if hides else mapped

    def release(self) -> Steps[None]:
        """vfio_device_fops_release()."""
        return self.device.close()


def _get_info(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_GET_INFO: EFAULT, EINVAL. The driver says how much of the struct it writes."""
    argsz = int.from_bytes((yield from read_user(arg, _INFO_MINSZ))[:4], "little")
    if argsz < _INFO_MINSZ:
        raise IoctlError(errno.EINVAL, f"argsz {argsz} < {_INFO_MINSZ}")
    model = file.device.model
    info = model.info(argsz, len(file.device.regions.regions()))
    yield from write_user(arg, info.build()[: min(argsz, model.quirks.info_size)])
    return 0


def _get_region_info(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_GET_REGION_INFO: EFAULT, EINVAL."""
    return regions.get_region_info(file.device.regions, file.device.profile, arg)


def _get_irq_info(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_GET_IRQ_INFO: EFAULT, EINVAL."""
    return irqs.get_irq_info(file.device.model, arg)


def _set_irqs(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_SET_IRQS: EFAULT, EINVAL, EBADF, ENOTTY, the model's."""
    request = yield from irqs.read_request(file.device.model, arg)
    # One call at a time, as under igate of vfio-pci: vectors are set up one by one, with yields in between. A reset and a last
    # close take the lock as well.
    yield from locked(file.device.lock)
    try:
        result = yield from finish(file.device.model.set_irqs(request))
    finally:
        file.device.lock.release()
    return result or 0


def _reset(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_RESET, which takes no argument: EINVAL."""
    return file.device.reset()


def _get_pci_hot_reset_info(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: ENOTTY, the model's."""
    return file.device.model.ioctl(c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, arg)


def _pci_hot_reset(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_PCI_HOT_RESET: ENOTTY, the model's."""
    return file.device.model.ioctl(c.VFIO_DEVICE_PCI_HOT_RESET, arg)


def _ioeventfd(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_IOEVENTFD: ENOTTY, the model's."""
    return file.device.model.ioctl(c.VFIO_DEVICE_IOEVENTFD, arg)


def _feature(file: DeviceFile, caller: Caller, arg: int) -> Steps[int]:
    """VFIO_DEVICE_FEATURE: EFAULT, EINVAL, ENOTTY, the feature's."""
    return feature(file.device, caller, arg)


TABLE: Final[dispatch.Table[DeviceFile]] = {
    c.VFIO_DEVICE_GET_INFO: _get_info,
    c.VFIO_DEVICE_GET_REGION_INFO: _get_region_info,
    c.VFIO_DEVICE_GET_IRQ_INFO: _get_irq_info,
    c.VFIO_DEVICE_SET_IRQS: _set_irqs,
    c.VFIO_DEVICE_RESET: _reset,
    c.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: _get_pci_hot_reset_info,
    c.VFIO_DEVICE_PCI_HOT_RESET: _pci_hot_reset,
    c.VFIO_DEVICE_IOEVENTFD: _ioeventfd,
    c.VFIO_DEVICE_FEATURE: _feature,
}
