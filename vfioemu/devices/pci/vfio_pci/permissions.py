# SPDX-License-Identifier: MIT
"""The bits of config space that user space may see and change: the permission tables of drivers/vfio/pci/vfio_pci_config.c.

For each capability there are two masks. A *virtual* bit is answered from vfio-pci's own copy of config space, any other
from the hardware; a *write* bit can be changed, there or there. A capability without a table can be read and not
written; space that belongs to no capability is the hardware's, both ways.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vfioemu.devices.pci.hardware import registers as r

_ALL: Final = 0xFFFFFFFF


class Reads(enum.Enum):
    """The way a chunk is read."""

    MIXED = enum.auto()
    """vfio_default_config_read(): virtual bits from the copy, the others from the hardware."""
    DIRECT = enum.auto()
    """vfio_direct_config_read(): the hardware's, but for the id and the next pointer."""
    RAW = enum.auto()
    """vfio_raw_config_read(): the hardware's."""


class Writes(enum.Enum):
    """The effect of a write to a chunk beyond its bits."""

    NOTHING = enum.auto()
    """There is no write function: the caller's bytes are not even looked at."""
    RAW = enum.auto()
    MIXED = enum.auto()
    BASIC = enum.auto()
    PM = enum.auto()
    VPD = enum.auto()
    MSI = enum.auto()
    EXPRESS = enum.auto()
    AF = enum.auto()


@dataclass(frozen=True, slots=True)
class Permissions:
    """struct perm_bits.

    Attributes:
        virtual, write: the masks, byte by byte, from the capability's first byte.
        reads, writes: how.
    """

    virtual: bytes = b""
    write: bytes = b""
    reads: Reads = Reads.MIXED
    writes: Writes = Writes.MIXED

    def masks(self, offset: int, count: int) -> tuple[int, int]:
        """Return (virtual, write) of `count` bytes, as little-endian numbers."""
        stop = offset + count
        return (
            int.from_bytes(self.virtual[offset:stop], "little"),
            int.from_bytes(self.write[offset:stop], "little"),
        )


def _table(size: int, *rows: tuple[int, int, int, int], writes: Writes = Writes.MIXED) -> Permissions:
    """Build a table of rows (offset, width, virtual bits, writable bits)."""
    virtual, write = bytearray(size), bytearray(size)
    for offset, width, virtual_bits, write_bits in rows:
        mask = (1 << 8 * width) - 1
        virtual[offset : offset + width] = (virtual_bits & mask).to_bytes(width, "little")
        write[offset : offset + width] = (write_bits & mask).to_bytes(width, "little")
    return Permissions(bytes(virtual), bytes(write), writes=writes)


READ_ONLY: Final = Permissions(reads=Reads.DIRECT, writes=Writes.NOTHING)
"""direct_ro_perms: what a capability without a table gets."""
UNASSIGNED: Final = Permissions(reads=Reads.RAW, writes=Writes.RAW)
"""unassigned_perms."""
_VENDOR: Final = Permissions(reads=Reads.DIRECT, writes=Writes.RAW)

BASIC: Final = _table(  # init_pci_cap_basic_perm()
    r.HEADER_SIZE,
    (r.VENDOR_ID, 2, _ALL, 0),
    (r.DEVICE_ID, 2, _ALL, 0),
    (r.COMMAND, 2, r.COMMAND_INTX_DISABLE, _ALL),
    (r.STATUS, 2, r.STATUS_CAP_LIST, 0),
    (r.CACHE_LINE_SIZE, 1, 0, _ALL),
    (r.LATENCY_TIMER, 1, 0, _ALL),
    (r.BIST, 1, 0, _ALL),
    *((r.BASE_ADDRESS_0 + 4 * i, 4, _ALL, _ALL) for i in range(r.BAR_COUNT)),
    (r.ROM_ADDRESS, 4, _ALL, _ALL),
    (r.CAPABILITY_LIST, 1, _ALL, 0),
    (r.INTERRUPT_LINE, 1, _ALL, _ALL),
    (r.INTERRUPT_PIN, 1, _ALL, 0),
    writes=Writes.BASIC,
)
_PME: Final = r.PM_CTRL_PME_ENABLE | r.PM_CTRL_PME_STATUS
CAPABILITIES: Final[Mapping[int, Permissions]] = {  # the init_pci_cap_*_perm() functions
    r.CAP_ID_PM: _table(
        8,
        (r.CAP_NEXT, 1, _ALL, 0),
        (r.PM_PMC, 2, r.PM_CAP_PME_MASK, 0),
        (r.PM_CTRL, 4, _PME, ~(_PME | r.PM_CTRL_STATE)),
        writes=Writes.PM,
    ),
    r.CAP_ID_VPD: _table(
        8,
        (r.CAP_NEXT, 1, _ALL, 0),
        (r.VPD_ADDR, 2, _ALL, _ALL),
        (r.VPD_DATA, 4, _ALL, _ALL),
        writes=Writes.VPD,
    ),
    r.CAP_ID_PCIX: _table(24, (r.CAP_NEXT, 1, _ALL, 0), (2, 2, 0, _ALL), (8, 4, 0, _ALL)),
    r.CAP_ID_VNDR: _VENDOR,
    r.CAP_ID_EXP: _table(
        0x3C,
        (r.CAP_NEXT, 1, _ALL, 0),
        (
            r.EXP_DEVCTL,
            2,
            r.EXP_DEVCTL_FLR | r.EXP_DEVCTL_PAYLOAD | r.EXP_DEVCTL_READRQ,
            ~r.EXP_DEVCTL_PHANTOM,
        ),
        (r.EXP_DEVCTL2, 2, 0, ~r.EXP_DEVCTL2_ARI),
        writes=Writes.EXPRESS,
    ),
    r.CAP_ID_AF: _table(
        6, (r.CAP_NEXT, 1, _ALL, 0), (r.AF_CTRL, 1, r.AF_CTRL_FLR, r.AF_CTRL_FLR), writes=Writes.AF
    ),
}

