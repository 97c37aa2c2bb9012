# SPDX-License-Identifier: MIT
"""The lengths of capabilities of a function, those included that say it themselves: vfio_cap_len(), vfio_ext_cap_len()."""

from typing import Final

from vfioemu.devices.pci.hardware import registers as r
from vfioemu.devices.pci.hardware.config import ConfigSpace
from vfioemu.devices.pci.vfio_pci import permissions

_VC_BASE: Final = 16
_VC_EACH: Final = 12
_VC_PHASES: Final = ((0x8, 128), (0x4, 64), (0x2, 32))
_TPH_BASE: Final = 12
_DPA_BASE: Final = 16


def capability_length(hardware: ConfigSpace, cap: int, at: int) -> int:
    """Return the bytes of a capability, 0 for one that vfio-pci does not know and hides: vfio_cap_len()."""
    length = permissions.LENGTHS.get(cap, 0)
    if length != permissions.VARIABLE:
        return length
    flags = hardware.read(at + r.CAP_FLAGS, 2)
    if cap == r.CAP_ID_MSI:
        return permissions.msi_length(flags)
    if cap == r.CAP_ID_PCIX:
        return 24 if flags & 0x3000 else 8
    if cap == r.CAP_ID_VNDR:
        return flags & 0xFF
    if cap == r.CAP_ID_EXP:
        integrated = flags >> r.EXP_TYPE_SHIFT & 0xF == r.EXP_TYPE_RC_END
        if flags & r.EXP_FLAGS_VERSION == 1:
            return 0xC if integrated else 0x14
        return 0x2C if integrated else 0x3C
    if cap == r.CAP_ID_HT:
        return 24 if flags >> 8 & 0xE0 else 28
    return 16 if hardware.read(at + 4, 1) & 0xF == 0xF else 8  # SATA


def extended_length(hardware: ConfigSpace, cap: int, at: int) -> int:
    """Return the bytes of an extended capability, 0 for one that vfio-pci does not know and hides: vfio_ext_cap_len()."""
    length = permissions.EXTENDED_LENGTHS.get(cap, 0)
    if length != permissions.VARIABLE:
        return length
    first = hardware.read(at + 4, 4)
    if cap in (r.EXT_CAP_ID_VNDR, r.EXT_CAP_ID_DVSEC):
        return first >> 20
    if cap in (r.EXT_CAP_ID_VC, r.EXT_CAP_ID_VC9, r.EXT_CAP_ID_MFVC):
        length = _VC_BASE + (1 + (first & 7)) * _VC_EACH
        arbitration = hardware.read(at + 8, 4)
        phases = next((phases for bit, phases in _VC_PHASES if arbitration & bit), 0)
        return -(-length // 16) * 16 + phases // 2 if phases else length
    if cap == r.EXT_CAP_ID_ACS:
        if not first & 0x20:
            return 8
        bits = first >> 8 & 0xFF
        return 8 + (-(-bits // 32) * 32 if bits else 256) // 8
    if cap == r.EXT_CAP_ID_REBAR:
        return 4 + (hardware.read(at + 8, 1) >> 5) * 8
    if cap == r.EXT_CAP_ID_DPA:
        return _DPA_BASE + (first & 0x1F) + 1
    if first & 0x600 == 0x200:  # TPH with its steering tags in the capability
        return _TPH_BASE + (first >> 16 & 0x7FF) * 2 + 2
    return _TPH_BASE
