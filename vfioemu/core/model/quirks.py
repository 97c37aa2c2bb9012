# SPDX-License-Identifier: MIT
"""Where the kernel's drivers of devices differ in what they answer: each driver says so once, and its models have it.

None of it is a device's: two cards with the same driver answer alike. What differs between kernel releases is in the profile.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverQuirks:
    """The peculiarities of a driver; the defaults are those of a plain mdev driver.

    Attributes:
        info_size: how many bytes of vfio_device_info GET_INFO writes: 16 up to num_irqs (mdev drivers), or 24.
        keeps_cap_offset: GET_REGION_INFO fills in the struct that it has read: without capabilities the caller's
            cap_offset is left in it, in a release of which `region_info_keeps_cap_offset` is true. Else it is 0.
        moves_position: read() and write() without an offset advance the file's position.
        keeps_migration_state: the last close ends sessions, but leaves the migration state as it is.
        pieces_below: accesses to regions with an index below this are made as the kernel's mdev samples make them: in
            naturally aligned pieces of 4, 2 and 1 bytes, wherever they are; any failure is EFAULT.
    """

    info_size: int = 16
    keeps_cap_offset: bool = False
    moves_position: bool = False
    keeps_migration_state: bool = False
    pieces_below: int = 0


PLAIN: Final = DriverQuirks()
