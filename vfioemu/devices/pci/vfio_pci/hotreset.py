# SPDX-License-Identifier: MIT
"""Hot reset: all functions of a bus at once, for whoever owns all of their groups.

Kernel: vfio_pci_ioctl_get_pci_hot_reset_info(), vfio_pci_ioctl_pci_hot_reset_groups(), vfio_pci_dev_set_hot_reset(). Bus 0
is the root bus, which cannot be reset.
"""

import errno
from collections.abc import Iterable
from typing import Final

from vfioemu.core.base.effects import Breathe, EventFd, Steps, TakeFd, read_user, write_user
from vfioemu.core.base.errors import IoctlError, header_why
from vfioemu.core.files.group import GroupFile
from vfioemu.core.model.host import Neighbour
from vfioemu.devices.pci.vfio_pci import names
from vfioemu.uapi.structs import PciDependentDevice, PciHotReset, PciHotResetInfo

_FD_SIZE: Final = 4


def info(own: str, devices: Iterable[Neighbour], arg: int) -> Steps[int]:
    """Answer VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: EFAULT, EINVAL, ENODEV on the root bus, ENOSPC with the count."""
    asked = PciHotResetInfo.parse((yield from read_user(arg, PciHotResetInfo.SIZE)))
    if asked.argsz < PciHotResetInfo.SIZE:
        raise IoctlError(errno.EINVAL, f"argsz {asked.argsz} < {PciHotResetInfo.SIZE}")
    hit = _on_bus(own, devices)
    answer = PciHotResetInfo(argsz=asked.argsz, flags=0, count=len(hit)).build()
    room = (asked.argsz - PciHotResetInfo.SIZE) // PciDependentDevice.SIZE
    if len(hit) > room:
        yield from write_user(arg, answer)
        raise IoctlError(errno.ENOSPC, f"argsz {asked.argsz} has room for {room} of {len(hit)} functions")
    entries = b"".join(
        PciDependentDevice(
            group_id=device.group_number, segment=address.segment, bus=address.bus, devfn=address.devfn
        ).build()
        for address, device in hit
    )
    yield from write_user(arg + PciHotResetInfo.SIZE, entries)
    yield from write_user(arg, answer)
    return 0


def reset(own: str, devices: Iterable[Neighbour], arg: int) -> Steps[int]:
    """Answer VFIO_DEVICE_PCI_HOT_RESET: EFAULT, EINVAL, ENODEV on the root bus, EBADF."""
    asked = PciHotReset.parse((yield from read_user(arg, PciHotReset.SIZE)))
    if asked.argsz < PciHotReset.SIZE or asked.flags:
        raise IoctlError(errno.EINVAL, header_why(asked.argsz, PciHotReset.SIZE, asked.flags, 0))
    if not asked.count:
        raise IoctlError(errno.EINVAL, "count 0 is for devices that were opened without a group")
    hit = _on_bus(own, devices)
    if asked.count > len(hit):
        raise IoctlError(errno.EINVAL, f"count {asked.count}: the bus has {len(hit)} functions")
    data = yield from read_user(arg + PciHotReset.SIZE, asked.count * _FD_SIZE)
    groups = set()
    for i in range(0, len(data), _FD_SIZE):
        number = int.from_bytes(data[i : i + _FD_SIZE], "little", signed=True)
        taken = yield TakeFd(number)
        if not isinstance(taken, GroupFile):
            if isinstance(taken, EventFd):
                taken.close()
            raise IoctlError(errno.EINVAL, f"fd {number} is no group")
        groups.add(taken.group.number)
    for address, device in hit:
        if device.group_number not in groups:
            raise IoctlError(
                errno.EINVAL, f"{address} is in group {device.group_number}, which was not given"
            )
    for _, device in hit:
        yield from device.reset_by_bus()
        yield Breathe()
    return 0


def after_close(own: str, devices: Iterable[Neighbour]) -> Steps[None]:
    """vfio_pci_dev_set_try_reset(): the bus is reset when its last function was closed, if one could not be reset by itself."""
    here = names.parse(own)
    if here is None or not here.bus:
        return
    hit = [device for _, device in _on_bus(own, devices)]
    if any(device.open_count for device in hit) or not any(device.needs_reset for device in hit):
        return
    for device in hit:
        yield from device.reset_if_closed()
        yield Breathe()


def _on_bus(own: str, devices: Iterable[Neighbour]) -> list[tuple[names.Address, Neighbour]]:
    """List the functions of our bus, by slot: ENOTTY for what has no PCI address, ENODEV on the root bus."""
    here = names.parse(own)
    if here is None:
        raise IoctlError(errno.ENOTTY, f"device {own} is no PCI function")
    if not here.bus:
        raise IoctlError(errno.ENODEV, f"device {own} is on the root bus")
    hit = []
    for device in devices:
        address = names.parse(device.name)
        if address is not None and address[:2] == here[:2]:
            hit.append((address, device))
    return sorted(hit, key=lambda pair: pair[0])
