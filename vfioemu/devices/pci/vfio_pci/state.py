# SPDX-License-Identifier: MIT
"""The state of a function's config space as bytes, for migration.

Which eventfds user space has set is not part of it, nor are the bits that follow from it: it sets them again at the destination, and
a state that is saved again where it was loaded is the same as long as the guest has changed nothing. What is loaded may come from
anybody, so only bits are taken that the guest could have written itself.
"""

import errno
import struct
from typing import Final

from vfioemu.core.model.streams import StateLost
from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.config import ConfigSpace
from vfioemu.devices.pci.vfio_pci.virtual import VirtualConfig

_HEAD: Final = struct.Struct("<4sHHHBx")
_MAGIC: Final = b"PCI\x01"


def save(hardware: ConfigSpace, config: VirtualConfig, *, line: bool) -> bytes:
    """Pack registers, vfio-pci's copy of them, and whether INTx is asserted."""
    head = _HEAD.pack(
        _MAGIC, len(hardware.data), hardware.read(r.VENDOR_ID, 2), hardware.read(r.DEVICE_ID, 2), line
    )
    registers = bytearray(hardware.data)
    for place, mask in _driven_by_host(hardware).items():
        registers[place] &= ~mask & 0xFF
    return head + bytes(registers) + bytes(config.copy)


def size(hardware: ConfigSpace) -> int:
    """Return the bytes that `save` gives."""
    return _HEAD.size + 2 * len(hardware.data)


def load(data: bytes, hardware: ConfigSpace, config: VirtualConfig) -> bool:
    """Take a state over; return whether INTx is asserted.

    Raises:
        StateLost: EINVAL for anything but the state of such a function; nothing has been changed.
    """
    length = len(hardware.data)
    if len(data) != size(hardware):
        raise StateLost(errno.EINVAL, f"a PCI state of {len(data)} bytes, not {size(hardware)}")
    magic, config_size, vendor, device, line = _HEAD.unpack_from(data)
    own = (_MAGIC, length, hardware.read(r.VENDOR_ID, 2), hardware.read(r.DEVICE_ID, 2))
    if (magic, config_size, vendor, device) != own or line > 1:
        raise StateLost(
            errno.EINVAL, f"the PCI state of {vendor:04x}:{device:04x}, not {own[2]:04x}:{own[3]:04x}"
        )
    registers = data[_HEAD.size : _HEAD.size + length]
    kept = _driven_by_host(hardware)
    for i, value in enumerate(registers):
        mask = hardware.mask[i] & ~kept.get(i, 0)
        hardware.data[i] = hardware.data[i] & ~mask | value & mask
    config.load(data[_HEAD.size + length :])
    return bool(line)


def _driven_by_host(hardware: ConfigSpace) -> dict[int, int]:
    """Return the bits that follow from which interrupts are enabled here: byte -> mask."""
    kept = {r.COMMAND + 1: r.COMMAND_INTX_DISABLE >> 8}
    if (msi := hardware.caps.get(r.CAP_ID_MSI)) is not None:
        kept[msi + r.MSI_FLAGS] = r.MSI_FLAGS_ENABLE
    if (msix := hardware.caps.get(r.CAP_ID_MSIX)) is not None:
        kept[msix + r.MSIX_FLAGS + 1] = r.MSIX_FLAGS_ENABLE >> 8
    return kept