_UNC: Final = 0x03FFF031
"""The uncorrectable errors that AER defines, up to a blocked TLP prefix."""
_COR: Final = 0x0000F1C1
"""The correctable ones, up to a header log overflow."""
EXTENDED: Final[Mapping[int, Permissions]] = {
    r.EXT_CAP_ID_ERR: _table(
        44,
        (0x00, 4, _ALL, 0),
        (0x04, 4, 0, _UNC),
        (0x08, 4, 0, _UNC),
        (0x0C, 4, 0, _UNC),
        (0x10, 4, 0, _COR),
        (0x14, 4, 0, _COR),
        (0x18, 4, 0, 0x140),
    ),
    r.EXT_CAP_ID_PWR: _table(16, (0x00, 4, _ALL, 0), (0x08, 1, 0, _ALL)),
    r.EXT_CAP_ID_VNDR: _VENDOR,
    r.EXT_CAP_ID_DVSEC: _VENDOR,
}

VARIABLE: Final = 0xFF
"""The length of a capability that says itself how long it is."""
LENGTHS: Final[Mapping[int, int]] = {  # pci_cap_length; a capability that is not here is hidden
    r.CAP_ID_PM: 8,
    r.CAP_ID_AGP: 12,
    r.CAP_ID_VPD: 8,
    r.CAP_ID_MSI: VARIABLE,
    r.CAP_ID_PCIX: VARIABLE,
    r.CAP_ID_HT: VARIABLE,
    r.CAP_ID_VNDR: VARIABLE,
    r.CAP_ID_EXP: VARIABLE,
    r.CAP_ID_MSIX: 12,
    r.CAP_ID_SATA: VARIABLE,
    r.CAP_ID_AF: 6,
}
EXTENDED_LENGTHS: Final[Mapping[int, int]] = {  # pci_ext_cap_length
    r.EXT_CAP_ID_ERR: 44,
    r.EXT_CAP_ID_VC: VARIABLE,
    r.EXT_CAP_ID_DSN: 12,
    r.EXT_CAP_ID_PWR: 16,
    r.EXT_CAP_ID_MFVC: VARIABLE,
    r.EXT_CAP_ID_VC9: VARIABLE,
    r.EXT_CAP_ID_VNDR: VARIABLE,
    r.EXT_CAP_ID_ACS: VARIABLE,
    r.EXT_CAP_ID_ARI: 8,
    r.EXT_CAP_ID_ATS: 8,
    r.EXT_CAP_ID_SRIOV: 64,
    r.EXT_CAP_ID_MCAST: 40,
    r.EXT_CAP_ID_PRI: 16,
    r.EXT_CAP_ID_REBAR: VARIABLE,
    r.EXT_CAP_ID_DPA: VARIABLE,
    r.EXT_CAP_ID_TPH: VARIABLE,
    r.EXT_CAP_ID_LTR: 8,
    r.EXT_CAP_ID_DVSEC: VARIABLE,
}


def msi(flags: int) -> Permissions:
    """init_pci_cap_msi_perm(): by the MSI flags of the function."""
    rows = [(r.CAP_NEXT, 1, _ALL, 0), (r.MSI_FLAGS, 1, _ALL, _ALL), (4, 4, _ALL, _ALL)]
    after = 8
    if flags & r.MSI_FLAGS_64BIT:
        rows.append((8, 4, _ALL, _ALL))
        after = 12
    rows.append((after, 2, _ALL, _ALL))
    if flags & r.MSI_FLAGS_MASKBIT:
        rows += [(after + 4, 4, 0, _ALL), (after + 8, 4, 0, _ALL)]
    return _table(msi_length(flags), *rows, writes=Writes.MSI)


def msi_length(flags: int) -> int:
    """vfio_msi_cap_len()."""
    length = 14 if flags & r.MSI_FLAGS_64BIT else 10
    return length + 10 if flags & r.MSI_FLAGS_MASKBIT else length
